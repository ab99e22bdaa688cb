"""The rules of ranking, one by one, and `gpuscout recommend` on a real store."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gpuscout.runner.cli.main import execute
from gpuscout.store import schema
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.ranking.rank import DEFAULT_OBJECTIVE, Question, rank
from gpuscout.store.ranking.types import Cause
from gpuscout.sweeps.errors import InputError, UnknownNameError
from tests.support.rank_stores import Ask, Row, an_answer, asks, fill
from tests.support.stores import new_store


@pytest.fixture
def answered(store: Store) -> Callable[..., Ask]:
    return lambda *answers: asks(store, answers, objective="throughput-per-gpu")


def test_throughput_per_gpu_counts_all_gpus(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(tensor_parallel=2, points={8: {"output_tokens_per_s": 150.0}}),
        an_answer(points={8: {"output_tokens_per_s": 100.0}, 4: {"output_tokens_per_s": 90.0}}),
    )
    group = ask().groups[0]
    assert [(c.num_gpus, c.concurrency, c.objective) for c in group.configs] == [(1, 8, 100.0), (2, 8, 75.0)]
    assert [c.behind_best for c in group.configs] == [0.0, 0.25]
    assert group.configs[1].tokens_per_s_per_gpu == 75.0
    assert ask(objective="throughput").groups[0].configs[0].num_gpus == 2


@pytest.mark.parametrize(("objective", "unit"), [("ttft", "ttft_ms"), ("itl", "itl_ms"), ("e2e", "e2e_s")])
def test_latencies_are_better_when_lower(answered: Callable[..., Ask], objective: str, unit: str) -> None:
    ask = answered(an_answer(points={1: {unit: 3.0}}), an_answer(gpu="L4", points={1: {unit: 2.0}, 2: {unit: 4.0}}))
    configs = ask(objective=objective).groups[0].configs
    assert [(c.gpu, c.objective, c.behind_best) for c in configs] == [("L4", 2.0, 0.0), ("H100", 3.0, 0.5)]


def test_the_last_bits_of_a_figure_do_not_raise_the_load(answered: Callable[..., Ask]) -> None:
    """On a plateau throughput stays the same but for rounding."""
    plateau = {64: {"output_tokens_per_s": 2900.0}, 512: {"output_tokens_per_s": 2900.0000000000005}}
    best = answered(an_answer(points={32: {"output_tokens_per_s": 2800.0}, **plateau}))().groups[0].best
    assert best is not None
    assert best.concurrency == 64


def test_a_queue_is_only_recommended_where_nothing_else_meets_the_limits(answered: Callable[..., Ask]) -> None:
    """Beyond the KV cache throughput hardly grows, and every request waits."""
    curve = {
        32: {"output_tokens_per_s": 2800.0, "requests_per_s": 10.0, "ttft_ms": 200.0},
        64: {"output_tokens_per_s": 2900.0, "requests_per_s": 11.0, "ttft_ms": 9_000.0, "queued": True},
    }
    ask = answered(an_answer(points=curve))
    best = ask().groups[0].best
    assert best is not None
    assert (best.concurrency, best.queued) == (32, False)
    best = ask("rate>=11/s").groups[0].best
    assert best is not None
    assert (best.concurrency, best.queued) == (64, True)


def test_a_point_that_does_not_queue_wins_a_tie(answered: Callable[..., Ask]) -> None:
    best = answered(an_answer(points={4: {"queued": True}, 8: {}}))().groups[0].best
    assert best is not None
    assert best.concurrency == 8


def test_ties_fall_to_fewer_gpus_then_latency_then_names(answered: Callable[..., Ask]) -> None:
    answers = [
        an_answer(gpu="L4", precision="fp8"),
        an_answer(gpu="H100", precision="fp8"),
        an_answer(gpu="L4", precision="bf16", points={8: {"itl_ms": 9.0}}),
        an_answer(gpu="L4", tensor_parallel=2, points={8: {"output_tokens_per_s": 200.0, "itl_ms": 1.0}}),
        an_answer(gpu="L40S", points={8: {"ttft_ms": 99.0}}),
        an_answer(gpu="H100", precision="bf16"),
    ]
    configs = answered(*answers)().groups[0].configs
    assert [c.task_id for c in configs] == [3, 5, 6, 2, 1]
    assert [c.place for c in configs] == [1, 2, 3, 3, 3]


def test_the_best_of_each_gpu_type_is_returned_beyond_the_top(answered: Callable[..., Ask]) -> None:
    speeds = {("H100", 1): 90.0, ("H100", 2): 160.0, ("L4", 1): 30.0, ("L4", 2): 20.0}
    answers = [
        an_answer(gpu=gpu, tensor_parallel=tp, points={8: {"output_tokens_per_s": speed}})
        for (gpu, tp), speed in speeds.items()
    ]
    group = answered(*answers)(top=1).groups[0]
    assert [c.gpu for c in group.configs] == ["H100"]
    assert [(c.gpu, c.num_gpus, c.place) for c in group.best_per_gpu] == [("H100", 1, 1), ("L4", 1, 3)]
    assert group.candidates == 4


def test_nothing_that_violates_an_slo_is_recommended(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points={1: {"ttft_ms": 50.0, "output_tokens_per_s": 10.0}, 8: {"ttft_ms": 500.1}}),
        an_answer(gpu="L4", points={1: {"ttft_ms": 600.0}, 8: {"ttft_ms": None}}),
    )
    assert [(c.gpu, c.concurrency) for c in ask("ttft<=500ms").groups[0].configs] == [("H100", 7)]
    group = ask("ttft<=500ms", interpolate=False).groups[0]
    assert [(c.gpu, c.concurrency) for c in group.configs] == [("H100", 1)]
    (lost,) = group.losers
    assert (lost.cause, str(lost.slo), lost.count) == (Cause.MISSES_SLO, "ttft<=500ms", 1)
    assert (lost.examples[0].gpu, lost.examples[0].detail) == ("L4", "TTFT 600 ms at concurrency 1")
    assert lost.examples[0].ratio == pytest.approx(1.2)


def test_an_slo_nobody_meets_says_who_comes_closest(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points={1: {"ttft_ms": 61.0}, 8: {"ttft_ms": 90.0}}),
        an_answer(gpu="L4", points={1: {"ttft_ms": 80.0, "itl_ms": 2.0}}),
    )
    group = ask("ttft<=50ms", "itl<=10ms").groups[0]
    assert group.best is None
    (unmet,) = group.unreachable
    assert (str(unmet.slo), unmet.value) == ("ttft<=50ms", 61.0)
    assert (unmet.nearest.gpu, unmet.nearest.concurrency) == ("H100", 1)
    assert group.closest is None


def test_slos_that_exclude_each_other_say_what_comes_closest(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points={1: {"ttft_ms": 40.0, "itl_ms": 30.0}}),
        an_answer(gpu="L4", points={1: {"ttft_ms": 60.0, "itl_ms": 9.0}, 8: {"ttft_ms": 70.0, "itl_ms": 1.0}}),
    )
    group = ask("ttft<=50ms", "itl<=10ms").groups[0]
    assert group.unreachable == ()
    assert group.closest is not None
    assert (group.closest.gpu, group.closest.concurrency) == ("L4", 1)


def test_losers_are_counted_by_cause_with_the_nearest_miss(answered: Callable[..., Ask]) -> None:
    sizes = [(90.0, 70.0), (71.0, 70.0), (None, None)]
    no_fit = [
        an_answer(tensor_parallel=tp, outcome="does_not_fit", detail="weights", needed_gib=needed, usable_gib=usable)
        for tp, (needed, usable) in zip((1, 2, 4), sizes, strict=True)
    ]
    refused = an_answer(gpu="L4", outcome="not_supported", detail="L4 has no fp4 units")
    silent = an_answer(gpu="L40S", points={})
    group = answered(*no_fit, refused, silent)().groups[0]
    found = {losers.cause: (losers.count, losers.examples[0].detail) for losers in group.losers}
    assert found == {
        Cause.DOES_NOT_FIT: (3, "needs 71 of 70 GiB per GPU"),
        Cause.NOT_SUPPORTED: (1, "L4 has no fp4 units"),
        Cause.NO_POINT: (1, "no operating point with the figures asked for"),
    }
    assert group.losers[0].examples[0].note == "weights"
    assert group.best is None


# --- sweeps, engines, versions -----------------------------------------------------------------------------------


def add_sweep(store: Store, sweep_id: int, revision: int, latest_run: int, tasks: list[int]) -> None:
    """Another revision of "nightly", with oracle on its own ladder of 1 and 4."""
    with store.writing() as connection:
        nightly = connection.execute(sa.select(schema.sweeps).where(schema.sweeps.c.id == 1)).one()._asdict()
        changed = {"id": sweep_id, "digest": bytes(15) + b"x", "revision": revision, "latest_run": latest_run}
        connection.execute(schema.sweeps.insert(), [nightly | changed])
        connection.execute(schema.ladders.insert(), [{"id": 2, "concurrencies": "1,4"}])
        part = {"sweep_id": sweep_id, "block_size": 1, "first_block": 0, "block_count": 1}
        rows = [{"position": 0, "engine_id": 3, "ladder_id": 2}, {"position": 1, "engine_id": 1, "ladder_id": 1}]
        connection.execute(schema.sweep_engines.insert(), [part | row for row in rows])
        connection.execute(schema.membership.insert(), [{"sweep_id": sweep_id, "task_id": task} for task in tasks])
        connection.execute(
            schema.exclusions.insert(),
            [
                {"sweep_id": sweep, "reason": "TP", "model": model, "detail": "3 does not divide 32", "combinations": n}
                for sweep, model, n in [(1, "a/One", 7), (sweep_id, "a/One", 5), (sweep_id, "a/Two", 9)]
            ],
        )


def test_a_sweep_has_its_own_tasks_and_ladders(store: Store, answered: Callable[..., Ask]) -> None:
    points = {1: {"output_tokens_per_s": 1.0}, 4: {"output_tokens_per_s": 4.0}, 8: {"output_tokens_per_s": 8.0}}
    ask = answered(
        an_answer(engine=("oracle", 0), points=points),
        an_answer(model="a/Two", engine=("roofline", 1), points={**points, 16: {"output_tokens_per_s": 16.0}}),
        an_answer(gpu="L4", engine=("oracle", 0), in_sweep=True, points=points),
    )
    add_sweep(store, 2, revision=2, latest_run=5, tasks=[1, 2])
    ranking = ask(sweep="nightly")
    assert (ranking.sweep, ranking.sweep_id) == ("nightly", 2)
    best = {group.model: group.best for group in ranking.groups}
    assert {model: config and (config.gpu, config.concurrency) for model, config in best.items()} == {
        "a/One": ("H100", 4),  # oracle was asked for 1 and 4
        "a/Two": ("H100", 8),  # roofline for 1, 2, 4, 8
    }
    older = ask(sweep=1).groups
    assert [(g.model, g.best and g.best.gpu, g.best and g.best.concurrency) for g in older] == [("a/One", "L4", 8)]
    assert ask(sweep="1").groups == older
    assert ask().groups[1].best.concurrency == 16  # type: ignore[union-attr]


def test_exclusions_are_those_of_the_newest_revision(store: Store, answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(in_sweep=True))
    add_sweep(store, 2, revision=2, latest_run=5, tasks=[1])
    assert [(e.model, e.combinations) for e in ask().exclusions] == [("a/Two", 9), ("a/One", 5)]
    assert [(e.model, e.combinations) for e in ask(sweep=1).exclusions] == [("a/One", 7)]
    assert [(e.model, e.combinations) for e in ask(models=("One",)).exclusions] == [("a/One", 5)]


def test_an_unknown_sweep_lists_what_there_is(answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(in_sweep=True))
    with pytest.raises(UnknownNameError, match='unknown sweep "nightlie"') as error:
        ask(sweep="nightlie")
    assert error.value.suggestions == ("nightly",)
    assert "the store has nightly" in (error.value.hint or "")


def test_a_new_fingerprint_replaces_the_old_answer_even_with_a_refusal(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points={8: {"output_tokens_per_s": 900.0}}),
        an_answer(engine=("roofline", 1), outcome="does_not_fit", needed_gib=2.0, usable_gib=1.0, points={}),
        an_answer(gpu="L4"),
    )
    group = ask().groups[0]
    assert [(c.gpu, c.fingerprint) for c in group.configs] == [("L4", "f0")]
    assert [(losers.cause, losers.count) for losers in group.losers] == [(Cause.DOES_NOT_FIT, 1)]


def test_two_versions_of_a_gpu_are_one_gpu(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points={8: {"output_tokens_per_s": 900.0}}),
        an_answer(gpu_version=1, points={8: {"output_tokens_per_s": 800.0}}),
        an_answer(gpu_version=1, model_version=1, points={8: {"output_tokens_per_s": 700.0}}),
    )
    (group,) = ask().groups
    assert [(c.gpu, c.objective) for c in group.configs] == [("H100", 700.0)]


def test_engines_are_not_mixed(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points={8: {"output_tokens_per_s": 900.0}}),
        an_answer(gpu="L4", engine=("oracle", 0)),
        an_answer(model="a/Two"),
    )
    one, two = ask().groups
    assert (one.engine, one.other_engines, [c.gpu for c in one.configs]) == ("oracle", ("roofline",), ["L4"])
    assert (two.engine, two.other_engines) == ("roofline", ())
    one, _ = ask(engines=("roofline", "oracle")).groups
    assert (one.engine, one.other_engines, [c.gpu for c in one.configs]) == ("roofline", ("oracle",), ["H100"])


# --- names and errors --------------------------------------------------------------------------------------------


def test_names_are_found_as_people_type_them(store: Store, answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(), an_answer(model="b/One-v2", gpu="L40S"), an_answer(model="a/Two", gpu="L4"))
    with store.writing() as connection:
        aliases = json.dumps({"aliases": ["Ada 48GB"], "vendor": "NVIDIA", "gpus_per_node": 8})
        connection.execute(schema.gpus.update().where(schema.gpus.c.name == "L40S").values(figures=aliases))

    def models(**question: Any) -> list[str]:
        return [group.model for group in ask(**question).groups]

    assert models(models=("one",)) == ["a/One"]
    assert models(models=("One*",)) == ["a/One", "b/One-v2"]
    assert models(models=("A/TWO", "b/*")) == ["a/Two", "b/One-v2"]
    assert models(gpus=("l-4",)) == ["a/Two"]
    assert models(gpus=("l4*",)) == ["a/Two", "b/One-v2"]
    assert models(gpus=("ada-48gb",)) == ["b/One-v2"]
    assert models(gpus=("NVIDIA L40S",)) == ["b/One-v2"]
    assert models(workload="CHAT") == ["a/One", "a/Two", "b/One-v2"]


@pytest.mark.parametrize(
    ("filters", "message", "hint"),
    [
        ({"models": ("a/On",)}, 'unknown model "a/On"', "did you mean a/One"),
        ({"gpus": ("L4OS",)}, 'unknown GPU "L4OS"', "did you mean L40S"),
        ({"engines": ("rooflin",)}, 'unknown engine "rooflin"', "did you mean roofline"),
        ({"workload": "chatt"}, 'unknown workload "chatt"', "did you mean chat"),
        ({"gpus": ("H*",), "vendors": ("AMD",)}, 'unknown vendor "AMD"', "the store has NVIDIA"),
        ({"gpus": ("H*",), "min_memory_gb": 300}, "no GPU with 300 GB or more", "they are of NVIDIA, with up to "),
        ({"servers": ("vlm",)}, 'unknown server "vlm"', "did you mean vllm"),
        ({"precisions": ("fp9",)}, 'unknown precision "fp9"', "did you mean fp8"),
        ({"objective": "through-put"}, 'unknown objective "through-put"', "did you mean throughput"),
        ({"input_len": 5}, "nothing in the store matches", "chat (1024/512)"),
        ({"gpus": ("L4",)}, "nothing in the store matches", "GPUs: H100"),
        ({"gpus": ("L4",), "sweep": 1}, 'nothing in sweep "nightly" matches', "models: a/One"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    answered: Callable[..., Ask], filters: Row, message: str, hint: str
) -> None:
    ask = answered(an_answer(in_sweep=True))
    with pytest.raises(InputError) as error:
        ask(**filters)
    assert message in error.value.message
    assert hint in (error.value.hint or "")


def test_an_empty_store_says_so(store: Store) -> None:
    for question in (Question(), Question(models=("x",)), Question(gpus=("x",))):
        with store.reading() as connection, pytest.raises(InputError, match="the store holds no results yet"):
            rank(connection, question)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of a store with three models under "chat"; nothing but a/One meets an ITL of 12 ms."""
    url = new_store(tmp_path)
    answers = [
        an_answer(in_sweep=True, points={1: {"output_tokens_per_s": 12.0}, 64: {"output_tokens_per_s": 2900.0}}),
        an_answer(in_sweep=True, gpu="L4", tensor_parallel=4, points={8: {"output_tokens_per_s": 9512.0}}),
        an_answer(in_sweep=True, gpu="L40S", outcome="does_not_fit", needed_gib=67.7, usable_gib=40.5, points={}),
        an_answer(in_sweep=True, model="a/Two", points={8: {"itl_ms": 21.5}}),
        an_answer(in_sweep=True, model="b/One-v2", outcome="not_supported", detail="no fp4 units", points={}),
    ]
    with open_store(url) as store, store.writing() as connection:
        fill(connection, answers)
        row = {"sweep_id": 1, "reason": "TP does not divide the heads", "detail": "TP 8 and 28 heads"}
        connection.execute(schema.exclusions.insert(), [row | {"model": "a/Two", "combinations": 48}])
    return url


def recommend(capsys: pytest.CaptureFixture[str], database: str, *arguments: str) -> str:
    if not {"--objective", "--weight"} & set(arguments):
        arguments = ("--objective", "throughput-per-gpu", *arguments)
    assert execute(["recommend", "--db", database, *arguments]) in (0, 6)  # 6: nothing qualifies
    return capsys.readouterr().out


def test_the_table_has_the_answer_and_why(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    shown = recommend(capsys, database, "--slo", "itl <= 12 ms").splitlines()
    assert shown[0] == "no measurement backs any of these figures: measure before you buy"
    assert shown[2] == "chat (1,024 in / 512 out): throughput per GPU, ITL <= 12 ms"
    assert " ".join(shown[3].split()) == "model best c TTFT ITL tok/s tok/s/GPU (80 % range) limits met"
    assert " ".join(shown[4].split()) == "One H100 x1 fp8 kv-fp8 ? 64 100 ms 10.0 ms 2,900 2,900 (unknown) -"
    text = "\n".join(shown)
    assert "none: no configuration qualifies; --model NAME says what comes closest" in text
    assert shown[-1] == "nothing was recomputed."
    text = recommend(capsys, database, "--slo", "itl <= 12 ms", "--model", "Two")
    assert "no configuration meets ITL <= 12 ms: closest is H100 x1 fp8 kv-fp8 with 21.5 ms at concurrency 8" in text
    text = recommend(capsys, database, "--model", "One-v2")
    assert "no configuration runs: 1 not supported, such as H100 x1 fp8 kv-fp8: no fp4 units" in text
    text = recommend(capsys, database, "--model", "One", "--explain")
    assert "L40S x1 fp8 kv-fp8: needs 67.7 of 40.5 GiB per GPU" in text


def test_a_table_of_nothing_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(lengths=(n, 64), points={8: {"itl_ms": 21.5}}) for n in (100, 200, 300)])
    text = recommend(capsys, url, "--slo", "p99_ttft<=1s")
    assert "none: no such percentile (--engine simulator has p50 to p99; --assume-tail 1.3" in " ".join(text.split())
    # There is one model already: its workloads are what can be asked about alone.
    text = recommend(capsys, url, "--slo", "itl<=1ms")
    assert "none: no configuration qualifies; --workload NAME says what comes closest" in " ".join(text.split())
    assert "--model NAME" not in text


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 100, 132])
@pytest.mark.parametrize(
    "arguments", [[], ["--top", "3"], ["--explain", "--model", "One"], ["--slo", "itl<=9ms", "--slo", "e2e<=1s"]]
)
def test_the_table_fits_the_terminal(
    database: str,
    columns: int,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = recommend(capsys, database, *arguments).splitlines()
    too_long = [line for line in lines if len(line) > max(columns, 80)]
    assert not too_long
    # No number is parted from its unit.
    assert not [line for line in lines if line.strip().startswith(("ms", "GiB", "%"))]


def test_explain_lists_every_configuration(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = recommend(capsys, database, "--explain", "--sweep", "nightly", "--model", "One")
    assert "1. L4 x4 fp8 kv-fp8: 2,378 (unknown) tokens/s per GPU at c=8" in text
    assert "2. H100 x1 fp8 kv-fp8: 12.0 (unknown) tokens/s per GPU at c=1 (-99 %)" in text
    assert execute(["recommend", "--db", database, "--explain"]) == 2
    told = capsys.readouterr().err
    assert "--explain takes one model, but 3 match" in told
    assert "add --model NAME: a/One, a/Two, b/One-v2" in told
    assert "L40S x1 fp8 kv-fp8: needs 67.7 of 40.5 GiB per GPU" in text


def test_json_has_units_in_its_keys(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(recommend(capsys, database, "--json", "--slo", "itl<=12ms"))
    assert document["objective"] == "throughput-per-gpu"
    slo = {"metric": "itl", "percentile": None, "limit": 12.0, "unit": "ms", "at_least": False}
    assert document["slos"] == [slo]
    first, second, third = document["groups"]
    assert {"ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s"} <= first["configurations"][0].keys()
    assert first["configurations"][0]["output_tokens_per_s_per_gpu"] == 2900.0
    assert second["unreachable_slos"][0]["closest_value"] == 21.5
    assert third["losers"][0]["cause"] == "not_supported"
    assert document["exclusions"][0]["combinations"] == 48


def test_errors_have_their_exit_status(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["recommend", "--db", f"sqlite:///{tmp_path / 'none.db'}"]) == 3
    assert execute(["recommend", "--db", database, "--model", "Onee"]) == 2
    assert "did you mean a/One" in capsys.readouterr().err
    assert execute(["recommend", "--db", database, "--slo", "ttft<500parsecs"]) == 2


def test_the_default_objective_of_the_command_is_that_of_the_api(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["recommend", "--db", database, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == DEFAULT_OBJECTIVE == "cost"


_COMMAND = "from gpuscout.runner.cli.main import execute; assert execute(['recommend', '--db', sys.argv[1]]) == 0"
_LIBRARY = """
from gpuscout.store.database.connect import open_store
from gpuscout.store.ranking.rank import Question, rank
from gpuscout.sweeps.slo import parse_slo
with open_store(sys.argv[1]) as store, store.reading() as connection:
    assert rank(connection, Question(slos=(parse_slo("itl<=1s"),), gpus=("NVIDIA L4",))).groups
"""


# What may be imported on this path, besides the standard library: no engine, Ray, transformers, alembic or pandas.
_LIBRARIES = {"gpuscout", "numpy", "sqlalchemy", "typing_extensions"}
_TERMINAL = {"typer", "rich", "shellingham", "annotated_doc", "pygments"}
# typer itself imports pydantic to parse options.
_TYPER = {"pydantic", "pydantic_core", "annotated_types", "typing_inspection"}
_LISTED = """
packages = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
runner = sorted(name for name in sys.modules if name.startswith("gpuscout.runner") and ".cli" not in name)
print([sorted(packages - sys.stdlib_module_names), runner], file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "packages", "runner"),
    [
        (_COMMAND, _LIBRARIES | _TERMINAL | _TYPER, ["gpuscout.runner"]),
        (_LIBRARY, _LIBRARIES, []),
    ],
)
def test_recommend_imports_no_more_than_it_needs(
    database: str, program: str, packages: set[str], runner: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\n{_LISTED}", database],
        capture_output=True,
        text=True,
        check=True,
    )
    imported, of_runner = ast.literal_eval(done.stderr)
    outside = {name for name in imported if not name.startswith("_") and name != "coverage"}  # of make coverage
    assert outside <= packages
    assert of_runner == runner


def test_ranking_writes_nothing(store: Store, answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer())

    def rows() -> dict[str, int]:
        with store.reading() as connection:
            return {
                table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in schema.metadata.sorted_tables
            }

    before = rows()
    ask("ttft<=500ms", examples=None, top=None)
    assert rows() == before
