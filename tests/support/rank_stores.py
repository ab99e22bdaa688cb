"""Stores to rank, written row by row: names in two versions, one sweep, answers and measured runs as given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from gpuscout.store import schema
from gpuscout.store.database.connect import Store
from gpuscout.store.ranking.rank import Question, Ranking, rank
from gpuscout.store.results.trust import note_trust
from gpuscout.sweeps.slo import parse_slo
from gpuscout.sweeps.trust import Trust

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LADDER = (1, 2, 4, 8)
MODELS = ("a/One", "a/Two", "b/One-v2")
GPUS = ("H100", "L40S", "L4")
LENGTHS = ((1024, 512), (4096, 512))
TDP_W = {"H100": 700.0, "L4": 72.0}  # that of the L40S is not known
FAMILIES = {"H100": "Hopper", "L40S": "Ada", "L4": "Ada"}
EXPERTS = {"a/One": 0, "a/Two": 0, "b/One-v2": 8}
# Ids do not follow age: a store that others were merged into need not hold the newest last.
ENGINES = {("roofline", 1): 1, ("roofline", 0): 2, ("oracle", 0): 3}
_FIRST_MEASURED = 1_000
_METRICS = ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s")
_ABOUT_RUNS = ("load", "concurrency", "request_rate", "source", "server_version", "tool", "measured_on")
Row = dict[str, Any]


def fill(
    connection: sa.Connection, answers: list[Row], runs: Sequence[Row] = (), trust: Mapping[str, Trust] | None = None
) -> None:
    """Write these answers as tasks 1, 2, … and these runs; every name has two versions, the second the newer.

    The sweep "nightly" lists the older fingerprint of roofline, the newer, and oracle, all with `LADDER`. `trust` is
    what all versions of an engine say of themselves.
    """

    def stored(position: int) -> datetime:
        return NOW + timedelta(days=position)

    def insert(table: sa.Table, rows: list[Row]) -> None:
        if rows:
            connection.execute(table.insert(), rows)

    models = {(name, v): 1 + i for i, (name, v) in enumerate((name, v) for v in (0, 1) for name in MODELS)}
    gpus = {(name, v): 1 + i for i, (name, v) in enumerate((name, v) for v in (0, 1) for name in GPUS)}
    about: Row = {"total_parameters": 1, "active_parameters": 1, "precision": "bf16"}
    insert(
        schema.models,
        [
            about
            | {"id": number, "name": name, "digest": _digest(number), "created_at": stored(version)}
            | {"architecture": json.dumps({"experts": EXPERTS[name], "precision": "bf16", "kv_precision": "bf16"})}
            for (name, version), number in models.items()
        ],
    )
    figures: Row = {"vendor": "NVIDIA", "memory_bandwidth_gbs": 1}
    insert(
        schema.gpus,
        [
            figures
            | {"id": number, "name": name, "digest": _digest(number), "created_at": stored(version)}
            | {
                "family": FAMILIES[name],
                "memory_gb": 24 if name == "L4" else 48,
                "figures": json.dumps({"tdp_w": TDP_W.get(name), "vendor": "NVIDIA", "gpus_per_node": 8}),
            }
            for (name, version), number in gpus.items()
        ],
    )
    options: Row = {"options": "{}", "options_digest": _digest(0)}
    insert(
        schema.engines,
        [
            options
            | {
                "id": number,
                "name": name,
                "fingerprint": f"f{version}",
                "created_at": stored(9 if name == "oracle" else version),
            }
            for (name, version), number in ENGINES.items()
        ],
    )
    ladder = {"id": 1, "concurrencies": ",".join(map(str, LADDER))}
    insert(schema.ladders, [ladder])
    sweep: Row = dict.fromkeys(("description", "spec_text", "resolved", "gpuscout_version"), "")
    sweep |= dict.fromkeys(("combinations", "task_count", "excluded_count"), 0)
    sweep |= {"id": 1, "digest": _digest(1), "name": "nightly", "revision": 1, "latest_run": 1, "created_at": NOW}
    insert(schema.sweeps, [sweep])
    part: Row = {"sweep_id": 1, "ladder_id": 1, "block_size": 1, "first_block": 0, "block_count": 1}
    listed = [2, 1, 3]  # the older fingerprint of roofline first
    insert(schema.sweep_engines, [part | {"position": p, "engine_id": e} for p, e in enumerate(listed)])
    insert(schema.sweep_workloads, [{"sweep_id": 1, "name": "chat", "input_len": 1024, "output_len": 512}])

    def case(number: int, answer: Row, *, context: int = 0) -> Row:
        input_len, output_len = answer["lengths"]
        return {
            "id": number,
            "digest": _digest(number),
            "model_id": models[answer["model"], answer["model_version"]],
            "gpu_id": gpus[answer["gpu"], answer["gpu_version"]],
            "pipeline_parallel": 1,
            "data_parallel": 1,
            "expert_parallel": 1,
            "num_gpus": answer["tensor_parallel"],
            "gpu_memory_utilization": 0.9,
            "max_model_len": input_len + output_len + context,
            "input_len": input_len,
            "output_len": output_len,
        } | {name: answer[name] for name in ("tensor_parallel", "precision", "kv_precision", "server")}

    cases, tasks, points, members = [], [], [], []
    for number, answer in enumerate(answers, 1):
        cases.append(case(number, answer))
        tasks.append(
            {
                "id": number,
                "key": _digest(number),
                "case_id": number,
                "engine_id": ENGINES[answer["engine"]],
                "ladder_id": 1,
                "outcome": answer["outcome"],
                "created_at": NOW,
            }
            | {name: answer.get(name) for name in ("detail", "needed_gib", "usable_gib")}
        )
        if answer["in_sweep"]:
            members.append({"sweep_id": 1, "task_id": number})
        if answer["outcome"] == "ok":
            for concurrency, point in answer["points"].items():
                points.append(point | {"task_id": number, "concurrency": concurrency, "bound": "memory"})
    measured, tails = [], []
    for number, run in enumerate(runs, 1):
        # Each has a case of its own, with a context that nobody measured.
        cases.append(case(_FIRST_MEASURED + number, run, context=number))
        about = {name: run[name] for name in (*_METRICS, *_ABOUT_RUNS)}
        about |= {"id": number, "digest": _digest(number), "case_id": _FIRST_MEASURED + number, "imported_at": NOW}
        measured.append(about)
        tails += [
            {"run_id": number, "metric": metric, "percentile": percentile, "value": value}
            for (metric, percentile), value in run["percentiles"].items()
        ]
    insert(schema.cases, cases)
    insert(schema.tasks, tasks)
    insert(schema.membership, members)
    insert(schema.operating_points, points)
    insert(schema.measured_runs, measured)
    insert(schema.percentiles, tails)
    for (name, _), engine_id in ENGINES.items():
        if trust and name in trust:
            note_trust(connection, engine_id, trust[name])


def an_answer(**how: Any) -> Row:
    """A/One on one H100 with one point, in no sweep; `points` maps concurrencies to what differs of `a_point`."""
    points = how.pop("points", {8: {}})
    answer: Row = {
        "model": "a/One",
        "gpu": "H100",
        "lengths": LENGTHS[0],
        "tensor_parallel": 1,
        "precision": "fp8",
        "kv_precision": "fp8",
        "server": "vllm",
        "model_version": 0,
        "gpu_version": 0,
        "engine": ("roofline", 0),
        "outcome": "ok",
        "in_sweep": False,
        "points": {concurrency: a_point(**point) for concurrency, point in points.items()},
    }
    return answer | how


def a_point(**how: Any) -> Row:
    """100 tokens/s and 2 requests/s at a TTFT of 100 ms and an ITL of 10 ms."""
    point: Row = {"ttft_ms": 100.0, "itl_ms": 10.0, "e2e_s": 5.0, "output_tokens_per_s": 100.0, "requests_per_s": 2.0}
    return point | {"queued": False, "regime": None} | how


def a_run(**how: Any) -> Row:
    """A closed loop at concurrency 8 of the configuration of `an_answer`, with the figures of `a_point`."""
    run: Row = {
        **{name: value for name, value in an_answer().items() if name not in ("engine", "outcome", "points")},
        **{name: a_point()[name] for name in _METRICS},
        "kv_precision": None,
        "load": "closed_loop",
        "concurrency": 8,
        "request_rate": None,
        "source": "lab",
        "server_version": "0.19",
        "tool": "vllm",
        "measured_on": date(2026, 4, 17),
        "percentiles": {},
    }
    return run | how


def _digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


Ask = Callable[..., Ranking]


def asks(store: Store, answers: Iterable[Row], **defaults: Any) -> Ask:
    """Fill a store with answers; return what asks it, in a transaction that cannot write."""
    with store.writing() as connection:
        fill(connection, list(answers))

    def ask(*slos: str, **question: Any) -> Ranking:
        with store.reading() as connection:
            return rank(connection, Question(slos=tuple(map(parse_slo, slos)), **defaults | question))

    return ask
