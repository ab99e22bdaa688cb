"""The columns of an export: one row an operating point or a measured run, the same in every format.

Lengths in tokens, memory in GiB per GPU, latencies and throughputs as their names say; throughputs count the whole
deployment. Keys and digests are hexadecimal. `ladder` lists every concurrency the task was asked for, `points` is the
number of its rows that are operating points. `workload` has the names that sweeps give the requests of the case, the
newest first, such as "chat,talk". What is JSON in the store is its text. `model_architecture`, `gpu_figures` and
`engine_trust` define a model, a GPU and an engine and stand in the first row that names it, empty in all others;
`engine_trust` has the engine's intervals, the errors it brings, and those that `gpuscout accuracy --store` kept. A task
without points has one row without them.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuscout.store.measured.formats.node import shown
from gpuscout.sweeps.curves import SERVER_METRICS
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import clean, fault_in

LONGEST_VALUE = 2**22  # characters; the architectures of unusual models are long
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Column:
    """Name and type of a column; any value may be missing. `free`: text of any kind, such as JSON, not one line."""

    name: str
    kind: type[str] | type[int] | type[float] | type[bool]
    free: bool = False

    def check(self, value: object) -> Value:
        """Return a value of a JSON or Parquet file, checked. Raises InputError, also for values no database takes."""
        match value:
            case None:
                return None
            case bool():
                if self.kind is bool:
                    return value
            case str():
                if len(value) > LONGEST_VALUE:
                    raise InputError(f"{self.name}: text of {len(value):,} characters; at most {LONGEST_VALUE:,}")
                if self.kind is str and value == clean(value):
                    if not self.free and (fault := fault_in(value)):
                        raise InputError(f"{self.name}: {fault}")
                    return value
            case int():
                if self.kind in (int, float) and abs(value) < 2**63:
                    return value if self.kind is int else float(value)
            case float():
                if self.kind is float:
                    return value
        raise InputError(f"{self.name}: expected {_EXPECTED[self.kind]}, got {shown(value)}")


_EXPECTED: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}

CASE = (
    Column("num_gpus", int),
    Column("tensor_parallel", int),
    Column("pipeline_parallel", int),
    Column("data_parallel", int),
    Column("expert_parallel", int),
    Column("precision", str),
    Column("kv_precision", str),
    Column("server", str),
    Column("gpu_memory_utilization", float),
    Column("max_model_len", int),
    Column("input_len", int),
    Column("output_len", int),
    Column("traffic", str),
    Column("server_options", str),
    Column("speculative", str),
)
POINT = (
    Column("concurrency", int),
    Column("ttft_ms", float),
    Column("itl_ms", float),
    Column("e2e_s", float),
    Column("output_tokens_per_s", float),
    Column("requests_per_s", float),
    *(Column(name, float) for name in SERVER_METRICS),
    Column("bound", str),
    Column("queued", bool),
    Column("regime", int),
)
ENGINE = (Column("engine", str), Column("engine_fingerprint", str), Column("engine_options", str, free=True))
TASK = (
    Column("outcome", str),
    Column("detail", str, free=True),
    Column("needed_gib", float),
    Column("usable_gib", float),
    Column("kv_capacity_tokens", int),
    Column("fits_up_to", int),
    Column("ladder", str),
    Column("points", int),
    Column("extras", str, free=True),
)
RUN = (
    Column("load", str),
    Column("request_rate", float),
    Column("source", str),
    Column("tool", str),
    Column("measured_on", str),
    Column("server_version", str),
    Column("native_itl_name", str),
    Column("native_itl_ms", float),
    Column("percentiles", str, free=True),
    Column("details", str, free=True),
    Column("implausible", str, free=True),
)
KEYS = (
    Column("task_key", str),
    Column("run_digest", str),
    Column("case_digest", str),
    Column("model_digest", str),
    Column("gpu_digest", str),
)
DEFINITIONS = (
    Column("model_architecture", str, free=True),
    Column("gpu_figures", str, free=True),
    Column("engine_trust", str, free=True),
)

COLUMNS = (
    Column("kind", str),
    Column("model", str),
    Column("gpu", str),
    Column("workload", str),
    *CASE,
    *POINT,
    *ENGINE,
    *TASK,
    *RUN,
    Column("stored_at", str),
    *KEYS,
    *DEFINITIONS,
)
NAMES = tuple(column.name for column in COLUMNS)
FIRST_POINT = NAMES.index(POINT[0].name)

ESTIMATED, MEASURED = "estimated", "measured"
