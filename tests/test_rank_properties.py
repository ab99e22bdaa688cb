"""Ranking in SQL against ranking in a few lines of Python, on random stores, SLOs, objectives and filters."""

from __future__ import annotations

import fnmatch
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout.store import schema
from gpuscout.store.prices import PriceRules
from gpuscout.store.rank import MEASURES, Question, Ranking, rank
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import Slo
from tests.rank_stores import GPUS, LADDER, LENGTHS, MODELS, TDP_W, Row, fill

# Few values, so that ties are frequent; quarters, so that rounding to six decimals is exact.
_figures = st.one_of(st.none(), st.sampled_from([0.25, 1.0, 1.25, 7.5, 10.0, 100.25]))
_points = st.fixed_dictionaries(
    {
        **dict.fromkeys(("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s"), _figures),
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
            standing[answer["engine"][0], *_identity(answer)[:7]] = answer
        tasks = [answer for (name, *_), answer in standing.items() if name == engine]
        best = {answer["task"]: row for answer in standing.values() if (row := _best(answer, question)) is not None}
        ranked = [best[a["task"]] for a in tasks if a["task"] in best and best[a["task"]]["objective"] is not None]
        ranked.sort(key=lambda row: (row["score"], row["names"]))
        for row in ranked:
            same = [(name, a["task"]) for (name, *case), a in standing.items() if case == row["identity"]]
            row["opinions"] = {name: best.get(task, {}).get("objective") for name, task in same}
        unranked = {best[a["task"]]["gpu"] for a in tasks if best.get(a["task"], {"objective": 0})["objective"] is None}
        qualifies = any(a["task"] in best for a in tasks)
        found[key] = {"tasks": tasks, "ranked": ranked, "engine": engine, "unranked": unranked, "qualifies": qualifies}
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
        and (not question.tensor_parallel or answer["tensor_parallel"] in question.tensor_parallel)
        and (question.min_memory_gb is None or answer["gpu"] != "L4")
    )


def _version(answer: Row, question: Question) -> tuple[int, ...]:
    """The answer that stands has the highest. A sweep prefers the engine it lists first."""
    engine = answer["engine"][1]
    return (-engine if question.sweep else engine, answer["model_version"], answer["gpu_version"])


def _limits_on_means(question: Question) -> list[tuple[Slo, float]]:
    return [
        (slo, slo.limit if slo.percentile is None else slo.limit / (question.assume_tail or 1.0))
        for slo in question.slos
        if slo.percentile is None or question.assume_tail
    ]


def _meets(point: Row, limits: list[tuple[Slo, float]]) -> bool:
    values = [(point[slo.column], slo, limit) for slo, limit in limits]
    return all(v is not None and (v >= limit if slo.at_least else v <= limit) for v, slo, limit in values)


def _between(below: Row, above: Row, c: int) -> Row:
    share = (c - below["c"]) / (above["c"] - below["c"])
    names = ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s")
    known = {name: below[name] is not None and above[name] is not None for name in names}
    figures = {name: below[name] + (above[name] - below[name]) * share if known[name] else None for name in names}
    return {**figures, "c": c, "queued": above["queued"], "interpolated": True}


def _best(answer: Row, question: Question) -> Row | None:
    """The best operating point of a task; objective None: what it needs of the GPU is not known."""
    if answer["outcome"] != "ok" or (question.assume_tail is None and any(slo.percentile for slo in question.slos)):
        return None
    limits = _limits_on_means(question)
    aim = [(MEASURES[name], weight, name) for name, weight in question.aim.weights]
    positive = len(aim) > 1 or aim[0][0].needs is not None
    points = [
        {**point, "c": concurrency, "interpolated": False}
        for concurrency, point in sorted(answer["points"].items())
        if question.sweep is None or concurrency in LADDER
    ]

    def known(point: Row) -> bool:
        values = [point[measure.column] for measure, _, _ in aim]
        return all(value is not None and (value > 0 or not positive) for value in values)

    def order(point: Row) -> tuple[Any, ...]:
        signed = [(-1 if m.column == "output_tokens_per_s" else 1, point[m.column], w) for m, w, _ in aim]
        if len(aim) == 1:
            score = round(signed[0][0] * signed[0][1] * 1e6)
        else:
            score = round(sum(sign * w * math.log(value) for sign, value, w in signed) * 1e6)
        return (point["queued"], score, point["c"])

    def inside(below: Row, above: Row) -> list[Row]:
        steps = [_between(below, above, c) for c in range(below["c"] + 1, above["c"])]
        return [point for point in steps if _meets(point, limits)]

    candidates = [point for point in points if _meets(point, limits) and known(point)]
    upwards = question.interpolate and any(not slo.at_least for slo, _ in limits)
    downwards = question.interpolate and any(slo.at_least for slo, _ in limits)
    if candidates:
        best = min(candidates, key=order)
        place = points.index(best)
        candidates = [best]
        if upwards and place + 1 < len(points):
            candidates += inside(best, points[place + 1])[-1:]
        if downwards and place > 0:
            candidates += inside(points[place - 1], best)[:1]
    elif upwards and downwards:
        fast = [place for place, p in enumerate(points) if _meets(p, [it for it in limits if not it[0].at_least])]
        if fast and fast[-1] + 1 < len(points):
            between = inside(points[fast[-1]], points[fast[-1] + 1])
            candidates = [*between[:1], *between[-1:]]
    candidates = [point for point in candidates if known(point)]
    return _valued(answer, min(candidates, key=order), question) if candidates else None


def _valued(answer: Row, point: Row, question: Question) -> Row:
    gpus = answer["tensor_parallel"]
    usd, tdp = (question.prices.overrides or {}).get(answer["gpu"]), TDP_W.get(answer["gpu"])
    tokens = point["output_tokens_per_s"]

    def value(name: str) -> float | None:
        if name == "cost":
            return None if usd is None else usd * gpus / (tokens * 3600 / 1e6)
        if name == "cost-per-hour":
            return None if usd is None else usd * gpus
        if name == "energy":
            return None if tdp is None else tdp / 1000 * gpus / (tokens * 3600 / 1e6)
        if name == "throughput-per-gpu":
            return float(tokens / gpus)
        return float(point[MEASURES[name].column])

    values = [(value(name), weight, MEASURES[name].more_is_better) for name, weight in question.aim.weights]
    objective, sign = values[0][0], -1 if values[0][2] else 1
    if len(values) > 1:
        sign, objective = 1, None
        if all(v is not None for v, _, _ in values):
            objective = math.exp(sum((-w if more else w) * math.log(v or 0) for v, w, more in values))
    unknown = float("inf")
    return {
        "task": answer["task"],
        "gpu": answer["gpu"],
        "identity": list(_identity(answer)[:7]),
        "concurrency": point["c"],
        "interpolated": point["interpolated"],
        "objective": objective,
        "score": objective is not None
        and (
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
        assert [(c.task_id, c.concurrency, c.interpolated) for c in group.configs] == [
            (row["task"], row["concurrency"], row["interpolated"]) for row in want[: question.top]
        ]
        assert {one.config.gpu for one in group.unranked} == expected[key]["unranked"]
        first = {row["gpu"]: row["task"] for row in reversed(want)}
        assert {c.gpu: c.task_id for c in group.best_per_gpu} == first
        for config in group.configs:
            row = next(row for row in want if row["task"] == config.task_id)
            scale = want[0]["objective"] if len(question.aim.weights) > 1 else 1.0
            assert config.objective * scale == pytest.approx(row["objective"])
            if len(row["opinions"]) > 1:
                scale = row["objective"] if len(question.aim.weights) > 1 else 1.0
                said = {o.engine: None if o.objective is None else o.objective * scale for o in config.opinions}
                assert said == pytest.approx(row["opinions"])
            assert config.place == 1 + sum(other["score"] < row["score"] for other in want)
            assert _meets(vars(config), _limits_on_means(question))
        # Every task that counts is either ranked or among the losers.
        lost = [loser.task_id for losers in group.losers for loser in losers.examples]
        assert sorted([*lost, *(row["task"] for row in want)]) == sorted(a["task"] for a in expected[key]["tasks"])
        assert all(losers.count == len(losers.examples) for losers in group.losers)
        check_shortfall(group, expected[key], question)


def check_shortfall(group: Any, expected: Row, question: Question) -> None:
    """What comes closest, where nothing qualifies."""
    points = [
        point
        for answer in expected["tasks"]
        if answer["outcome"] == "ok"
        for concurrency, point in answer["points"].items()
        if question.sweep is None or concurrency in LADDER
    ]
    limits = _limits_on_means(question)
    without = question.assume_tail is None and any(slo.percentile for slo in question.slos)
    if expected["qualifies"] or not limits or without:
        assert group.unreachable == ()
        assert group.closest is None
        return

    def ratio(point: Any, slo: Slo, limit: float) -> float:
        value = point[slo.column]
        return 1e300 if value is None else limit / value if slo.at_least else value / limit

    unmet = []
    for slo, limit in limits:
        nearest = min(
            (p for p in points if p[slo.column] is not None), key=lambda p: ratio(p, slo, limit), default=None
        )
        if nearest is not None and ratio(nearest, slo, limit) > 1:
            unmet.append((slo, nearest[slo.column]))
    assert [(u.slo, u.value) for u in group.unreachable] == unmet
    if group.closest:
        assert not unmet

        def worst(point: Any) -> float:
            return max(ratio(point, slo, limit) for slo, limit in limits)

        assert worst(vars(group.closest)) == min(map(worst, points))
