"""Measured runs in a ranking, how far estimates can be trusted, and the pessimistic ends of their intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.ranking.rank import Group, Question, rank
from gpuscout.store.ranking.types import Cause, Opinion, Runs
from gpuscout.store.results.trust import note_trust
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.slo import parse_slo
from gpuscout.sweeps.trust import ObservedError, Trust
from tests.support.rank_stores import ENGINES, LENGTHS, Row, a_run, an_answer, fill
from tests.support.stores import new_store

Ask = Callable[..., Group]


@pytest.fixture
def stored(store: Store) -> Callable[..., Ask]:
    """Fills the store and returns what asks it about a/One, by throughput."""

    def fill_store(answers: list[Row], runs: list[Row], trust: Trust | None = None) -> Ask:
        with store.writing() as connection:
            fill(connection, answers, runs, {"roofline": trust} if trust else None)

        def ask(*slos: str, **question: Any) -> Group:
            question = {"objective": "throughput", "models": ("a/One",)} | question
            with store.reading() as connection:
                (group,) = rank(connection, Question(slos=tuple(map(parse_slo, slos)), **question)).groups
            return group

        return ask

    return fill_store


def who(group: Group) -> list[tuple[str, str, int | None, float]]:
    return [(config.kind.value, config.gpu, config.concurrency, config.objective) for config in group.configs]


def test_a_measured_configuration_stands_for_its_estimates(stored: Callable[..., Ask]) -> None:
    ask = stored(
        [an_answer(points={8: {"output_tokens_per_s": 900.0}}), an_answer(gpu="L4")],
        [
            a_run(output_tokens_per_s=tokens, ttft_ms=ttft_ms)
            for tokens, ttft_ms in ((500.0, 100.0), (800.0, 150.0), (600.0, None))
        ],
    )
    group = ask()
    assert who(group) == [("measured", "H100", 8, 600.0), ("estimated", "L4", 8, 100.0)]
    best = group.configs[0]
    assert best.runs == Runs(3, "closed_loop", None, ("lab",), ("0.19",), date(2026, 4, 17), date(2026, 4, 17))
    assert best.opinions == (Opinion("measured", 600.0), Opinion("roofline", 900.0))
    assert (best.spread, best.task_id, best.fingerprint) == ((600.0, 900.0), None, None)
    assert (group.engine, group.other_engines) == ("roofline", ())
    assert ask(objective="ttft", gpus=("H100",)).configs[0].objective == 125.0  # of two that know it
    # Also where it says that a limit is missed, and the estimate would not.
    lost = ask("itl<=9ms", gpus=("H100",))
    assert [(out.cause, out.examples[0].kind) for out in lost.losers] == [(Cause.MISSES_SLO, "measured")]
    assert lost.losers[0].examples[0].detail == "ITL 10 ms at concurrency 8, measured"
    assert (lost.unreachable[0].value, lost.unreachable[0].nearest.engine) == (10.0, "measured")


def test_runs_that_lack_a_figure_leave_the_estimate_in_place(stored: Callable[..., Ask]) -> None:
    ask = stored(
        [an_answer(points={8: {"output_tokens_per_s": 900.0}})],
        [a_run(ttft_ms=None), a_run(gpu="L4", ttft_ms=None), a_run(model="a/Two")],
    )
    assert [kind for kind, *_ in who(ask(gpus=("H100",)))] == ["measured"]
    group = ask("ttft<=200ms")
    assert who(group) == [("estimated", "H100", 8, 900.0)]
    assert [(out.count, out.examples[0].detail) for out in group.losers] == [(1, "TTFT is unknown")]  # of the L4


def test_loads_count_as_what_they_are(stored: Callable[..., Ask]) -> None:
    """An offline maximum has a throughput and nothing else; a rate stands for itself where concurrency is unknown."""
    driven = {"load": "request_rate", "concurrency": None, "request_rate": 2.0}
    ask = stored(
        [],
        [
            a_run(concurrency=4, output_tokens_per_s=50.0),
            a_run(load="offline_maximum", concurrency=None, output_tokens_per_s=4000.0),
            a_run(gpu="L4", output_tokens_per_s=70.0, **driven),
            a_run(gpu="L40S", output_tokens_per_s=80.0, **(driven | {"concurrency": 5})),
        ],
    )
    group = ask()
    assert group.engine == "measured"
    assert who(group) == [
        ("measured", "H100", None, 4000.0),
        ("measured", "L40S", 5, 80.0),
        ("measured", "L4", None, 70.0),
    ]
    runs = [config.runs and (config.runs.load, config.runs.request_rate) for config in group.configs]
    assert runs == [("offline_maximum", None), ("request_rate", None), ("request_rate", 2.0)]
    assert who(ask("itl<=20ms", gpus=("H100",))) == [("measured", "H100", 4, 50.0)]


def test_points_lie_between_runs_of_one_origin_only(stored: Callable[..., Ask]) -> None:
    slow = {"concurrency": 12, "itl_ms": 14.0, "output_tokens_per_s": 140.0}
    ask = stored(
        [],
        [a_run(), a_run(**slow), a_run(gpu="L4"), a_run(gpu="L4", server_version="0.20", **slow)],
    )
    h100, l4 = ask("itl<=12ms").configs
    assert (h100.gpu, h100.concurrency, h100.interpolated, h100.objective) == ("H100", 10, True, 120.0)
    assert (l4.gpu, l4.concurrency, l4.interpolated) == ("L4", 8, False)


def test_percentiles_are_met_where_they_were_measured(stored: Callable[..., Ask]) -> None:
    ask = stored(
        [an_answer(), an_answer(gpu="L4")],
        [a_run(percentiles={("ttft_ms", 95.0): 180.0, ("ttft_ms", 99.0): 900.0}), a_run(gpu="L40S")],
    )
    group = ask("ttft:p95<=200ms")
    assert [(c.gpu, c.percentiles) for c in group.configs] == [("H100", {"ttft:p95": 180.0})]
    lost = {loser.gpu: loser.detail for out in group.losers for loser in out.examples}
    assert {out.cause for out in group.losers} == {Cause.NO_PERCENTILE}
    assert lost == {"L40S": "its runs do not report this percentile"}  # the nearest of two
    assert ask("ttft:p90<=200ms").best is None  # exactly this percentile
    assumed = ask("ttft:p95<=200ms", assume_tail=1.5)
    assert [(c.gpu, c.kind, c.assumed_tail) for c in assumed.configs] == [
        ("H100", "measured", None),
        ("L4", "estimated", 1.5),
    ]
    assert assumed.configs[1].percentiles == {"ttft:p95": 150.0}
    # Nothing comes closest to what no run tells.
    untold = ask("ttft:p90<=200ms", assume_tail=1.5, kinds=("measured",))
    assert (untold.best, untold.closest, untold.unreachable) == (None, None, ())


def test_kinds_engines_sweeps_and_days_filter_runs(stored: Callable[..., Ask]) -> None:
    ask = stored(
        [an_answer(in_sweep=True), an_answer(gpu="L4")],
        [a_run(), a_run(gpu="L40S", measured_on=None), a_run(lengths=LENGTHS[0], gpu="L4", kv_precision="bf16")],
    )

    def kinds(**question: Any) -> list[tuple[str, str]]:
        return sorted((config.gpu, config.kind.value) for config in ask(**question).configs)

    h100, l40s = ("H100", "measured"), ("L40S", "measured")
    assert kinds() == [h100, ("L4", "estimated"), ("L4", "measured"), l40s]  # the L4 was measured with another KV cache
    assert kinds(kinds=("estimated",)) == kinds(engines=("roofline",)) == [("H100", "estimated"), ("L4", "estimated")]
    assert kinds(kinds=("measured",)) == kinds(engines=("measured",)) == [h100, ("L4", "measured"), l40s]
    assert kinds(sweep="nightly") == [h100]
    assert kinds(sweep="nightly", kinds=("measured",)) == [h100]
    assert kinds(since=date(2026, 4, 17), kinds=("measured",)) == [h100, ("L4", "measured")]
    with pytest.raises(InputError, match="nothing in the store matches"):
        kinds(until=date(2025, 1, 1))
    with pytest.raises(UnknownNameError, match='unknown kind "guessed"'):
        kinds(kinds=("guessed",))


def test_a_store_without_runs_says_so_where_they_are_asked_for(stored: Callable[..., Ask]) -> None:
    ask = stored([an_answer()], [])
    for asked in ({"kinds": ("measured",)}, {"engines": ("measured",)}):
        with pytest.raises(InputError, match="the store has no measured runs"):
            ask(**asked)


# --- trust -------------------------------------------------------------------------------------------------------


def seen(
    family: str, error: float, *, runs: int = 9, start: int = 1, end: int | None = 16, **how: Any
) -> ObservedError:
    """Errors that say what the runs are of: the fp8 of `an_answer`, on one GPU; a vendor's say nothing of that."""
    about = {"model_kind": "dense", "metric": "output_tokens_per_s", "models": 3} | how
    covered = {"precision": "fp8", "link": "single", "tp_to": 1} if family != "NVIDIA" else {}
    covered |= {name: how[name] for name in ("precision", "link", "tp_from", "tp_to") if name in how}
    figures = (about["metric"], runs, about["models"], error, 2 * error, 0.0)
    return ObservedError(family, about["model_kind"], start, end, *figures, **covered)


def whole(family: str, error: float, **how: Any) -> ObservedError:
    """Those of a family whatever the precision, link and size."""
    return seen(family, error, precision="any", link="any", tp_to=None, **how)


def test_estimates_tell_the_errors_seen_near_them(stored: Callable[..., Ask]) -> None:
    errors = (
        seen("Ada", 0.12, runs=38),
        seen("Ada", 0.5, start=17, end=40),
        seen("Ada", 0.05, metric="itl_ms"),
        seen("NVIDIA", 0.2, runs=300),
        seen("Hopper", 0.01, model_kind="moe"),
    )
    points = {8: {"output_tokens_per_s": 110.0}, 32: {"ttft_ms": 900.0, "output_tokens_per_s": 120.0}}
    ask = stored(
        [an_answer(points=points), an_answer(gpu="L4"), an_answer(gpu="L40S", points=points)], [], Trust({}, errors)
    )

    def backing(config: Any) -> tuple[Any, ...] | None:
        found = config.backing
        return found and (found.error.median_error, found.error.runs, found.own_family, found.near)

    group = ask("ttft<=200ms", interpolate=False, trust="any")
    assert {config.gpu: backing(config) for config in group.configs} == {
        "H100": (0.2, 300, False, False),
        "L4": (0.12, 38, True, True),
        "L40S": (0.12, 38, True, True),
    }
    assert {config.gpu: (backing(config), config.backed) for config in ask(top=3).configs} == {
        "H100": ((0.2, 300, False, False), False),
        "L4": ((0.12, 38, True, True), True),
        "L40S": ((0.5, 9, True, True), True),
    }
    assert backing(ask(objective="itl", gpus=("L4",)).configs[0]) == (0.05, 9, True, True)
    # Where a limit binds, the errors are those of what it limits: the ITL of 10 ms is the most that is allowed.
    (limited,) = ask("itl<=10ms", gpus=("L4",)).configs
    assert (limited.binding, backing(limited)) == ("itl", (0.05, 9, True, True))
    # A lead of 9 % over the L4 is less than what both may be wrong by: sqrt(2) times 12 %.
    (tie,) = ask("ttft<=200ms", interpolate=False, gpus=("L40S", "L4")).ties
    assert (tie.config.gpu, tie.lead) == ("L4", pytest.approx(1 / 11))
    assert tie.joint_error == pytest.approx(1.12 ** math.sqrt(2) - 1)
    assert 0.5 < tie.probability < 0.75
    assert ask(objective="cost-per-hour", gpus=("L40S",)).ties == ()
    # What an hour costs is nobody's estimate.
    close = PriceRules(overrides={"L4": 1.0, "L40S": 1.01})
    weighted = ask(weights=(("cost-per-hour", 0.7), ("itl", 0.3)), gpus=("L40S", "L4"), prices=close)
    assert {config.backing and config.backing.error.metric for config in weighted.configs} == {"itl_ms"}
    assert [tie.config.gpu for tie in weighted.ties] == ["L40S"]


def test_runs_near_an_estimate_are_of_its_precision_link_size_and_load(
    stored: Callable[..., Ask], store: Store
) -> None:
    """H100s are of a family of which runs exist, but of others than the estimate in one respect each."""
    elsewhere = {
        "precision": seen("Hopper", 0.1, precision="16-bit"),
        "load": seen("Hopper", 0.1, start=17, end=64),
        "one model": seen("Hopper", 0.1, models=1),
        "few runs": seen("Hopper", 0.1, runs=7),
        "kind": seen("Hopper", 0.1, model_kind="moe"),
    }
    points = {8: {"output_tokens_per_s": 120.0}}
    ask = stored([an_answer(tensor_parallel=tp, points=points) for tp in (1, 2, 8)], [])

    def note(*errors: ObservedError) -> None:
        with store.writing() as connection:
            note_trust(connection, ENGINES["roofline", 0], Trust({}, errors))

    def backed(*errors: ObservedError) -> set[int]:
        note(*errors)
        return {config.num_gpus for config in ask(trust="any", top=3).configs if config.backed}

    assert backed() == set()
    for what, error in elsewhere.items():
        assert backed(error, whole("Hopper", 0.3)) == set(), what
        group = ask()
        assert not group.is_backed
        assert {(c.backing.error.median_error, c.backing.near) for c in group.configs if c.backing} == {(0.3, False)}
    # One model is enough where its family was measured well, of whichever kind the others are.
    for models, runs, enough in ((2, 191, {1}), (2, 190, set()), (1, 191, set())):
        others = (whole("Hopper", 0.3, models=2), whole("Hopper", 0.3, model_kind="moe", models=models, runs=runs))
        assert backed(seen("Hopper", 0.1, models=1), *others) == enough
    # Twice the load is near, and so is half of it.
    for start, end in ((1, 4), (16, 64)):
        assert backed(seen("Hopper", 0.1, start=start, end=end)) == {1}
    # Runs say of fewer GPUs than theirs, of one alone too, and of twice as many over the same link.
    assert backed(seen("Hopper", 0.1, link="fast", tp_from=8, tp_to=8)) == {1}
    assert backed(seen("Hopper", 0.1, link="pcie", tp_from=2, tp_to=2)) == {1, 2}
    assert backed(seen("Hopper", 0.1, link="pcie", tp_from=4, tp_to=4)) == {1, 2, 8}
    # Of several the nearest in size counts, its own link before another one.
    note(seen("Hopper", 0.1), seen("Hopper", 0.2, link="pcie", tp_from=2, tp_to=2), seen("Hopper", 0.3, link="fast"))
    said = {c.num_gpus: c.backing and c.backing.error.median_error for c in ask(trust="any", top=3).configs}
    assert said == {1: 0.1, 2: 0.2, 8: None}


def test_the_own_family_at_another_load_says_more_than_other_families(stored: Callable[..., Ask]) -> None:
    points = {32: {"output_tokens_per_s": 120.0}}
    errors = (whole("Ada", 0.12), whole("Ada", 0.3, start=100, end=None), seen("NVIDIA", 0.2, start=17, end=99))
    ask = stored([an_answer(points=points), an_answer(gpu="L4", points=points)], [], Trust({}, errors))
    backing = {config.gpu: config.backing for config in ask(top=2).configs}
    assert {gpu: (b.error.median_error, b.own_family, b.near) for gpu, b in backing.items() if b} == {
        "H100": (0.2, False, False),
        "L4": (0.12, True, False),
    }
    assert ask(trust="backed").configs == ()


def test_trust_limits_and_orders(stored: Callable[..., Ask]) -> None:
    ask = stored(
        [an_answer(points={8: {"output_tokens_per_s": 900.0}}), an_answer(gpu="L4")],
        [a_run(gpu="L40S", output_tokens_per_s=50.0)],
        Trust({}, (seen("Ada", 0.1), seen("NVIDIA", 0.1))),
    )
    order = {trust: [c.gpu for c in ask(trust=trust).configs] for trust in ("any", "prefer", "backed", "measured")}
    assert order == {
        "any": ["H100", "L4", "L40S"],
        "prefer": ["L4", "L40S", "H100"],
        "backed": ["L4", "L40S"],
        "measured": ["L40S"],
    }
    # Unless told otherwise the headline is what measurements back; beside it stands what would be better.
    group = ask(top=1)
    assert (group.is_backed, [(c.gpu, c.behind_best) for c in group.configs]) == (True, [("L4", 0.0)])
    assert group.unproven is not None
    assert (group.unproven.gpu, group.unproven.behind_best) == ("H100", -8.0)
    assert [ask(trust=trust).unproven for trust in ("any", "backed", "measured")] == [None] * 3
    (lost,) = ask(trust="backed").losers
    assert (lost.cause, lost.examples[0].detail) == (Cause.NOT_TRUSTED, "no measured runs near this")
    with pytest.raises(UnknownNameError, match='unknown trust "mesured"'):
        ask(trust="mesured")


def test_runs_of_another_precision_or_server_do_not_answer_for_the_checkpoint(stored: Callable[..., Ask]) -> None:
    fast = {"output_tokens_per_s": 900.0}
    runs = [a_run(precision="fp4", **fast), a_run(server="trtllm", gpu="L40S", **fast), a_run(gpu="L4")]
    ask = stored([an_answer(), an_answer(gpu="L4")], runs)
    group = ask(examples=None)
    assert [(c.gpu, c.kind) for c in group.configs] == [("L4", "measured"), ("H100", "estimated")]
    (lost,) = (losers for losers in group.losers if losers.cause is Cause.NOT_ASKED)
    assert {loser.detail for loser in lost.examples} == {"measured in fp4 with vllm", "measured in fp8 with trtllm"}
    for asked, gpu in (({"precisions": ("fp4", "fp8")}, "H100"), ({"servers": ("vllm", "trtllm")}, "L40S")):
        best = ask(**asked).best
        assert best is not None
        assert (best.gpu, best.objective, best.kind) == (gpu, 900.0, "measured")
    # Where nothing was estimated, nothing else was asked about.
    assert len(ask(kinds=("measured",)).configs) == 3


# --- intervals ---------------------------------------------------------------------------------------------------

INTERVALS = {0: {"ttft_ms": (0.5, 2.0), "itl_ms": (0.9, 1.2), "output_tokens_per_s": (0.8, 1.1)}}


def test_cautiously_the_pessimistic_end_counts(stored: Callable[..., Ask]) -> None:
    figures = {"ttft_ms": 100.0, "itl_ms": 10.0, "e2e_s": 5.21, "requests_per_s": 2.0}
    curve = {4: {"output_tokens_per_s": 60.0, **figures}, 8: {"itl_ms": 12.0, "output_tokens_per_s": 100.0}}
    ask = stored(
        [
            an_answer(points={c: point | {"regime": 0} for c, point in curve.items()}),
            an_answer(gpu="L4", points={8: {"itl_ms": 12.0, "output_tokens_per_s": 85.0}}),
        ],
        [a_run(gpu="L40S", output_tokens_per_s=70.0)],
        Trust(INTERVALS),
    )
    assert [config.gpu for config in ask(trust="any").configs] == ["H100", "L4", "L40S"]
    group = ask(confidence=0.9, trust="any")
    assert [(c.gpu, c.objective, bool(c.at_confidence)) for c in group.configs] == [
        ("L4", 85.0, False),
        ("H100", 80.0, True),
        ("L40S", 70.0, False),
    ]
    h100 = group.configs[1]
    assert (h100.output_tokens_per_s, h100.counted("output_tokens_per_s")) == (100.0, 80.0)
    assert (h100.itl_ms, h100.counted("itl_ms")) == (12.0, pytest.approx(14.4))
    # Limits as well: the ITL of 12 ms counts as 14.4 ms, and between 4 and 8 the pessimistic ends are interpolated.
    h100 = ask("itl<=13ms", confidence=0.9, gpus=("H100",)).configs[0]
    assert (h100.concurrency, h100.interpolated, h100.itl_ms) == (5, True, 10.5)
    assert h100.counted("itl_ms") == pytest.approx(12.6)
    h100 = ask("itl<=13ms", interpolate=False, gpus=("H100",)).configs[0]
    assert (h100.concurrency, h100.intervals["itl_ms"]) == (8, pytest.approx((10.8, 14.4)))
    h100 = ask("itl<=12ms", interpolate=False, confidence=0.9, gpus=("H100",)).configs[0]
    assert h100.intervals["e2e_s"] == pytest.approx(((50 + 9 * 511) / 1000, (200 + 12 * 511) / 1000))
    assert h100.intervals["requests_per_s"] == pytest.approx((1.6, 2.2))
    lost = ask("itl<=11ms", confidence=0.9, gpus=("H100",))
    assert lost.losers[0].examples[0].detail == "ITL 12 ms at concurrency 4"
    assert lost.unreachable[0].value == pytest.approx(12.0)


# --- in words ----------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = new_store(tmp_path)
    points = {8: {"regime": 0, "output_tokens_per_s": 1000.0}}
    answers = [an_answer(gpu=gpu, points=points, in_sweep=True) for gpu in ("H100", "L4")]
    answers.append(an_answer(gpu="L40S", points={8: {"output_tokens_per_s": 950.0}}, in_sweep=True))
    runs = [a_run(percentiles={("ttft_ms", 95.0): 180.0}, output_tokens_per_s=tokens) for tokens in (1200.0, 1400.0)]
    trust = Trust(INTERVALS, (seen("Ada", 0.12, runs=38), seen("NVIDIA", 0.2)))
    with open_store(url) as store, store.writing() as connection:
        fill(connection, answers, runs, {"roofline": trust})
    return url


def recommend(capsys: pytest.CaptureFixture[str], database: str, *arguments: str) -> str:
    assert execute(["recommend", "--db", database, "--objective", "throughput", *arguments]) == 0
    return capsys.readouterr().out


def test_runs_of_other_lengths_do_not_bury_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = new_store(tmp_path)
    runs = [a_run(lengths=(length, 512)) for length in (100, 200, 300)]
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(in_sweep=True, gpu="L4")], runs)
    shown = " ".join(recommend(capsys, url).split())
    assert "not shown: 3 pairs of model and lengths that only measured runs have" in shown
    assert "100 in" not in shown
    for named in (["--kind", "measured"], ["--input-len", "100"], ["--explain"]):
        assert "100 in / 512 out" in recommend(capsys, url, *named)
    assert len(json.loads(recommend(capsys, url, "--json"))["groups"]) == 4


def test_every_row_says_what_it_rests_on(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = recommend(capsys, database, "--top", "3", "--no-slo")
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert rows[2].split()[-1] == "behind"
    assert "One H100 x1 fp8 kv-fp8 800\u20131,300" in rows[3] or "1,300 (measured)" in rows[3]
    assert "1,000 (800\u20131,100)" in rows[4]
    assert "measured: 2 runs, vllm 0.19, 2026-04-17, lab" in rows
    explained = " ".join(recommend(capsys, database, "--explain").split())
    assert (
        "estimated: tok/s: half of 38 runs within 12 %, nine of ten within 24 % (Ada, dense, fp8, 1 GPU)" in explained
    )
    monkeypatch.setenv("COLUMNS", "80")
    shown = recommend(capsys, database, "--kind", "estimated", "--top", "2")
    assert "estimated: tok/s: half of 38 runs within 12 %" in shown
    assert "a tie: " in shown
    assert max(map(len, shown.splitlines())) <= 80
    shown = recommend(capsys, database, "--slo", "ttft:p95<=200ms", "--assume-tail", "1.3", "--top", "3")
    assert "180 ms " in shown
    assert "130 ms^" in shown
    shown = recommend(capsys, database, "--cautious", "--top", "3", "--explain")
    assert "roofline says 800" in shown
    told = " ".join(recommend(capsys, database, "--kind", "estimated", "--explain").split())
    assert "no measured runs near this; tok/s: half of 9 runs within 20 % (NVIDIA families that nothing" in told
    assert "roofline says 800" in shown


def test_json_tells_kind_runs_trust_and_intervals(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(recommend(capsys, database, "--json", "--top", "3", "--slo", "ttft:p95<=200ms"))
    (group,) = document["groups"]
    (best,) = group["configurations"]
    assert (best["kind"], best["runs"]["repeats"], best["percentiles"]) == ("measured", 2, {"ttft:p95_ms": 180.0})
    document = json.loads(recommend(capsys, database, "--json", "--top", "3", "--kind", "estimated"))
    first, _, h100 = document["groups"][0]["best_per_gpu"]
    assert (first["gpu"], first["backed"], first["trust"]["near"]) == ("L4", True, True)
    assert (h100["gpu"], h100["itl_ms"], h100["itl_ms_low"], h100["itl_ms_high"]) == ("H100", 10.0, 9.0, 12.0)
    assert (h100["objective_low"], h100["objective_high"]) == (800.0, pytest.approx(1100.0))
    assert (h100["trust"]["own_family"], h100["trust"]["median_error"], h100["runs"]) == (False, 0.2, None)
    assert [tie["gpu"] for tie in document["groups"][0]["ties"]] == ["L40S", "H100"]


def test_a_measured_curve_is_continued_by_the_estimate_scaled_to_its_end(stored: Callable[..., Ask]) -> None:
    curve = {
        8: {"output_tokens_per_s": 1000.0, "itl_ms": 8.0},
        16: {"output_tokens_per_s": 1800.0, "itl_ms": 9.0},
        32: {"output_tokens_per_s": 3000.0, "itl_ms": 12.0},
        64: {"output_tokens_per_s": 9000.0, "itl_ms": 13.0, "queued": True},
    }
    runs = [
        a_run(concurrency=8, output_tokens_per_s=1100.0, itl_ms=7.0),
        a_run(concurrency=16, output_tokens_per_s=1500.0, itl_ms=10.0),
    ]
    ask = stored([an_answer(points=curve), an_answer(gpu="L4")], runs)
    # A benchmark that stopped at 16 says nothing against 32: there the estimate counts, times 1500 / 1800.
    best = ask().configs[0]
    assert (best.gpu, best.kind_label, best.concurrency) == ("H100", "measured, extended", 32)
    assert best.objective == pytest.approx(3000 * 1500 / 1800)
    assert best.itl_ms == pytest.approx(12 * 10 / 9)
    assert best.runs is not None
    assert best.runs.repeats == 1
    # Within what was measured nothing changes; between its end and the next point it is extended, too.
    within = ask("itl<=10ms").configs[0]
    assert (within.kind_label, within.concurrency, within.objective) == ("measured", 16, 1500.0)
    between = ask("itl<=11ms").configs[0]
    assert (between.kind_label, between.interpolated) == ("measured, extended", True)
    assert 1500.0 < between.objective < best.objective
    for only in ({"trust": "measured"}, {"kinds": ("measured",)}):
        bare = ask(**only).configs[0]
        assert (bare.kind_label, bare.objective) == ("measured", 1500.0)
