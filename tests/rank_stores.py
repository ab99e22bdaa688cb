"""Stores to rank, written row by row: models, GPUs and engines in two versions, one sweep, and answers as given."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from gpuscout.store import schema

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LADDER = (1, 2, 4, 8)
MODELS = ("a/One", "a/Two", "b/One-v2")
GPUS = ("H100", "L40S", "L4")
LENGTHS = ((1024, 512), (4096, 512))
TDP_W = {"H100": 700.0, "L4": 72.0}  # that of the L40S is not known
Row = dict[str, Any]


def fill(connection: sa.Connection, answers: list[Row]) -> None:
    """Write these answers as tasks 1, 2, …; every name has two versions, the second the newer.

    The sweep "nightly" lists the older fingerprint of roofline, the newer, and oracle, all with `LADDER`.
    """

    def stored(position: int) -> datetime:
        return NOW + timedelta(days=position)

    def insert(table: sa.Table, rows: list[Row]) -> None:
        if rows:
            connection.execute(table.insert(), rows)

    models = {(name, v): 1 + i for i, (name, v) in enumerate((name, v) for v in (0, 1) for name in MODELS)}
    gpus = {(name, v): 1 + i for i, (name, v) in enumerate((name, v) for v in (0, 1) for name in GPUS)}
    # Ids do not follow age: a store that others were merged into need not hold the newest last.
    engines = {("roofline", 1): 1, ("roofline", 0): 2, ("oracle", 0): 3}
    about: Row = {"architecture": "{}", "total_parameters": 1, "active_parameters": 1, "precision": "bf16"}
    insert(
        schema.models,
        [
            about | {"id": number, "name": name, "digest": _digest(number), "created_at": stored(version)}
            for (name, version), number in models.items()
        ],
    )
    figures: Row = {"vendor": "NVIDIA", "family": "f", "memory_bandwidth_gbs": 1}
    insert(
        schema.gpus,
        [
            figures
            | {"id": number, "name": name, "digest": _digest(number), "created_at": stored(version)}
            | {"memory_gb": 24 if name == "L4" else 48, "figures": json.dumps({"tdp_w": TDP_W.get(name)})}
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
            for (name, version), number in engines.items()
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
    cases, tasks, points, members = [], [], [], []
    for number, answer in enumerate(answers, 1):
        input_len, output_len = answer["lengths"]
        cases.append(
            {
                "id": number,
                "digest": _digest(number),
                "model_id": models[answer["model"], answer["model_version"]],
                "gpu_id": gpus[answer["gpu"], answer["gpu_version"]],
                "pipeline_parallel": 1,
                "data_parallel": 1,
                "expert_parallel": 1,
                "num_gpus": answer["tensor_parallel"],
                "gpu_memory_utilization": 0.9,
                "max_model_len": input_len + output_len,
                "input_len": input_len,
                "output_len": output_len,
            }
            | {name: answer[name] for name in ("tensor_parallel", "precision", "kv_precision", "server")}
        )
        tasks.append(
            {
                "id": number,
                "key": _digest(number),
                "case_id": number,
                "engine_id": engines[answer["engine"]],
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
    insert(schema.cases, cases)
    insert(schema.tasks, tasks)
    insert(schema.membership, members)
    insert(schema.operating_points, points)


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
    return point | {"queued": False} | how


def _digest(number: int) -> bytes:
    return number.to_bytes(16, "big")
