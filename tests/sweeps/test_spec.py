"""Sweep specs: what is accepted, what it comes to, and what each mistake is told."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gpuscout.sweeps.errors import InputError, SpecError, SpecProblem
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.slo import Slo, parse_slo
from gpuscout.sweeps.spec import axes
from gpuscout.sweeps.spec.faults import InvalidValue
from gpuscout.sweeps.spec.rules import parse_rules
from gpuscout.sweeps.spec.spec import (
    InvalidSpecError,
    SweepSpec,
    load_spec,
    parse_spec,
    spec_from_mapping,
    spec_json_schema,
)
from gpuscout.sweeps.spec.starter import example_names, example_spec, starter_spec
from gpuscout.sweeps.workloads import PRESETS

LAUGHS = "a: &a [1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{earlier}'] * 10)}]\n" for earlier, name in pairwise("abcdefgh")
)
BASE = "name: a\nmodels: [m]\ngpus: [g]\nworkloads: chat\n"


def problems(text: str, file: str | None = "s.yaml") -> tuple[SpecProblem, ...]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, file=file)
    return caught.value.problems


def only_problem(text: str) -> SpecProblem:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_defaults() -> None:
    spec = parse_spec(BASE)
    assert spec.name == "a"
    assert [entry.model for entry in spec.models] == ["m"]
    assert [entry.name for entry in spec.gpus] == ["g"]
    assert spec.workloads == (PRESETS["chat"],)
    assert [(engine.name, engine.options) for engine in spec.engines] == [("roofline", {})]
    assert spec.servers == ("vllm",)
    assert spec.tensor_parallel == "auto"
    assert spec.pipeline_parallel == spec.data_parallel == spec.expert_parallel == (1,)
    assert spec.precision == spec.kv_precision == ("native",)
    assert spec.gpu_memory_utilization == (0.9,)
    assert spec.max_model_len == (None,)
    assert spec.concurrency is None
    assert (spec.zip, spec.exclude, spec.only, spec.slo) == ((), (), (), ())
    assert (spec.limits.max_gpus, spec.limits.max_tasks, spec.objective) == (None, None, None)


def test_every_key() -> None:
    spec = parse_spec(
        """
        name: full
        description: "everything\\nat once"
        models: [Qwen/*, {model: a/b, precision: fp8, kv_precision: [native, fp8], revision: "1", name: c}]
        gpus: [H100, "RTX*", {vendor: AMD, family: CDNA3, name: "MI*", min_memory_gb: 100}]
        gpu_file: own.yaml
        engines: [roofline, {name: other, level: 3, nested: {a: [1, x]}}]
        servers: [vllm, sglang]
        tensor_parallel: {from: 1, to: 8, factor: 2}
        pipeline_parallel: 2
        data_parallel: {from: 1, to: 5, step: 2}
        expert_parallel: [4, 1]
        precision: [native, int4-weight-only]
        kv_precision: fp8
        gpu_memory_utilization: {from: 0.8, to: 0.95, step: 0.05}
        max_model_len: [null, 8192]
        workloads: [chat, {name: mine, input_len: 10, output_len: [1, 2]}, {input_len: 7, output_len: 8}]
        concurrency: [8, 1, 2]
        zip: [servers, expert_parallel]
        exclude: {gpu: L4, tensor_parallel: "> 4"}
        only: [{model: "*70B*"}, {num_gpus: [1, 2]}]
        limits: {max_gpus: 8, max_tasks: 100}
        objective: throughput
        slo: [ttft<0.5s, itl <= 30 ms]
        """
    )
    assert spec.models[1].precision == (Precision.FP8,)
    assert spec.models[1].kv_precision == ("native", Precision.FP8)
    assert spec.gpus[2].min_memory_gb == 100
    assert spec.engines[1].options == {"level": 3, "nested": {"a": [1, "x"]}}
    assert spec.tensor_parallel == (1, 2, 4, 8)
    assert spec.pipeline_parallel == (2,)
    assert spec.data_parallel == (1, 3, 5)
    assert spec.expert_parallel == (4, 1)
    assert spec.precision == ("native", Precision.INT4_WEIGHT_ONLY)
    assert spec.gpu_memory_utilization == (0.8, 0.85, 0.9, 0.95)
    assert spec.max_model_len == (None, 8192)
    assert [w.name for w in spec.workloads] == ["chat", "mine-10x1", "mine-10x2", "7x8"]
    assert spec.concurrency == (1, 2, 8)
    assert spec.zip == (("servers", "expert_parallel"),)
    assert str(spec.exclude[0]) == "gpu = L4, tensor_parallel > 4"
    assert spec.slo == (Slo("ttft", 500.0), Slo("itl", 30.0))
    assert parse_spec(spec.to_yaml()) == spec
    assert spec_from_mapping(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("workloads", "expected"),
    [
        ("chat", [("chat", 1024, 512)]),
        ("[Code completion]", [("code-completion", 2048, 128)]),
        ("{chat: , mine: {input_len: 3, output_len: 4}}", [("chat", 1024, 512), ("mine", 3, 4)]),
        ("{name: mine, input_len: 3, output_len: 4}", [("mine", 3, 4)]),
        ("{input_len: {from: 1, to: 2}, output_len: 4}", [("1x4", 1, 4), ("2x4", 2, 4)]),
        ("{input_len: {input_len: 3, output_len: 4}}", [("input_len", 3, 4)]),
    ],
)
def test_forms_of_workloads(workloads: str, expected: list[tuple[str, int, int]]) -> None:
    spec = parse_spec(BASE.replace("workloads: chat", f"workloads: {workloads}"))
    assert [(w.name, w.input_len, w.output_len) for w in spec.workloads] == expected


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        """\
models:
  - m
  - {model: x, precision: [fp9]}
gpus: [no, {vendr: AMD}]
tensor_parallel: [1, "2", 2.5, 0]
workload: chat
exclude:
  - {gpu: L4, tp: 3}
slo: itl>=30ms
""",
    )
    assert [(p.line, p.column, p.key) for p in found] == [
        (1, 1, "name"),
        (3, 28, "models[1].precision[0]"),
        (4, 8, "gpus[0]"),
        (4, 13, "gpus[1]"),
        (5, 22, "tensor_parallel[1]"),
        (5, 27, "tensor_parallel[2]"),
        (5, 32, "tensor_parallel[3]"),
        (6, 1, None),
        (8, 15, "exclude[0]"),
        (9, 6, "slo"),
    ]
    assert all(p.file == "s.yaml" for p in found)
    assert str(found[7]) == 's.yaml:6:1  unknown key "workload"; did you mean "workloads"?'
    assert found[0].hint == "every sweep has a name of its own, for example name: s"
    assert found[1].message == 'unknown precision "fp9"'
    assert (found[1].hint or "").startswith("did you mean fp8 or fp4?   allowed: fp32, ")
    assert "YAML reads yes, no, on and off as true or false" in (found[2].hint or "")
    assert found[9].hint == "write itl<=30ms"


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("9e-1", "YAML reads 9e-1 as text; write 0.9"),
        ("1.5e3", "YAML reads 1.5e3 as text; write 1500"),
        ("1e3", "YAML reads 1e3 as text; write 1000"),
        ("'0.9'", "a number needs no quotes"),
        ("90%", "a share is a fraction; write 0.9"),
        ("nan", None),
        ("most", None),
    ],
)
def test_numbers_that_yaml_reads_as_text(written: str, hint: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(
            f"name: hints\nmodels: Qwen/Qwen3-8B\ngpus: H100\nworkloads: chat\ngpu_memory_utilization: {written}\n"
        )
    assert [problem.hint for problem in caught.value.problems] == [hint]


@pytest.mark.parametrize(
    ("line", "place", "says"),
    [
        ("tensor_parallel: [1, 2, 1]", "5:25  tensor_parallel[2]", "1 is listed twice"),
        ("precision: [nvfp4, mxfp4]", "5:20  precision[1]", "mxfp4 is fp4, which is listed already"),
        ("precision: [fp8, bf16, FP8]", "5:24  precision[2]", "fp8 is listed twice"),
        ("tensor_parallel: [auto, 2]", "5:19  tensor_parallel[0]", "stands alone"),
        ("tensor_parallel: four", "5:18  tensor_parallel", 'found the text "four"'),
        ("tensor_parallel: []", "5:18  tensor_parallel", "the list is empty"),
        ("tensor_parallel: 1e3", "5:18  tensor_parallel", 'found the text "1e3"'),
        ("tensor_parallel: 1:30", "5:18  tensor_parallel", "a number to base 60"),
        ("tensor_parallel: 010", "5:18  tensor_parallel", "a number to base 8"),
        ("tensor_parallel: yes", "5:18  tensor_parallel", "found true"),
        ("pipeline_parallel:", "5:19  pipeline_parallel", "found nothing"),
        ("pipeline_parallel: {from: 4, to: 1}", "5:20  pipeline_parallel", "`from` (4) is more than `to` (1)"),
        ("pipeline_parallel: {from: 4}", "5:20  pipeline_parallel", "the range lacks `to`"),
        ("pipeline_parallel: {from: 1, to: 4, factor: 1}", "5:45  pipeline_parallel.factor", "a factor is more than 1"),
        ("pipeline_parallel: {from: 1, to: 4, step: 0}", "5:43  pipeline_parallel.step", "a step is more than 0"),
        ("pipeline_parallel: {from: 1, to: 4, step: 1, factor: 2}", "5:46  pipeline_parallel.factor", "not both"),
        ("concurrency: {from: 1, to: 100000}", "5:14  concurrency", "more than 10,000 values"),
        ("gpu_memory_utilization: 90", "5:25  gpu_memory_utilization", "more than 0 up to 1"),
        ("gpu_memory_utilization: {from: 0.1, to: 1}", "5:25  gpu_memory_utilization", "lacks `step` or `factor`"),
        ("max_model_len: .inf", "5:16  max_model_len", "not a usable number"),
        ("servers: [vlm]", "5:11  servers[0]", 'unknown server "vlm"'),
        ("engine: {name: x, options: {a: 1}}", "5:19  engine.options", "beside its name"),
        ("engine: [a, b]", "5:1  engine", "`engines` takes a list"),
        ("engine: a\nengines: [a]", "5:1  engine", "both given"),
        ("objective: costs", "5:12  objective", 'unknown objective "costs"'),
        ("slo: [itl<=3, itl<=4]", "5:15  slo[1]", '"itl" is listed twice'),
        ("limits: {max_gpu: 3}", "5:10  limits", 'unknown key "max_gpu"; did you mean "max_gpus"?'),
        ("limits: 3", "5:9  limits", "expected a mapping"),
        ("zip: [[gpus, concurrency]]", "5:14  zip[0][1]", "concurrency cannot be zipped"),
        ("zip: [gpus, tensor_parallel]", "5:13  zip[1]", "its sizes are automatic"),
        ("gpus: [x]", "5:1", '"gpus" is given twice; the first one is in line 3'),
        ("exclude: {workload: chta}", "5:21  exclude.workload", 'unknown workload of this sweep "chta"'),
        ("exclude: {workload: 'chta*'}", "5:21  exclude.workload", 'unknown workload of this sweep "chta*"'),
        ("exclude: [{}]", "5:11  exclude[0]", "would match everything"),
        ("exclude: [{precision: native}]", "5:23  exclude[0].precision", 'cannot name "native"'),
        ("exclude: [{gpu: '> 4'}]", "5:17  exclude[0].gpu", "compares numbers, and gpu is a name"),
        ("exclude: [{num_gpus: '> x'}]", "5:22  exclude[0].num_gpus", "a comparison with a number"),
        ("exclude: [{num_gpus: ['!= 1', 2]}]", "5:23  exclude[0].num_gpus[0]", "matches nearly everything"),
        ("exclude: {num_gpus: > 4}", "5:21", "starts with > needs quotes"),
        ("exclude: {num_gpus: != 4}", "5:21  exclude.num_gpus", "a comparison needs quotes"),
        ("exclude: {gpu: *FP8*}", "5:20", "starts with * or & needs quotes"),
        ("exclude: {gpu: *FP8}", "5:16", "starts with * or & needs quotes"),
        ("description: a: b", "5:15", "a colon where YAML expects none"),
        ("description: @a", "5:14", "starts with @ needs quotes"),
        ("description: 'a", "5:14", "quotation mark"),
        ("description: !!python/name:os x", "5:14  description", "is not allowed"),
        ("\tdescription: a", "5:1", "indented with spaces"),
        ("servers: [vllm", "6:1", "opened with [ is not closed"),
        ("nonsense", "6:1", "a key without a colon"),
        ("---\nname: b", "5:1", "one YAML document"),
        ("tensor_parallel: 1e999", "5:18  tensor_parallel", 'found the text "1e999"'),
        ("extends: missing.yaml", "5:10  extends", "missing.yaml: cannot read the spec: No such file"),
    ],
)  # fmt: skip
def test_mistakes(line: str, place: str, says: str) -> None:
    found = problems(f"{BASE}{line}\n")
    assert any(str(p).startswith(f"s.yaml:{place}") and says in p.message for p in found), [str(p) for p in found]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the spec is empty"),
        ("# nothing\n", "the spec is empty"),
        ("- a\n", "found a list"),
        ("hello", 'found the text "hello"'),
        ("a: \x00", "U+0000"),
        ("a: \ud800", "U+D800"),
        ("[" * 100_000, "30 levels deep"),
        ("a: &a [*a]", "contains itself"),
        (LAUGHS, "more than 100,000 values"),
        ("a: b\n" * 300_000, "larger than 1 MB"),
        ("a: " + "9" * 10_000, "not a usable number"),
    ],
)  # fmt: skip
def test_hostile_and_damaged_text(text: str, says: str) -> None:
    assert any(says in p.message and p.line for p in problems(text))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(b"name: a\ndescription: caf\xe9\n")
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert str(caught.value.problems[0]).startswith(f"{file}:2:17  the byte 0xe9 is not UTF-8")
    for missing in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SpecError, match="cannot read the spec"):
            load_spec(missing)
    file.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_spec(file).name == "a"


def test_yaml_that_means_what_it_says() -> None:
    spec = parse_spec(
        "name: 2024-01-01\nmodels: &m [a, b]\ngpus: [g]\n"
        "workloads: {<<: {chat: }, no: {input_len: 1_000, output_len: 0x10}}\n"
        "engine: {name: e, models: *m}\n"
    )
    assert spec.name == "2024-01-01"
    assert spec.engines[0].options == {"models": ["a", "b"]}
    assert [(w.name, w.input_len, w.output_len) for w in spec.workloads] == [("chat", 1024, 512), ("no", 1000, 16)]


def test_zip_checks_lengths_and_repetitions() -> None:
    spec = parse_spec(
        BASE + "tensor_parallel: [8, 4, 8]\ndata_parallel: [1, 2, 2]\nzip: [tensor_parallel, data_parallel]\n"
    )
    assert (spec.tensor_parallel, spec.data_parallel) == ((8, 4, 8), (1, 2, 2))
    assert parse_spec(spec.to_yaml()) == spec
    axes_ = "tensor_parallel: [1, 2, 1]\ndata_parallel: {}\nzip: [[tensor_parallel, data_parallel]]\n"
    assert "tensor_parallel has 3, data_parallel has 2" in only_problem(BASE + axes_.format("[1, 2]")).message
    assert "come to 1, 3 twice" in only_problem(BASE + axes_.format("[3, 4, 3]")).message
    text = BASE.replace("[g]", "[H*, x]") + "tensor_parallel: [1, 2]\nzip: [[gpus, tensor_parallel]]\n"
    assert '"H*" may stand for any number of GPUs' in only_problem(text).message
    text = BASE.replace("[m]", "[{model: m, precision: fp8}, n]") + "precision: [fp8, bf16]\nzip: [precision, models]\n"
    problem = only_problem(text)
    assert (problem.key, problem.line) == ("models[0].precision", 2)


def test_cross_checks_run_although_other_keys_are_wrong() -> None:
    found = problems(
        BASE
        + "servers: [x]\ntensor_parallel: [1, 2, 3]\ndata_parallel: [1]\n"
        + "zip: [tensor_parallel, data_parallel]\nonly: {workload: chart}\n"
    )
    assert [p.key for p in found] == ["servers[0]", "zip", "only.workload"]


def test_an_invalid_spec_carries_what_is_sound() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        parse_spec(BASE + "servers: [x]\nworkload: chat\nprecision: fp8\n", file="s.yaml")
    assert caught.value.broken == {"servers", "workload"}
    assert caught.value.sound.precision == (Precision.FP8,)
    assert caught.value.sound.problem(("gpus", 0), "x").line == 3


def test_extends(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "base.yaml").write_text(
        BASE + "gpu_file: own.yaml\nengine: x\nlimits: {max_gpus: 8, max_tasks: 10}\ntensor_parallel: [1, 2]\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: team/base.yaml\nname: child\nlimits: {max_gpus: 4}\nengines: [y, z]\ntensor_parallel: 4\n"
    )
    spec = load_spec(child)
    assert spec.name == "child"
    assert spec.tensor_parallel == (4,)
    assert [engine.name for engine in spec.engines] == ["y", "z"]
    assert (spec.limits.max_gpus, spec.limits.max_tasks) == (4, 10)
    base_file = str(tmp_path / "team" / "base.yaml")
    assert spec.problem(("gpus", 0), "x").file == base_file
    assert spec.problem(("limits", "max_tasks"), "x").file == base_file
    assert spec.problem(("limits", "max_gpus"), "x").file == str(child)
    assert spec.resolve_path(("gpu_file",), "own.yaml") == str(tmp_path / "team" / "own.yaml")
    assert spec.to_dict()["gpu_file"] == "team/own.yaml"
    assert spec.to_dict(directory=str(tmp_path / "team"))["gpu_file"] == "own.yaml"

    child.write_text("extends: team/base.yaml\n")
    with pytest.raises(SpecError, match="name: missing"):
        load_spec(child)
    (tmp_path / "team" / "base.yaml").write_text(BASE.replace("[m]", "[m, ./local, {model: ../x, name: y}]"))
    child.write_text("extends: team/base.yaml\nname: child\n")
    assert load_spec(child).to_dict()["models"] == ["m", "./team/local", {"model": "./x", "name": "y"}]
    child.write_text("extends: team/none.yaml\nname: a\n")
    with pytest.raises(SpecError) as caught:
        load_spec(child)
    assert [p.key for p in caught.value.problems] == ["extends"]
    child.write_text("extends: team/base.yaml\n")
    (tmp_path / "team" / "base.yaml").write_text(BASE + "extends: ../child.yaml\nserver: vllm\n")
    with pytest.raises(SpecError) as caught:
        load_spec(child)
    assert "extends this spec in turn" in str(caught.value)
    assert f'{base_file}:6:1  unknown key "server"; did you mean "servers"?' in str(caught.value)


def test_problems_found_later_have_a_place() -> None:
    spec = parse_spec(
        "name: a\nmodels: m\ngpus: [x, y, {vendor: z}]\nworkloads: chat\nengine: {name: e, o: 1}\n", file="s.yaml"
    )
    assert str(spec.problem(("gpus", 1), "no", "hint")) == "s.yaml:3:11  gpus[1]: no\n    hint"
    assert str(spec.problem(("gpus", 2, "vendor"), "no")) == "s.yaml:3:23  gpus[2].vendor: no"
    assert str(spec.problem(("models", 0), "no")) == "s.yaml:2:9  models: no"
    assert str(spec.problem(("engines", 0, "o"), "no")) == "s.yaml:5:22  engine.o: no"
    assert str(spec.problem(("tensor_parallel",), "no")) == "s.yaml:1:1  tensor_parallel: no"


def test_specs_from_flags() -> None:
    flags = {"gpus": "--gpu", "workloads": "--workload", "workloads.input_len": "--input-len"}
    data = {"name": "a", "models": ("m",), "gpus": ["g"], "precision": Precision.FP8}
    spec = spec_from_mapping({**data, "workloads": [{"input_len": 2000, "output_len": 256}]}, flags=flags)
    assert [w.name for w in spec.workloads] == ["2000x256"]
    assert spec.precision == (Precision.FP8,)
    assert str(spec.problem(("gpus", 0), "unknown")) == "--gpu: unknown"
    assert parse_spec(spec.text) == spec
    with pytest.raises(SpecError) as caught:
        spec_from_mapping({**data, "gpus": [object()], "workloads": [{"input_len": 0, "output_len": 1}]}, flags=flags)
    assert [p.key for p in caught.value.problems] == ["--gpu", "--gpu", "--input-len"]
    with pytest.raises(SpecError, match="only a file can extend"):
        spec_from_mapping({**data, "workloads": "chat", "extends": "x"})
    with pytest.raises(SpecError, match="a very large number cannot stand in a spec"):
        spec_from_mapping({**data, "workloads": "chat", "tensor_parallel": 10**6000})


@pytest.mark.parametrize(
    ("text", "metric", "limit", "column"),
    [
        ("ttft<=500ms", "ttft", 500, "ttft_ms"),
        ("ttft<0.5s", "ttft", 500, "ttft_ms"),
        (" ITL <= 30 ms ", "itl", 30, "itl_ms"),
        ("itl<=.5", "itl", 0.5, "itl_ms"),
        ("e2e<=10s", "e2e", 10, "e2e_s"),
        ("e2e≤250ms", "e2e", 0.25, "e2e_s"),
        ("e2e<10", "e2e", 10, "e2e_s"),
    ],
)
def test_slos(text: str, metric: str, limit: float, column: str) -> None:
    slo = parse_slo(text)
    assert (slo.metric, slo.limit, slo.column) == (metric, limit, column)
    assert parse_slo(str(slo)) == slo


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft", "METRIC<=LIMIT"),
        ("", "METRIC<=LIMIT"),
        ("ttft<=-1ms", "METRIC<=LIMIT"),
        ("itl<=3e1ms", "write itl<=30ms"),
        ("e2e <= 1.5E+1 s", "write e2e <= 15 s"),
        ("itl<=2e-1nm", 'unit "nm"'),
        ("ttfk<=3ms", "did you mean ttft?"),
        ("itl>=3", "write itl<=3"),
        ("itl<=3m", "allowed: ms, s"),
        ("itl<=0", "never be met"),
    ],
)
def test_slos_nobody_can_meet_or_read(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_slo(text)
    assert says in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("given", "value", "matches"),
    [
        ({"gpu": "h100*"}, "H100-SXM-80GB", True),
        ({"gpu": "!= H100*"}, "H100-SXM-80GB", False),
        ({"gpu": ["L4", "L40"]}, "L40S", False),
        ({"num_gpus": "> 4"}, 4, False),
        ({"num_gpus": ">= 4"}, 4, True),
        ({"num_gpus": "!= 4"}, 4, False),
        ({"num_gpus": ["< 2", 8]}, 8, True),
        ({"num_gpus": "= 8"}, 8, True),
        ({"gpu_memory_utilization": "<= 0.9"}, 0.9, True),
        ({"precision": "*fp*"}, Precision.FP8, True),
        ({"num_gpus": 8}, None, False),
    ],
)
def test_conditions(given: dict[str, Any], value: object, matches: bool) -> None:
    (rule,) = parse_rules(given)
    (condition,) = rule.conditions.values()
    assert condition.matches(value) is matches
    assert parse_rules(rule.to_dict()) == (rule,)


def test_names_in_rules_can_be_replaced() -> None:
    (rule,) = parse_rules({"gpu": ["H100", "L*", "x"], "num_gpus": 1})
    assert rule.conditions["gpu"].names == ("H100", "x")
    renamed = rule.renamed("gpu", {"H100": "H100-SXM-80GB"})
    assert renamed.conditions["gpu"].matches("H100-SXM-80GB")
    assert rule.renamed("model", {"H100": "x"}) is rule


def test_ranges_of_fractions_are_what_was_written() -> None:
    assert axes.MEMORY_FRACTION.parse({"from": 0.7, "to": 1, "step": 0.1}) == (0.7, 0.8, 0.9, 1.0)
    assert axes.MEMORY_FRACTION.parse({"from": 0.1, "to": 0.9, "factor": 3}) == (0.1, 0.3, 0.9)
    with pytest.raises(InvalidValue, match="cannot start at 0"):
        axes.NumericAxis(0, 1, whole=False).parse({"from": 0, "to": 1, "factor": 3})


@cache
def json_validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(spec_json_schema())


@pytest.mark.parametrize("name", example_names())
def test_examples_are_valid(name: str) -> None:
    text = example_spec(name)
    spec = parse_spec(text, file=f"{name}.yaml")
    assert parse_spec(spec.to_yaml()) == spec
    json_validator().validate(yaml.safe_load(text))


def test_the_examples_show_what_they_promise() -> None:
    quickstart = parse_spec(example_spec("quickstart"))
    assert len(quickstart.models) >= 8
    assert len(quickstart.gpus) == 10
    assert len(quickstart.workloads) == 3
    assert quickstart.tensor_parallel == (1, 2, 4, 8)
    assert parse_spec(example_spec("scaling")).zip
    assert starter_spec() == example_spec("starter")
    # Every key is at least mentioned in the starter.
    for key in SweepSpec.model_fields:
        assert f"{key}:" in starter_spec() or key in ("description",), key


def test_json_schema() -> None:
    schema = spec_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    base = yaml.safe_load(BASE)
    assert {*SweepSpec.model_fields, "engine", "extends"} == schema["properties"].keys()
    assert all(entry.get("description") for entry in schema["properties"].values())
    assert validator.is_valid(base)
    assert validator.is_valid({"name": "a", "extends": "b.yaml"})
    for wrong in (
        {"workload": "chat"},
        {"tensor_parallel": "four"},
        {"tensor_parallel": {"from": 1, "to": 2, "by": 1}},
        {"models": [{"model": "m", "foo": 1}]},
        {"limits": {"max": 1}},
        {"exclude": {"tp": 1}},
        {"engine": "a", "engines": ["b"]},
        {"precision": "fp9"},
        {"workloads": {"chat": 3}},
        {"slo": "itl>3"},
    ):
        assert not validator.is_valid({**base, **wrong}), wrong
    assert not validator.is_valid({"name": "a"})
