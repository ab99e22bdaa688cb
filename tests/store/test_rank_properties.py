"""Ranking in SQL against ranking in a few lines of Python, on random stores, SLOs, objectives and filters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout.store import schema
from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.ranking.rank import MEASURES, Question, RankedConfig, Ranking, rank
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import Slo
from gpuscout.sweeps.trust import ObservedError, Trust
from tests.support.rank_reference import identity, meets, names_of, ratio, reference
from tests.support.rank_stores import FAMILIES, GPUS, LADDER, LENGTHS, MODELS, Row, fill

pytestmark = pytest.mark.slow

# Few values, so that ties are frequent; quarters, so that rounding to six decimals is exact.
_figures = st.one_of(st.none(), st.sampled_from([0.25, 1.0, 1.25, 7.5, 10.0, 100.25]))
_points = st.fixed_dictionaries(
    {
        **dict.fromkeys(("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s"), _figures),
        "queued": st.booleans(),
        "regime": st.sampled_from([None, 0, 1]),
    }
)
_settings = {
    "model": st.sampled_from(MODELS),
    "gpu": st.sampled_from(GPUS),
    "lengths": st.sampled_from(LENGTHS),
    "tensor_parallel": st.sampled_from([1, 2, 4]),
    "precision": st.sampled_from(["bf16", "fp8"]),
    "kv_precision": st.sampled_from([None, "fp8"]),
    "server": st.sampled_from(["vllm", "sglang"]),
    # Versions: which row of the names table, the later one the newer.
    "model_version": st.sampled_from([0, 0, 0, 1]),
    "gpu_version": st.sampled_from([0, 0, 0, 1]),
}
_answers = st.fixed_dictionaries(
    {
        **_settings,
        "engine": st.sampled_from([("roofline", 0), ("roofline", 0), ("roofline", 1), ("oracle", 0)]),
        "outcome": st.sampled_from(["ok", "ok", "ok", "does_not_fit", "not_supported"]),
        "in_sweep": st.booleans(),
        "points": st.dictionaries(st.sampled_from([*LADDER, 16]), _points, max_size=4),
    }
)


def _versioned(answer: Row) -> tuple[Any, ...]:
    return (*identity(answer), *(answer[name] for name in ("model_version", "gpu_version", "engine")))


_stores = st.lists(_answers, min_size=1, max_size=14, unique_by=_versioned)
# Of few configurations, so that many are repeats, neighbours, or what was estimated too.
_few = {
    "model": st.just(MODELS[0]),
    "precision": st.just("fp8"),
    "lengths": st.just(LENGTHS[0]),
    "kv_precision": st.sampled_from([None, None, "fp8"]),
    "tensor_parallel": st.sampled_from([1, 1, 2]),
}
_runs = st.fixed_dictionaries(
    {
        **_settings,
        **_few,
        **dict.fromkeys(("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s"), _figures),
        "gpu": st.sampled_from(GPUS[:2]),
        "server": st.just("vllm"),
        "load": st.sampled_from(["closed_loop", "closed_loop", "closed_loop", "request_rate", "offline_maximum"]),
        "concurrency": st.sampled_from([2, 8, 8, 4]),
        "request_rate": st.sampled_from([None, 1.0]),
        "source": st.sampled_from(["lab", "lab", "lab", "web"]),
        "server_version": st.sampled_from([None, "0.19"]),
        "tool": st.none(),
        "measured_on": st.sampled_from([None, date(2026, 4, 17)]),
        "percentiles": st.dictionaries(
            st.sampled_from([("ttft_ms", 95.0), ("itl_ms", 95.0), ("itl_ms", 99.0)]),
            st.sampled_from([0.25, 1.25, 7.5, 100.25]),
        ),
    }
).map(lambda run: run | ({} if run["load"] == "closed_loop" or run["request_rate"] is None else {"concurrency": None}))
_bands = st.sampled_from([(1, 4), (5, None)])
_errors = st.builds(
    lambda family, kind, band, metric, runs, models, *of: ObservedError(
        family, kind, *band, metric, runs, models, 0.1, 0.3, 0.0, *(of if family != "NVIDIA" else ())
    ),
    st.sampled_from([*sorted(set(FAMILIES.values())), "NVIDIA"]),
    st.sampled_from(["dense", "moe"]),
    _bands,
    st.sampled_from(["ttft_ms", "itl_ms", "output_tokens_per_s"]),
    st.sampled_from([9, 9, 7, 250]),
    st.sampled_from([4, 3, 1]),
    st.sampled_from(["fp8", "16-bit", "any"]),
    st.sampled_from(["single", "pcie", "any"]),
    st.just(1),
    st.sampled_from([1, 2, None]),
)


def _key(error: ObservedError) -> tuple[object, ...]:
    family, kind, start = error.gpu_family, error.model_kind, error.concurrency_from
    return family, kind, start, error.metric, error.precision, error.link


_factors = st.dictionaries(
    st.sampled_from(["ttft_ms", "itl_ms", "output_tokens_per_s"]), st.sampled_from([(0.5, 2.0), (0.75, 1.25)])
)
_trust = st.builds(
    Trust,
    intervals=st.dictionaries(st.sampled_from([0, 1]), _factors),
    errors=st.lists(_errors, max_size=6, unique_by=_key).map(tuple),
)
_limits = st.sampled_from([0.5, 1.0, 5.0, 20.0, 200.0])
_slos = st.one_of(
    st.builds(Slo, metric=st.sampled_from(["ttft", "itl", "e2e"]), limit=_limits),
    st.builds(Slo, metric=st.just("rate"), limit=_limits),
    st.builds(Slo, metric=st.sampled_from(["ttft", "itl"]), limit=_limits, percentile=st.just(95.0)),
)
# The H100 of these stores is in no book, the others are.
_prices = st.builds(
    PriceRules,
    overrides=st.sampled_from([{"L4": 0.5, "L40S": 1.25}, {"L4": 0.5, "L40S": 1.25, "H100": 4.0}]),
)
_questions = st.builds(
    Question,
    objective=st.sampled_from(sorted(MEASURES)),
    weights=st.sampled_from([(), (), (("cost", 0.7), ("itl", 0.3)), (("throughput", 1.0), ("energy", 3.0))]),
    slos=st.lists(_slos, max_size=3, unique_by=lambda slo: slo.metric).map(tuple),
    interpolate=st.booleans(),
    assume_tail=st.sampled_from([None, 1.25]),
    prices=_prices,
    tensor_parallel=st.sampled_from([(), (), (1, 2)]),
    min_memory_gb=st.sampled_from([None, None, 40.0]),
    sweep=st.sampled_from([None, None, "nightly"]),
    models=st.sampled_from([(), ("a/*",), ("One",), ("b/One-v2", "a/Two")]),
    gpus=st.sampled_from([(), ("l4*",), ("H100", "L4")]),
    workload=st.sampled_from([None, None, "chat"]),
    input_len=st.sampled_from([None, None, 4096]),
    engines=st.sampled_from([(), (), ("oracle", "roofline"), ("roofline",), ("measured", "roofline")]),
    kinds=st.sampled_from([(), (), ("estimated",), ("measured",)]),
    trust=st.sampled_from(["any", "any", "prefer", "backed", "measured"]),
    confidence=st.sampled_from([0.5, 0.5, 0.9]),
    servers=st.sampled_from([(), ("vllm",)]),
    precisions=st.sampled_from([(), ("fp8",)]),
    max_gpus=st.sampled_from([None, 2]),
    top=st.sampled_from([None, 1, 2, 5]),
    gpu_types=st.sampled_from([None, None, 1, 2]),
    examples=st.none(),
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[sa.Connection]:
    """A connection to empty tables."""
    if request.param == "sqlite":
        engine = sa.create_engine("sqlite://")
        with engine.connect() as connection:
            schema.metadata.create_all(connection)
            yield connection
        engine.dispose()
        return
    from tests.support.stores import postgres_database

    with postgres_database(request.getfixturevalue("postgres")) as url:
        engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
        with engine.connect() as connection:
            schema.metadata.create_all(connection)
            yield connection
        engine.dispose()


# Each run of the tests draws others; `GPUSCOUT_TEST_EXAMPLES=2000` goes through thousands at once.
_EXAMPLES = int(os.environ.get("GPUSCOUT_TEST_EXAMPLES", "200"))


@settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    answers=_stores,
    runs=st.lists(_runs, max_size=12),
    trust=st.fixed_dictionaries({"roofline": _trust, "oracle": _trust}),
    question=_questions,
)
def test_sql_ranks_like_python(
    database: sa.Connection, answers: list[Row], runs: list[Row], trust: dict[str, Trust], question: Question
) -> None:
    with database.begin_nested() as savepoint:
        fill(database, answers, runs, trust)
        expected = reference(answers, runs, trust, question)
        if not expected:
            with pytest.raises(InputError):
                rank(database, question)
        else:
            ranking = rank(database, question)
            check(ranking, expected, question)
            check_brief(rank(database, replace(question, briefly=True)), ranking)
        savepoint.rollback()


def check_brief(brief: Ranking, full: Ranking) -> None:
    """It ranks and counts the same, and has the nearest loser of every cause."""
    for one, other in zip(brief.groups, full.groups, strict=True):
        assert (one.configs, one.best_per_gpu, one.candidates) == (other.configs, other.best_per_gpu, other.candidates)
        assert [(out.cause, out.slo, out.count) for out in one.losers] == [
            (out.cause, out.slo, out.count) for out in other.losers
        ]
        assert [(type_.gpu, type_.reason) for type_ in one.unranked] == [(t.gpu, t.reason) for t in other.unranked]
        if other.best is None:
            assert one.losers == other.losers
    assert _nearest(brief) == _nearest(full)


def _nearest(ranking: Ranking) -> dict[object, float]:
    found: dict[object, float] = {}
    for losers in (losers for group in ranking.groups for losers in group.losers):
        for loser in losers.examples[:1]:
            ratio = loser.ratio if loser.ratio is not None else float("inf")
            found[losers.cause, losers.slo] = min(ratio, found.get((losers.cause, losers.slo), ratio))
    return found


def check(ranking: Ranking, expected: dict[tuple[str, int, int], Row], question: Question) -> None:
    keys = [(group.model, group.input_len, group.output_len) for group in ranking.groups]
    assert keys == sorted(expected, key=lambda key: (key[1:], key[0]))
    for key, group in zip(keys, ranking.groups, strict=True):
        want = expected[key]["ranked"]
        assert group.engine == expected[key]["engine"]
        assert group.candidates == len(want)
        assert [(_who(c), c.concurrency, c.interpolated) for c in group.configs] == [
            (_who(row), row["concurrency"], row["interpolated"]) for row in want[: question.top]
        ]
        assert {one.config.gpu for one in group.unranked} == expected[key]["unranked"]
        first: dict[str, Any] = {}
        for row in want:
            first.setdefault(row["gpu"], _who(row))
        assert [(c.gpu, _who(c)) for c in group.best_per_gpu] == list(first.items())[: question.gpu_types]
        for config in group.configs:
            row = next(row for row in want if _who(row) == _who(config))
            scale = want[0]["objective"] if len(question.aim.weights) > 1 else 1.0
            assert config.objective * scale == pytest.approx(row["objective"])
            if len(row["opinions"]) > 1:
                scale = row["objective"] if len(question.aim.weights) > 1 else 1.0
                said = {o.engine: None if o.objective is None else o.objective * scale for o in config.opinions}
                assert said == pytest.approx(row["opinions"])
            assert config.place == 1 + sum(other["score"] < row["score"] for other in want)
            check_config(config, row, question)
            assert config.backed == row["backed"]
        # Every configuration that counts is either ranked or among the losers.
        lost = [_who(loser) for losers in group.losers for loser in losers.examples]
        assert sorted([*lost, *map(_who, want)]) == sorted(map(_who, expected[key]["counting"]))
        assert all(losers.count == len(losers.examples) for losers in group.losers)
        check_shortfall(group, expected[key], question)


def _who(one: Any) -> tuple[Any, ...]:
    """Whether measured, the task if not, and the names."""
    task = one.task_id if hasattr(one, "task_id") else one["task"]
    names = one["names"] if isinstance(one, dict) and "names" in one else names_of(one)
    return task is None, task or 0, *names


def check_config(config: RankedConfig, row: Row, question: Question) -> None:
    """What a row says of itself, and that it meets the limits by what it shows."""
    assert (config.kind == "measured") == (config.runs is not None) == (row["task"] is None)
    if config.runs is not None and not config.interpolated:
        assert config.runs.repeats == row["repeats"]
    tails = [slo for slo in question.slos if slo.percentile is not None]
    assert config.assumed_tail == (question.assume_tail if tails and config.kind == "estimated" else None)
    shown = {slo.column: config.counted(slo.column) for slo in question.slos} | dict(config.percentiles)
    # A mean times the tail that is divided by it again may differ in the last bits.
    assert meets(
        shown,
        [(s, s.name if s.percentile else s.column, s.limit * (1 + 1e-12)) for s in question.slos if not s.at_least],
    )
    assert meets(shown, [(slo, slo.column, slo.limit) for slo in question.slos if slo.at_least])


def check_shortfall(group: Any, expected: Row, question: Question) -> None:
    """What comes closest, where nothing qualifies."""
    without = question.assume_tail is None and any(slo.percentile for slo in question.slos)
    if expected["qualifies"] or not question.slos or without:
        assert group.unreachable == ()
        assert group.closest is None
        return
    points = [(one, point) for one in expected["counting"] if one["outcome"] == "ok" for point in one["points"]]
    unmet = []
    for place, slo in enumerate(question.slos):
        ratios = [(ratio(point, *one["limits"][place]), point[one["limits"][place][1]]) for one, point in points]
        nearest = min(ratios, default=(1e300, None), key=lambda pair: pair[0])
        if 1 < nearest[0] < 1e300:
            unmet.append((slo, nearest[0]))
    # Several points may be as near, and measured and estimated figures have limits of their own.
    assert [unmet.slo for unmet in group.unreachable] == [slo for slo, _ in unmet]
    if group.closest:
        assert not unmet
        worst = [max(ratio(point, *limit) for limit in one["limits"]) for one, point in points]
        assert _worst(group, question) == pytest.approx(min(worst))


def _worst(group: Any, question: Question) -> float:
    """How far what comes closest is from the limits."""
    ratios = []
    for slo, value in zip(question.slos, group.closest_values, strict=True):
        ratios.append(1e300 if value is None else slo.limit / value if slo.at_least else value / slo.limit)
    return max(ratios)
