"""Ranking in plain Python: read all points, filter, interpolate, sort. What the rules mean, without any SQL."""

from __future__ import annotations

import fnmatch
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from gpuscout.store.ranking.rank import MEASURES, Question
from gpuscout.sweeps.slo import Slo
from gpuscout.sweeps.trust import ObservedError, Trust
from tests.support.rank_stores import EXPERTS, FAMILIES, LADDER, LENGTHS, TDP_W, Row

METRICS = ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s")
SETTINGS = ("model", "gpu", "lengths", "tensor_parallel", "precision", "kv_precision", "server")
_LOADS = ("closed_loop", "request_rate", "offline_maximum")
Limits = Sequence[tuple[Slo, str, float]]  # what must be, in which figure, how much


def identity(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in SETTINGS)


def reference(
    answers: list[Row], runs: list[Row], trust: Mapping[str, Trust], question: Question
) -> dict[tuple[str, int, int], Row]:
    """Model and lengths -> the configurations that count, and the best point of each that qualifies, best first."""
    estimates = [_estimate(number, answer, trust, question) for number, answer in enumerate(answers, 1)]
    if question.kinds == ("measured",):
        estimates = []
    estimates = [one for one in estimates if _asked(one, question) and _engine_asked(one, question)]
    measured = _measured(runs, answers, question)
    groups: dict[tuple[str, int, int], list[Row]] = defaultdict(list)
    for one in [*estimates, *measured]:
        groups[one["model"], *one["lengths"]].append(one)
    return {key: _group(group, trust, question) for key, group in groups.items()}


def _group(group: list[Row], trust: Mapping[str, Trust], question: Question) -> Row:
    measured = [one for one in group if one["task"] is None]
    # Of two engines the preferred, else the newest ("oracle" was stored last; the sweep lists it last).
    order = question.engines or (("roofline", "oracle") if question.sweep else ("oracle", "roofline"))
    standing: dict[tuple[Any, ...], Row] = {}
    for one in sorted((one for one in group if one["task"] is not None), key=lambda one: _version(one, question)):
        standing[one["engine"][0], *identity(one)] = one
    # What an engine does not support is no answer, unless nobody has another.
    ranks = ((one["outcome"] == "not_supported", order.index(one["engine"][0])) for one in standing.values())
    _, first = min(ranks, default=(False, None))
    engine = "measured" if first is None else order[first]
    for one in measured:
        _extend(one, [other for other in standing.values() if other["engine"][0] == engine], question)
    for one in [*standing.values(), *measured]:
        one["best"] = _best(one, question)
        if one["task"] is not None and one["best"] is not None:
            one["best"] = _held(one, one["best"], trust, question) or one["best"]
    deciding = [one for one in measured if _decides(one, question)]
    mine = [
        one
        for one in standing.values()
        if one["engine"][0] == engine and not any(_same(one, other) for other in deciding)
    ]
    mine += [one for one in measured if one in deciding or not any(_same(other, one) for other in mine)]
    ranked = []
    for one in mine:
        best = one["best"]
        if best is None or best["objective"] is None:
            continue
        level = _level(one, best, trust, question)
        if (question.trust == "measured" and level > 0) or (question.trust == "backed" and level > 1):
            continue
        if not _was_asked(one, group, question):
            continue
        best["backed"] = level < 2
        if question.trust == "prefer":
            best["score"] = (level == 2, *best["score"])
        best["opinions"] = _opinions(one, standing.values())
        ranked.append(best)
    ranked.sort(key=lambda row: (row["score"], row["names"]))
    enough = {"any": 2, "prefer": 2, "backed": 1, "measured": 0}[question.trust]
    return {
        "counting": mine,
        "ranked": ranked,
        "engine": engine,
        "unranked": {
            one["gpu"]
            for one in mine
            if one["best"] and one["best"]["objective"] is None and _level(one, one["best"], trust, question) <= enough
            if _was_asked(one, group, question)
        },
        "qualifies": any(one["best"] for one in mine),
    }


def _opinions(one: Row, standing: Any) -> dict[str, float | None]:
    said: dict[str, list[float | None]] = defaultdict(list)
    for other in standing:
        if _same(other, one) if one["task"] is None else identity(other) == identity(one):
            said[other["engine"][0]].append(other["best"] and other["best"]["objective"])
    if one["task"] is None:
        said["measured"].append(one["best"]["objective"])
    best = max if one["more_is_better"] else min
    return {name: best((v for v in values if v is not None), default=None) for name, values in said.items()}


def _same(estimate: Row, run: Row) -> bool:
    """Whether an estimate is one of a measured configuration: an unknown KV precision is any."""
    kv = {estimate["kv_precision"], run["kv_precision"]}
    names = [name for name in SETTINGS if name != "kv_precision"]
    return (None in kv or len(kv) == 1) and all(estimate[name] == run[name] for name in names)


def _asked(one: Row, question: Question) -> bool:
    def matches(name: str, patterns: tuple[str, ...]) -> bool:
        spellings = (name.casefold(), name.casefold().rpartition("/")[2])
        return not patterns or any(fnmatch.fnmatchcase(s, p.casefold()) for s in spellings for p in patterns)

    return (
        matches(one["model"], question.models)
        and matches(one["gpu"], question.gpus)
        and (question.workload is None or one["lengths"] == LENGTHS[0])
        and question.input_len in (None, one["lengths"][0])
        and (not question.servers or one["server"] in question.servers)
        and (not question.precisions or one["precision"] in question.precisions)
        and (question.max_gpus is None or one["tensor_parallel"] <= question.max_gpus)
        and (not question.tensor_parallel or one["tensor_parallel"] in question.tensor_parallel)
        and (question.min_memory_gb is None or one["gpu"] != "L4")
    )


def _engine_asked(one: Row, question: Question) -> bool:
    in_sweep = question.sweep is None or one["in_sweep"]
    return in_sweep and (not question.engines or one["engine"][0] in question.engines)


def _version(one: Row, question: Question) -> tuple[int, ...]:
    """The answer that stands has the highest. A sweep prefers the engine it lists first."""
    engine = one["engine"][1]
    return (-engine if question.sweep else engine, one["model_version"], one["gpu_version"])


# --- estimates ---------------------------------------------------------------------------------------------------


def _estimate(number: int, answer: Row, trust: Mapping[str, Trust], question: Question) -> Row:
    """A configuration as its engine sees it; cautiously, by the pessimistic ends of its intervals."""
    points = []
    for concurrency, point in sorted(answer["points"].items()):
        if question.sweep is not None and concurrency not in LADDER:
            continue
        factors = trust[answer["engine"][0]].intervals.get(point["regime"], {}) if question.confidence > 0.5 else {}
        points.append(_pessimistic({**point, "c": concurrency}, factors, answer["lengths"][1]))
    limits = None
    if question.assume_tail is not None or not any(slo.percentile for slo in question.slos):
        tail = question.assume_tail or 1.0
        limits = [(s, s.column, s.limit / tail if s.percentile else s.limit) for s in question.slos]
    neighbours = [(place, place + 1) for place in range(len(points) - 1)]
    return answer | {
        "task": number,
        "raw": answer["points"],
        "points": points,
        "limits": limits,
        "neighbours": neighbours,
    }


def _pessimistic(point: Row, factors: Mapping[str, tuple[float, float]], output_len: int) -> Row:
    def scaled(metric: str, part: str, end: int) -> Any:
        return point[metric] if point[metric] is None or part not in factors else point[metric] * factors[part][end]

    found = point | {metric: scaled(metric, metric, 1) for metric in ("ttft_ms", "itl_ms")}
    found |= {metric: scaled(metric, "output_tokens_per_s", 0) for metric in ("output_tokens_per_s", "requests_per_s")}
    if factors.keys() & {"ttft_ms", "itl_ms"} and None not in (point["e2e_s"], point["ttft_ms"], point["itl_ms"]):
        found["e2e_s"] = (found["ttft_ms"] + found["itl_ms"] * (output_len - 1)) / 1000
    return found


def _level(one: Row, best: Row, trust: Mapping[str, Trust], question: Question) -> int:
    """0: measured, 1: runs near it in family, kind of model, precision, link, size and load, 2: else."""
    if one["task"] is None:
        return 0
    name, _ = max(question.aim.weights, key=lambda pair: pair[1])
    column = MEASURES[name].column
    metric = "itl_ms" if column == "e2e_s" else column
    known = trust[one["engine"][0]].errors
    near = [
        error
        for error in known
        if _says_of(error, one, metric, known)
        and error.concurrency_from / 2 <= best["concurrency"] <= 2 * (error.concurrency_to or math.inf)
    ]
    return 1 if near else 2


def _says_of(error: ObservedError, one: Row, metric: str, known: Sequence[ObservedError]) -> bool:
    """Whether runs are of a configuration's family, kind of model, precision, link and size, whatever the load."""
    kind = "moe" if EXPERTS[one["model"]] else "dense"
    return (
        (error.gpu_family, error.model_kind, error.metric) == (FAMILIES[one["gpu"]], kind, metric)
        and error.precision == ("16-bit" if one["precision"] == "bf16" else one["precision"])
        and (one["tensor_parallel"] == 1 or error.link == "pcie")
        and one["tensor_parallel"] <= 2 * (error.tp_to or math.inf)
        and error.runs >= 8
        and (error.models > 1 or _is_measured_well(error.gpu_family, metric, known))
    )


def _is_measured_well(family: str, metric: str, known: Sequence[ObservedError]) -> bool:
    """Whether there are 200 runs of four models of a family, dense and of experts together."""
    whole = [e for e in known if (e.gpu_family, e.metric, e.precision) == (family, metric, "any")]
    models = [max((e.models for e in whole if e.model_kind == kind), default=0) for kind in ("dense", "moe")]
    return sum(models) >= 4 and sum(e.runs for e in whole) >= 200


def _held(one: Row, best: Row, trust: Mapping[str, Trust], question: Question) -> Row | None:
    """The point at the highest load that runs are near, if the best is beyond all of them; None: it is not."""
    (name, _), *more = question.aim.weights
    if question.trust not in ("prefer", "backed") or more or MEASURES[name].column != "output_tokens_per_s":
        return None
    known = trust[one["engine"][0]].errors
    loads = [
        2 * (error.concurrency_to or math.inf) for error in known if _says_of(error, one, "output_tokens_per_s", known)
    ]
    if not loads or best["concurrency"] <= max(loads):
        return None
    point = max((p for p in one["points"] if p["c"] <= max(loads)), key=lambda p: p["c"], default=None)
    tokens = point and point["output_tokens_per_s"]
    if point is None or tokens is None or not meets(point, one["limits"]):
        return None
    if MEASURES[name].needs is not None and tokens <= 0:
        return None
    return _valued(one, point | {"interpolated": False}, question)


def _was_asked(one: Row, group: list[Row], question: Question) -> bool:
    """Whether a run is of a precision and a server that an estimate of its group has, or that were named."""
    estimates = [other for other in group if other["task"] is not None]
    named = {"precision": question.precisions, "server": question.servers}
    return one["task"] is not None or all(
        named[name] or not estimates or one[name] in {other[name] for other in estimates} for name in named
    )


# --- measured runs -----------------------------------------------------------------------------------------------


def _measured(runs: list[Row], answers: list[Row], question: Question) -> list[Row]:
    if question.kinds == ("estimated",) or (question.engines and "measured" not in question.engines):
        return []
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        in_sweep = any(answer["in_sweep"] and _same(answer, run) for answer in answers)
        if not _asked(run, question) or (question.sweep is not None and not in_sweep):
            continue
        concurrency = run["concurrency"] if run["load"] != "offline_maximum" else None
        rate = run["request_rate"] if run["load"] == "request_rate" and concurrency is None else None
        found[identity(run)][_LOADS.index(run["load"]), concurrency or math.inf, rate or 0.0].append(run)
    configurations = []
    for settings, groups in found.items():
        points = [_median(groups[load], load, question) for load in sorted(groups)]
        neighbours = [
            (place, place + 1)
            for place, (one, other) in enumerate(itertools.pairwise(points))
            if one["load"] == other["load"] == 0 and one["origin"] == other["origin"]
        ]
        limits = [(slo, slo.name if slo.percentile else slo.column, slo.limit) for slo in question.slos]
        configuration = dict(zip(SETTINGS, settings, strict=True))
        kept = {"task": None, "outcome": "ok", "points": points, "limits": limits, "neighbours": neighbours}
        configurations.append(configuration | kept)
    return configurations


def _median(runs: list[Row], load: tuple[int, float, float], question: Question) -> Row:
    def median(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    point: Row = {name: median([run[name] for run in runs]) for name in METRICS}
    tails = [slo for slo in question.slos if slo.percentile]
    point |= {s.name: median([run["percentiles"].get((s.column, s.percentile)) for run in runs]) for s in tails}
    if load[0] == 2:
        point |= dict.fromkeys(("ttft_ms", "itl_ms", "e2e_s", *(slo.name for slo in tails)))
    origin = {(run["source"], run["server_version"]) for run in runs}
    return point | {"c": load[1], "load": load[0], "queued": False, "origin": origin, "repeats": len(runs)}


def _extend(one: Row, estimates: list[Row], question: Question) -> None:
    """Continue a measured curve by the one estimate of its configuration, scaled to its last point."""
    alike = [other for other in estimates if other["outcome"] == "ok" and _same(other, one)]
    closed = [place for place, point in enumerate(one["points"]) if point["load"] == 0 and point["c"] < math.inf]
    if len(alike) != 1 or not closed or question.trust == "measured":
        return
    last = max(closed, key=lambda place: one["points"][place]["c"])
    here = one["points"][last]
    curve = [(c, point) for c, point in sorted(alike[0]["raw"].items()) if question.sweep is None or c in LADDER]
    if not curve or not curve[0][0] <= here["c"] <= curve[-1][0]:
        return
    below = max((pair for pair in curve if pair[0] <= here["c"]), key=lambda pair: pair[0])
    above = min((pair for pair in curve if pair[0] >= here["c"]), key=lambda pair: pair[0])
    share = (here["c"] - below[0]) / (above[0] - below[0]) if above[0] > below[0] else 0.0
    factors: dict[str, float | None] = {}
    for name in METRICS:
        start, end, value = below[1][name], above[1][name], here[name]
        at = None if start is None or end is None else start + (end - start) * share
        factors[name] = value / at if at and value is not None else None
    place = last
    for c, point in curve:
        if c <= here["c"] or point["queued"]:
            continue
        scaled = {n: None if point[n] is None or factors[n] is None else point[n] * factors[n] for n in METRICS}
        tails = dict.fromkeys(slo.name for slo in question.slos if slo.percentile)
        one["points"].append(scaled | tails | {"c": c, "load": 0, "queued": False, "origin": None, "repeats": 0})
        one["neighbours"].append((place, len(one["points"]) - 1))
        place = len(one["points"]) - 1


def _decides(one: Row, question: Question) -> bool:
    """Whether measured runs know, at one point, all that is asked: then they stand for the estimates."""
    needed = [*question.aim.columns, *(name for _, name, _ in one["limits"])]
    return any(all(point[name] is not None for name in needed) for point in one["points"])


# --- both --------------------------------------------------------------------------------------------------------


def meets(point: Row, limits: Limits) -> bool:
    values = [(point[name], slo, limit) for slo, name, limit in limits]
    return all(v is not None and (v >= limit if slo.at_least else v <= limit) for v, slo, limit in values)


def ratio(point: Row, slo: Slo, name: str, limit: float) -> float:
    value = point[name]
    return 1e300 if value is None else limit / value if slo.at_least else value / limit


def _between(below: Row, above: Row, c: int) -> Row:
    share = (c - below["c"]) / (above["c"] - below["c"])

    def figure(name: str) -> float | None:
        start, end = below[name], above[name]
        return None if start is None or end is None else start + (end - start) * share

    names = [name for name in below if name in METRICS or ":" in name]
    return {name: figure(name) for name in names} | {"c": c, "queued": above["queued"], "interpolated": True}


def _best(one: Row, question: Question) -> Row | None:
    """The best operating point of a configuration; objective None: what it needs of the GPU is not known."""
    aim = [(MEASURES[name], weight, name) for name, weight in question.aim.weights]
    one["more_is_better"] = len(aim) == 1 and aim[0][0].more_is_better
    limits = one["limits"]
    if one["outcome"] != "ok" or limits is None:
        return None
    positive = len(aim) > 1 or aim[0][0].needs is not None
    points = [point | {"interpolated": False} for point in one["points"]]

    def known(point: Row) -> bool:
        values = [point[measure.column] for measure, _, _ in aim]
        return all(value is not None and (value > 0 or not positive) for value in values)

    def order(point: Row) -> tuple[Any, ...]:
        signed = [(-1 if m.column == "output_tokens_per_s" else 1, point[m.column], w) for m, w, _ in aim]
        if len(aim) == 1:
            score = round(signed[0][0] * signed[0][1] * 1e6)
        else:
            score = round(sum(sign * w * math.log(value) for sign, value, w in signed) * 1e6)
        return (point["queued"], score, point["c"], point.get("load", 0))

    def inside(pair: tuple[int, int]) -> list[Row]:
        below, above = (points[place] for place in pair)
        steps = [_between(below, above, c) for c in range(below["c"] + 1, above["c"])]
        return [point for point in steps if meets(point, limits)]

    candidates = [point for point in points if meets(point, limits) and known(point)]
    upwards = question.interpolate and any(not slo.at_least for slo, _, _ in limits)
    downwards = question.interpolate and any(slo.at_least for slo, _, _ in limits)
    if candidates:
        best = min(candidates, key=order)
        place = points.index(best)
        candidates = [best]
        if upwards and (place, place + 1) in one["neighbours"]:
            candidates += inside((place, place + 1))[-1:]
        if downwards and (place - 1, place) in one["neighbours"]:
            candidates += inside((place - 1, place))[:1]
    elif upwards and downwards:
        latencies = [limit for limit in limits if not limit[0].at_least]
        fast = [place for place, p in enumerate(points) if meets(p, latencies) and p.get("load", 0) == 0]
        if fast and (fast[-1], fast[-1] + 1) in one["neighbours"]:
            between = inside((fast[-1], fast[-1] + 1))
            candidates = [*between[:1], *between[-1:]]
    candidates = [point for point in candidates if known(point)]
    return _valued(one, min(candidates, key=order), question) if candidates else None


def _valued(one: Row, point: Row, question: Question) -> Row:
    gpus = one["tensor_parallel"]
    usd, tdp = (question.prices.overrides or {}).get(one["gpu"]), TDP_W.get(one["gpu"])
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
        "task": one["task"],
        "gpu": one["gpu"],
        "concurrency": point["c"] if point["c"] < math.inf else None,
        "interpolated": point["interpolated"],
        "repeats": point.get("repeats"),
        "objective": objective,
        "score": objective is not None
        and (
            sign * round(objective, 6),
            point["queued"],
            gpus,
            unknown if point["itl_ms"] is None else point["itl_ms"],
            unknown if point["ttft_ms"] is None else point["ttft_ms"],
        ),
        "names": names_of(one),
    }


def names_of(one: Any) -> tuple[Any, ...]:
    """What decides between equal figures, of a row here or of a configuration of the ranking."""
    about = one if isinstance(one, dict) else vars(one)
    return (*(about[name] or "" for name in ("gpu", "tensor_parallel", "precision", "kv_precision", "server")),)
