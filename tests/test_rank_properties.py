"""Ranking in SQL against ranking in a few lines of Python, on random stores, SLOs, objectives and filters."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout.store import schema
from gpuscout.store.rank import MEASURES, Question, Ranking, rank
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import Slo
from tests.rank_stores import GPUS, LADDER, LENGTHS, MODELS, Row, fill

# Few values, so that ties are frequent; quarters, so that rounding to six decimals is exact.
_figures = st.one_of(st.none(), st.sampled_from([0.25, 1.0, 1.25, 7.5, 10.0, 100.25]))
_points = st.fixed_dictionaries(
    {
        **dict.fromkeys(("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s"), _figures),
        "queued": st.booleans(),
    }
)
_answers = st.fixed_dictionaries(
    {
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
        "engine": st.sampled_from([("roofline", 0), ("roofline", 0), ("roofline", 1), ("oracle", 0)]),
        "outcome": st.sampled_from(["ok", "ok", "ok", "does_not_fit", "not_supported"]),
        "in_sweep": st.booleans(),
        "points": st.dictionaries(st.sampled_from([*LADDER, 16]), _points, max_size=4),
    }
)


def _identity(answer: Row) -> tuple[Any, ...]:
    names = ("model", "gpu", "lengths", "tensor_parallel", "precision", "kv_precision", "server")
    return tuple(answer[name] for name in (*names, "model_version", "gpu_version", "engine"))


_stores = st.lists(_answers, min_size=1, max_size=14, unique_by=_identity)
_limits = st.sampled_from([0.5, 1.0, 5.0, 20.0, 200.0])
_questions = st.builds(
    Question,
    objective=st.sampled_from(sorted(MEASURES)),
    slos=st.lists(st.builds(Slo, metric=st.sampled_from(["ttft", "itl", "e2e"]), limit=_limits), max_size=3).map(tuple),
    sweep=st.sampled_from([None, None, "nightly"]),
    models=st.sampled_from([(), ("a/*",), ("One",), ("b/One-v2", "a/Two")]),
    gpus=st.sampled_from([(), ("l4*",), ("H100", "L4")]),
    workload=st.sampled_from([None, None, "chat"]),
    input_len=st.sampled_from([None, None, 4096]),
    engines=st.sampled_from([(), (), ("oracle", "roofline"), ("roofline",)]),
    servers=st.sampled_from([(), ("vllm",)]),
    precisions=st.sampled_from([(), ("fp8",)]),
    max_gpus=st.sampled_from([None, 2]),
    top=st.sampled_from([None, 1, 2, 5]),
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
    from tests.stores import postgres_database

    with postgres_database(request.getfixturevalue("postgres")) as url:
        engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
        with engine.connect() as connection:
            schema.metadata.create_all(connection)
            yield connection
        engine.dispose()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(answers=_stores, question=_questions)
def test_sql_ranks_like_python(database: sa.Connection, answers: list[Row], question: Question) -> None:
    with database.begin_nested() as savepoint:
        fill(database, answers)
        expected = reference(answers, question)
        if not expected:
            with pytest.raises(InputError):
                rank(database, question)
        else:
            check(rank(database, question), expected, question)
        savepoint.rollback()


# --- the reference -----------------------------------------------------------------------------------------------


def reference(answers: list[Row], question: Question) -> dict[tuple[str, int, int], Row]:
    """Model and lengths -> the tasks that count, and of those that qualify (the best point of each), best first."""
    kept = [dict(answer, task=number) for number, answer in enumerate(answers, 1) if _asked(answer, question)]
    groups: dict[tuple[str, int, int], list[Row]] = defaultdict(list)
    for answer in kept:
        groups[answer["model"], *answer["lengths"]].append(answer)
    found = {}
    for key, group in groups.items():
        # Of two engines the preferred, else the newest ("oracle" was stored last; the sweep lists it last).
        order = question.engines or (("roofline", "oracle") if question.sweep else ("oracle", "roofline"))
        engine = min((a["engine"][0] for a in group), key=order.index)
        standing: dict[tuple[Any, ...], Row] = {}
        for answer in sorted(group, key=lambda a: _version(a, question)):
            if answer["engine"][0] == engine:
                standing[_identity(answer)[:7]] = answer
        ranked = [row for answer in standing.values() if (row := _best(answer, question)) is not None]
        ranked.sort(key=lambda row: (row["score"], row["names"]))
        found[key] = {"tasks": list(standing.values()), "ranked": ranked, "engine": engine}
    return found


def _asked(answer: Row, question: Question) -> bool:
    def matches(name: str, patterns: tuple[str, ...]) -> bool:
        spellings = (name.casefold(), name.casefold().rpartition("/")[2])
        return not patterns or any(fnmatch.fnmatchcase(s, p.casefold()) for s in spellings for p in patterns)

    return (
        matches(answer["model"], question.models)
        and matches(answer["gpu"], question.gpus)
        and (question.sweep is None or answer["in_sweep"])
        and (question.workload is None or answer["lengths"] == LENGTHS[0])
        and question.input_len in (None, answer["lengths"][0])
        and (not question.engines or answer["engine"][0] in question.engines)
        and (not question.servers or answer["server"] in question.servers)
        and (not question.precisions or answer["precision"] in question.precisions)
        and (question.max_gpus is None or answer["tensor_parallel"] <= question.max_gpus)
    )


def _version(answer: Row, question: Question) -> tuple[int, ...]:
    """The answer that stands has the highest. A sweep prefers the engine it lists first."""
    engine = answer["engine"][1]
    return (-engine if question.sweep else engine, answer["model_version"], answer["gpu_version"])


def _best(answer: Row, question: Question) -> Row | None:
    measure = MEASURES[question.objective]
    sign = -1 if measure.more_is_better else 1

    def value(concurrency: int) -> float:
        return float(answer["points"][concurrency][measure.column])

    qualifying = [
        concurrency
        for concurrency, point in answer["points"].items()
        if answer["outcome"] == "ok"
        and (question.sweep is None or concurrency in LADDER)
        and point[measure.column] is not None
        and all(point[slo.column] is not None and point[slo.column] <= slo.limit for slo in question.slos)
    ]
    if not qualifying:
        return None
    at = min(qualifying, key=lambda c: (sign * value(c), answer["points"][c]["queued"], c))
    point, gpus = answer["points"][at], answer["tensor_parallel"]
    objective = value(at) / gpus if measure.per_gpu else value(at)
    unknown = float("inf")
    return {
        "task": answer["task"],
        "gpu": answer["gpu"],
        "concurrency": at,
        "objective": objective,
        "score": (
            sign * round(objective, 6),
            point["queued"],
            gpus,
            unknown if point["itl_ms"] is None else point["itl_ms"],
            unknown if point["ttft_ms"] is None else point["ttft_ms"],
        ),
        "names": (answer["gpu"], gpus, answer["precision"], answer["kv_precision"] or "", answer["server"]),
    }


def check(ranking: Ranking, expected: dict[tuple[str, int, int], Row], question: Question) -> None:
    keys = [(group.model, group.input_len, group.output_len) for group in ranking.groups]
    assert keys == sorted(expected, key=lambda key: (key[1:], key[0]))
    for key, group in zip(keys, ranking.groups, strict=True):
        want = expected[key]["ranked"]
        assert group.engine == expected[key]["engine"]
        assert group.candidates == len(want)
        assert [(c.task_id, c.concurrency) for c in group.configs] == [
            (row["task"], row["concurrency"]) for row in want[: question.top]
        ]
        first = {row["gpu"]: row["task"] for row in reversed(want)}
        assert {c.gpu: c.task_id for c in group.best_per_gpu} == first
        for config in group.configs:
            row = next(row for row in want if row["task"] == config.task_id)
            assert config.objective == pytest.approx(row["objective"])
            assert config.place == 1 + sum(other["score"] < row["score"] for other in want)
            for slo in question.slos:
                assert getattr(config, slo.column) <= slo.limit
        # Every task that counts is either ranked or among the losers.
        lost = [loser.task_id for losers in group.losers for loser in losers.examples]
        assert sorted([*lost, *(row["task"] for row in want)]) == sorted(a["task"] for a in expected[key]["tasks"])
        assert all(losers.count == len(losers.examples) for losers in group.losers)
        check_shortfall(group, expected[key]["tasks"], question)


def check_shortfall(group: Any, tasks: list[Row], question: Question) -> None:
    """What comes closest, where nothing qualifies."""
    points = [
        point
        for answer in tasks
        if answer["outcome"] == "ok"
        for concurrency, point in answer["points"].items()
        if question.sweep is None or concurrency in LADDER
    ]
    if group.candidates or not question.slos:
        assert group.unreachable == ()
        assert group.closest is None
        return
    nearest = {
        slo: min((p[slo.column] for p in points if p[slo.column] is not None), default=None) for slo in question.slos
    }
    unmet = [slo for slo in question.slos if nearest[slo] is not None and nearest[slo] > slo.limit]
    assert [(u.slo, u.value) for u in group.unreachable] == [(slo, nearest[slo]) for slo in unmet]
    if group.closest:
        assert not unmet

        def worst(point: Any) -> float:
            return max(1e300 if point[s.column] is None else point[s.column] / s.limit for s in question.slos)

        assert worst(vars(group.closest)) == min(map(worst, points))
