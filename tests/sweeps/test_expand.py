"""Expansion against nested loops: counts, order, unique keys, block addressing, a reason for what is left out."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscout.sweeps.cases import Case, CaseColumns, task_keys
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.spec.rules import parse_rules
from gpuscout.sweeps.sweep import EnginePart, Sweep, SweptModel
from gpuscout.sweeps.workloads import Workload

MODELS = [
    ModelCatalogue.load().get(name)
    for name in (
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen2.5-7B-Instruct",  # 28 heads
        "Qwen/Qwen3-30B-A3B",
        "Qwen/Qwen3-32B-FP8",
        "deepseek-ai/DeepSeek-V3",
    )
]
GPUS = [GPUCatalogue.load().resolve(name) for name in ("L40S", "H100", "MI300X", "GB200", "H100-NVL-94GB")]
ROOFLINE = EnginePart("roofline", "1", {}, (1, 2, 4), 7)


def sizes(*values: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)


precisions = st.lists(
    st.sampled_from([None, Precision.BF16, Precision.FP8, Precision.INT4_WEIGHT_ONLY]),
    min_size=1,
    max_size=3,
    unique=True,
).map(tuple)
workloads = st.lists(
    st.builds(Workload, st.uuids().map(str), st.integers(1, 50_000), st.integers(1, 4_000), st.just("")),
    min_size=1,
    max_size=3,
    unique_by=lambda workload: workload.name,
).map(tuple)
rules = st.lists(
    st.sampled_from(
        [
            {"gpu": "L40S", "tensor_parallel": "> 2"},
            {"model": "*Qwen3*", "precision": "fp8"},
            {"num_gpus": ">= 8"},
            {"vendor": "AMD"},
            {"family": ["Hopper", "Ada"], "input_len": "> 1000"},
            {"engine": "other"},
            {"max_model_len": "< 4096"},
        ]
    ),
    max_size=2,
    unique_by=str,
).map(parse_rules)


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    models = draw(st.lists(st.sampled_from(MODELS), min_size=1, max_size=3, unique=True))
    zipped: tuple[tuple[str, ...], ...] = ()
    tensor_parallel = draw(st.one_of(st.none(), sizes(1, 2, 3, 4, 8)))
    expert_parallel = draw(sizes(1, 2, 8))
    if draw(st.booleans()):
        tensor_parallel, expert_parallel = (1, 2, 4), (1, 2, 2)
        zipped = (("tensor_parallel", "expert_parallel"),)
    return Sweep(
        name="random",
        models=tuple(
            SweptModel(model, precision=draw(st.one_of(st.none(), precisions)), kv_precision=None) for model in models
        ),
        gpus=tuple(draw(st.lists(st.sampled_from(GPUS), min_size=1, max_size=3, unique_by=lambda gpu: gpu.name))),
        engines=tuple(
            EnginePart(name, "1", {}, (1, 2), draw(st.integers(1, 40)))
            for name in draw(st.sampled_from([["roofline"], ["roofline", "other"]]))
        ),
        workloads=draw(workloads),
        servers=draw(st.sampled_from([("vllm",), ("vllm", "sglang")])),
        precision=draw(precisions),
        kv_precision=draw(st.sampled_from([(None,), (None, Precision.FP8), (Precision.BF16, None)])),
        tensor_parallel=tensor_parallel,
        pipeline_parallel=draw(sizes(1, 2, 50)),
        data_parallel=draw(sizes(1, 2, 4)),
        expert_parallel=expert_parallel,
        max_model_len=draw(st.sampled_from([(None,), (None, 8192), (4096,), (200_000,)])),
        zipped=zipped,
        exclude=draw(rules),
        only=draw(rules),
        max_gpus=draw(st.sampled_from([None, 8])),
    )


def naive(sweep: Sweep) -> Iterator[tuple[str, Case, bool]]:
    """Every combination that was asked for, in order: the engine, the case, whether it can run."""
    automatic = [1 << power for power in range(10)]
    sizes = list(itertools.product(sweep.expert_parallel, sweep.tensor_parallel or automatic))
    if sweep.zipped:
        assert sweep.tensor_parallel is not None
        sizes = list(zip(sweep.expert_parallel, sweep.tensor_parallel, strict=True))
    # The order of the sweep's own precisions stands, whatever the order of a model's own list.
    own = dict.fromkeys(p for swept in sweep.models for p in swept.precision or ())
    axis = list(dict.fromkeys([*sweep.precision, *own]))
    for part in sweep.engines:
        seen: set[tuple[object, ...]] = set()
        for swept, gpu, server in itertools.product(sweep.models, sweep.gpus, sweep.servers):
            model = swept.architecture
            for precision, kv, pp, dp in itertools.product(
                [p for p in axis if p in (swept.precision or sweep.precision)],
                sweep.kv_precision,
                sweep.pipeline_parallel,
                sweep.data_parallel,
            ):
                for ep, tp in sizes:
                    if sweep.tensor_parallel is None and (
                        tp > gpu.fast_link_gpus or tp not in model.tensor_parallel_sizes(tp)
                    ):
                        continue
                    for limit, workload in itertools.product(sweep.max_model_len, sweep.workloads):
                        case = Case(
                            model=model,
                            gpu=gpu,
                            input_len=workload.input_len,
                            output_len=workload.output_len,
                            precision=precision or model.precision,
                            kv_precision=kv or model.kv_precision,
                            tensor_parallel=tp,
                            pipeline_parallel=pp,
                            data_parallel=dp,
                            expert_parallel=ep,
                            server=server,
                            max_model_len=limit or workload.input_len + workload.output_len,
                        )
                        identity = tuple(vars(case).values())
                        if identity not in seen:
                            seen.add(identity)
                            yield part.name, case, runs(sweep, part.name, case)


def runs(sweep: Sweep, engine: str, case: Case) -> bool:
    values = {
        "engine": engine,
        "model": case.model.name,
        "gpu": case.gpu.name,
        "vendor": case.gpu.vendor,
        "family": case.gpu.family,
        "precision": case.precision,
        "tensor_parallel": case.tensor_parallel,
        "num_gpus": case.num_gpus,
        "input_len": case.input_len,
        "max_model_len": case.context_len,
    }

    def matches(rule):
        return all(condition.matches(values[name]) for name, condition in rule.conditions.items())

    return (
        not any(matches(rule) for rule in sweep.exclude)
        and (not sweep.only or any(matches(rule) for rule in sweep.only))
        and case.tensor_parallel in case.model.tensor_parallel_sizes(case.tensor_parallel)
        and case.pipeline_parallel <= case.model.layers
        and (case.expert_parallel == 1 or (case.model.is_moe and case.model.experts % case.expert_parallel == 0))
        and case.tensor_parallel * case.data_parallel % case.expert_parallel == 0
        and case.input_len + case.output_len <= case.context_len <= (case.model.max_context or 10**18)
        and case.num_gpus <= (sweep.max_gpus or 10**9)
    )


def all_cases(expansion: Expansion) -> list[tuple[str, Case]]:
    return [
        (expansion.sweep.engines[expansion.engine_of(number)].name, cases.case(row))
        for number, cases in enumerate(expansion.blocks())
        for row in range(len(cases))
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(sweeps())
def test_blocks_hold_what_nested_loops_give_in_the_same_order(sweep: Sweep) -> None:
    assert all_cases(Expansion(sweep)) == [(engine, case) for engine, case, can_run in naive(sweep) if can_run]


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(sweeps())
def test_census_counts_every_block_and_gives_a_reason_for_everything_else(sweep: Sweep) -> None:
    expansion = Expansion(sweep)
    census = expansion.census()
    asked = list(naive(sweep))
    assert census.block_tasks.tolist() == [len(block) for block in expansion.blocks()]
    assert len(census.block_tasks) == expansion.block_count
    assert census.combinations == len(asked)
    assert census.excluded == sum(not can_run for _, _, can_run in asked)
    assert all(exclusion.reason and exclusion.detail for exclusion in census.exclusions)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(sweeps())
def test_keys_are_unique_and_do_not_depend_on_how_blocks_are_cut(sweep: Sweep) -> None:
    def keys(sweep: Sweep) -> list[bytes]:
        expansion = Expansion(sweep)
        found = []
        for number, cases in enumerate(expansion.blocks()):
            part = sweep.engines[expansion.engine_of(number)]
            found += task_keys(
                cases.digests(), engine=part.name, fingerprint=part.fingerprint, options_digest=part.options_digest
            )
        return found

    ours = keys(sweep)
    assert len(set(ours)) == len(ours)
    assert ours == keys(replace(sweep, engines=tuple(replace(part, block_size=11) for part in sweep.engines)))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(sweeps(), st.randoms(use_true_random=False))
def test_a_block_is_found_without_the_others(sweep: Sweep, random) -> None:
    blocks = [block.digests() for block in Expansion(sweep).blocks()]
    order = list(range(len(blocks)))
    random.shuffle(order)
    for number in order:
        assert Expansion(sweep).block(number).digests() == blocks[number]


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(sweeps())
def test_columns_and_single_cases_have_the_same_digests(sweep: Sweep) -> None:
    for block in Expansion(sweep).blocks():
        cases = [block.case(row) for row in range(len(block))]
        assert CaseColumns.of(cases).digests() == block.digests()


def plain(**changes: object) -> Sweep:
    return replace(
        Sweep(
            name="plain",
            models=(SweptModel(MODELS[0]),),
            gpus=(GPUS[1],),
            engines=(ROOFLINE,),
            workloads=(Workload("chat", 1024, 512, ""),),
            tensor_parallel=(1, 2),
        ),
        **changes,  # type: ignore[arg-type]
    )


def test_a_block_outside_the_sweep_is_an_error() -> None:
    with pytest.raises(IndexError):
        Expansion(plain()).block(1)


def test_reasons_name_the_model_and_the_figures() -> None:
    census = Expansion(
        plain(models=(SweptModel(MODELS[1]),), tensor_parallel=(1, 3, 8), expert_parallel=(1, 2))
    ).census()
    told: Counter[tuple[str, str | None]] = Counter()
    for exclusion in census.exclusions:
        told[exclusion.reason, exclusion.model] += exclusion.combinations
    assert told["TP does not divide the model", "Qwen/Qwen2.5-7B-Instruct"] == 4
    assert told["EP needs a mixture of experts", "Qwen/Qwen2.5-7B-Instruct"] == 1
    assert any("28 attention heads" in exclusion.detail for exclusion in census.exclusions)


def test_auto_stays_within_the_fast_link_without_counting_the_rest() -> None:
    census = Expansion(plain(gpus=(GPUS[1], GPUS[4]), tensor_parallel=None)).census()
    assert census.tasks == 4 + 2  # H100 SXM: 1, 2, 4, 8; H100 NVL, bridged in pairs: 1, 2
    assert census.exclusions == ()


@pytest.mark.slow
def test_ten_million_tasks_are_counted_in_bounded_memory() -> None:
    """In a process of its own, whose memory is limited to 1.5 GiB of addresses."""
    program = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.sweep import EnginePart, Sweep, SweptModel
from gpuscout.sweeps.workloads import Workload
from tests.support.memory import peak_mib
catalogue = ModelCatalogue.load()
sweep = Sweep(
    name="large",
    models=tuple(SweptModel(catalogue.get(name)) for name in catalogue.names()),
    gpus=tuple(GPUCatalogue.load()),
    engines=(EnginePart("roofline", "1", {}, (1, 2), 4096),),
    workloads=tuple(Workload(str(i), 100 + i, 100, "") for i in range(600)),
    tensor_parallel=(1, 2, 4, 8),
)
expansion = Expansion(sweep)
census = expansion.census()
assert census.combinations >= 10_000_000, census.combinations
last = max(number for number, tasks in enumerate(census.block_tasks.tolist()) if tasks)
assert len(expansion.block(last)) == census.block_tasks[last]
print(peak_mib())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 400


def test_the_digest_covers_what_is_asked_and_nothing_else() -> None:
    base = plain()
    assert base.digest() == plain().digest()
    changed = [
        plain(name="other"),
        plain(tensor_parallel=(1, 2, 4)),
        plain(tensor_parallel=None),
        plain(engines=(replace(ROOFLINE, fingerprint="2"),)),
        plain(engines=(replace(ROOFLINE, ladder=(1, 2, 4, 8)),)),
        plain(gpus=(replace(GPUS[1], memory_gb=81.0),)),
        plain(exclude=parse_rules([{"num_gpus": 1}])),
        plain(max_gpus=4),
    ]
    assert len({base.digest(), *(sweep.digest() for sweep in changed)}) == len(changed) + 1
    assert plain(gpus=(replace(GPUS[1], notes=("a note",), aliases=()),)).digest() == base.digest()
