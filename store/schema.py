"""The tables of the store, the same on SQLite and Postgres.

Names of cases, models, GPUs and engines are content-addressed: a `digest` (16 bytes) is unique and the integer `id` is
only a local handle, so that two stores can be merged. Metrics are plain typed columns, which any SQL tool can read:
ttft_ms, itl_ms and native_itl_ms in milliseconds, e2e_s in seconds, throughputs per second of the whole deployment,
memory_gb in 10^9 bytes, needed_gib and usable_gib in 2^30 bytes per GPU, lengths and capacities in tokens. NULL means
unknown. Times are UTC. A change here needs a revision in `migrations/versions` and its id in `REVISIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Date,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

from gpuscout.sweeps.cases import DIGEST_BYTES
from gpuscout.sweeps.curves import BOUNDS, METRICS, SERVER_METRICS
from gpuscout.sweeps.outcomes import OUTCOMES
from gpuscout.sweeps.precision import PRECISIONS
from gpuscout.sweeps.workloads import LOADS

REVISIONS: tuple[str, ...] = tuple(f"{number:04}" for number in range(1, 14))
"""Every revision of the schema, oldest first: what alembic knows, readable without importing it."""
HEAD = REVISIONS[-1]
REVISION_TABLE = "gpuscout_revision"

BLOCK_STATES = ("pending", "claimed", "done")

# Without names SQLite's batch migrations could not drop a constraint.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC. SQLite drops time zones, so they are put back when reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a time zone cannot be stored: {value}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_T = TypeVar("_T")
# SQLite only makes a column the rowid when its type is spelled INTEGER (64 bits there).
Id = BigInteger().with_variant(Integer(), "sqlite")


def _id() -> Column[int]:
    return Column("id", Id, primary_key=True)


def _digest(name: str = "digest") -> Column[bytes]:
    return Column(name, LargeBinary(DIGEST_BYTES), nullable=False)


def _ref(name: str, target: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, Id, ForeignKey(target), nullable=nullable)


def _column_of(kind: TypeEngine[_T] | type[TypeEngine[_T]]) -> Callable[..., Column[_T]]:
    def column(name: str, *, nullable: bool = False) -> Column[_T]:
        return Column(name, kind, nullable=nullable)

    return column


_text, _int, _big = _column_of(Text), _column_of(Integer), _column_of(BigInteger)
_number, _time = _column_of(Double), _column_of(UtcDateTime)
_word = _column_of(String(24))
"""A word of a closed vocabulary; pair it with `_one_of`."""


def _one_of(name: str, words: Iterable[str]) -> CheckConstraint:
    """Return CHECK that a column holds one of these words (or NULL)."""
    quoted = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{name} IN ({quoted})", name=name)


def _metrics() -> tuple[Column[Any], ...]:
    return tuple(_number(name, nullable=True) for name in METRICS)


# --- what is asked -----------------------------------------------------------------------------------------------

models = Table(
    "models",
    metadata,
    _id(),
    _text("name"),
    _digest(),
    _text("architecture"),  # canonical JSON of ModelSpec.to_dict()
    _big("total_parameters"),
    _big("active_parameters"),
    _word("precision"),
    _big("max_context", nullable=True),
    _time("created_at"),
    UniqueConstraint("name", "digest"),
    _one_of("precision", PRECISIONS),
)

gpus = Table(
    "gpus",
    metadata,
    _id(),
    _text("name"),
    _digest(),
    _text("vendor"),
    _text("family"),
    _number("memory_gb"),
    _number("memory_bandwidth_gbs"),
    _text("figures"),  # canonical JSON of GPUSpec.to_dict()
    _time("created_at"),
    UniqueConstraint("name", "digest"),
)

engines = Table(
    "engines",
    metadata,
    _id(),
    _text("name"),
    _text("fingerprint"),
    _text("options"),  # canonical JSON
    _digest("options_digest"),
    _time("created_at"),  # the newest fingerprint of a name stands unless one is asked for
    UniqueConstraint("name", "fingerprint", "options_digest"),
)

traffics = Table(
    "traffics",
    metadata,
    _id(),
    _text("shape"),  # canonical JSON of Traffic.shape: how requests vary and when they come, without a rate
    UniqueConstraint("shape"),
)

cases = Table(
    "cases",
    metadata,
    _id(),
    _digest(),
    _ref("model_id", "models.id"),
    _ref("gpu_id", "gpus.id"),
    _int("tensor_parallel"),
    _int("pipeline_parallel"),
    _int("data_parallel"),
    _int("expert_parallel"),
    _int("num_gpus"),
    _word("precision"),
    _word("kv_precision", nullable=True),  # unknown for some measured runs
    _text("server"),
    _number("gpu_memory_utilization"),
    _big("max_model_len"),
    _big("input_len"),
    _big("output_len"),
    # Of `traffics`; NULL: fixed lengths in a closed loop. SQLite adds a foreign key only by writing the table anew.
    Column("traffic_id", Id, nullable=True),
    _number("request_rate", nullable=True),  # requests/s of the deployment in an open loop; NULL: a closed loop
    # As `options_text` and `Speculative.text` write them; empty: the server's defaults, nothing drafted.
    Column("server_options", Text, nullable=False, server_default=text("''")),
    Column("speculative", Text, nullable=False, server_default=text("''")),
    UniqueConstraint("digest"),
    _one_of("precision", PRECISIONS),
    _one_of("kv_precision", PRECISIONS),
    # Nearly every question is about one model under one workload.
    Index(None, "model_id", "input_len", "output_len"),
    Index(None, "gpu_id"),
)

# --- what is estimated -------------------------------------------------------------------------------------------

ladders = Table(
    "ladders",
    metadata,
    _id(),
    _text("concurrencies"),  # ascending, "1,2,4": every concurrency a task has been asked for
    UniqueConstraint("concurrencies"),
)

# Answers only: a failure leaves no task, so that the next run tries again.
tasks = Table(
    "tasks",
    metadata,
    _id(),
    _digest("key"),
    _ref("case_id", "cases.id"),
    _ref("engine_id", "engines.id"),
    _ref("ladder_id", "ladders.id"),
    _word("outcome"),
    _text("detail", nullable=True),
    _text("extras", nullable=True),  # canonical JSON: what only this engine reports
    _number("needed_gib", nullable=True),
    _number("usable_gib", nullable=True),
    _big("kv_capacity_tokens", nullable=True),
    _big("fits_up_to", nullable=True),  # concurrency at which the curve ended early; NULL: it did not
    _time("created_at"),
    _text("imported_from", nullable=True),  # the export it came from, whose maker answers for it; NULL: computed
    UniqueConstraint("key"),
    _one_of("outcome", (outcome for outcome in OUTCOMES if outcome.is_answer)),
    Index(None, "case_id", "engine_id"),
    # An expensive engine has answered little beside a cheap one.
    Index(None, "engine_id"),
)

# Without a foreign key, whose check costs more than storing the row (3 of 5 µs on Postgres). Whoever writes points also
# writes the membership of their task in the same transaction, and that has one; `unshared.py` deletes both together.
operating_points = Table(
    "operating_points",
    metadata,
    Column("task_id", Id, nullable=False),
    _int("concurrency"),
    *_metrics(),
    _word("bound"),
    Column("queued", Boolean, nullable=False),
    Column("regime", SmallInteger, nullable=True),  # of `intervals` of the engine; NULL: no interval is known
    *(_number(name, nullable=True) for name in SERVER_METRICS),  # of engines that simulate the server
    PrimaryKeyConstraint("task_id", "concurrency"),
    _one_of("bound", BOUNDS),
    sqlite_with_rowid=False,
)

# Over requests, of estimates of engines that say them. Without a foreign key, as the points.
point_percentiles = Table(
    "point_percentiles",
    metadata,
    Column("task_id", Id, nullable=False),
    _int("concurrency"),
    _word("metric"),
    _number("percentile"),
    _number("value"),
    PrimaryKeyConstraint("task_id", "concurrency", "metric", "percentile"),
    sqlite_with_rowid=False,
)

# --- what was measured -------------------------------------------------------------------------------------------

measured_runs = Table(
    "measured_runs",
    metadata,
    _id(),
    _digest(),
    _ref("case_id", "cases.id"),
    _text("source"),
    _text("tool", nullable=True),
    Column("measured_on", Date, nullable=True),
    _time("imported_at"),
    _text("server_version", nullable=True),
    _word("load"),
    _int("concurrency", nullable=True),
    _number("request_rate", nullable=True),
    *_metrics(),
    _text("native_itl_name", nullable=True),  # what the tool calls its own figure, when it is not our itl_ms
    _number("native_itl_ms", nullable=True),
    _text("details", nullable=True),  # canonical JSON: what else the source says of the run
    _text("implausible", nullable=True),  # what beats the hardware, and the likely cause; NULL: nothing does
    _int("requests_completed", nullable=True),
    _int("requests_failed", nullable=True),
    _text("set_aside", nullable=True),  # why it does not stand for its configuration ("drafted"); NULL: it does
    _text("imported_from", nullable=True),  # as of tasks; NULL: a result file
    # The key of the task that measured it; no reference, for a task is only stored when all of it was measured.
    Column("task_key", LargeBinary(DIGEST_BYTES), nullable=True),
    UniqueConstraint("digest"),
    _one_of("load", LOADS),
    Index(None, "case_id"),
    Index(None, "task_key"),
)

percentiles = Table(
    "percentiles",
    metadata,
    _ref("run_id", "measured_runs.id"),
    _word("metric"),
    _number("percentile"),
    _number("value"),
    PrimaryKeyConstraint("run_id", "metric", "percentile"),
    sqlite_with_rowid=False,
)

# --- how far estimates can be trusted ------------------------------------------------------------------------------

# A measured value is expected between low x and high x the estimate with a probability of 80 %.
intervals = Table(
    "intervals",
    metadata,
    _ref("engine_id", "engines.id"),
    Column("regime", SmallInteger, nullable=False),
    _word("metric"),
    _number("low"),
    _number("high"),
    PrimaryKeyConstraint("engine_id", "regime", "metric"),
    sqlite_with_rowid=False,
)

# Fractions of what was measured, over comparable runs: `ObservedError` says what each column means.
errors_seen = Table(
    "errors_seen",
    metadata,
    _ref("engine_id", "engines.id"),
    _text("source"),
    _text("gpu_family"),
    _word("model_kind"),
    _int("concurrency_from"),
    _int("concurrency_to", nullable=True),
    _word("metric"),
    _int("runs"),
    _int("models"),
    _number("median_error"),
    _number("p90_error"),
    _number("bias"),
    _word("precision"),
    _word("link"),
    _int("tp_from"),
    _int("tp_to", nullable=True),
    PrimaryKeyConstraint(
        "engine_id", "source", "gpu_family", "model_kind", "precision", "link", "concurrency_from", "metric"
    ),
    _one_of("model_kind", ("dense", "moe")),
    sqlite_with_rowid=False,
)

# --- sweeps ------------------------------------------------------------------------------------------------------

sweeps = Table(
    "sweeps",
    metadata,
    _id(),
    _digest(),
    _text("name"),
    _int("revision"),  # counts from 1 within a name
    _big("latest_run"),  # a counter over all sweeps, raised by every run: the name means its highest
    _text("description"),
    _text("spec_text"),
    _text("resolved"),  # JSON
    _big("combinations"),
    _big("task_count"),
    _big("excluded_count"),
    _time("created_at"),
    _time("finished_at", nullable=True),
    _time("cancelled_at", nullable=True),  # no block is claimed until the sweep is run again; NULL: not cancelled
    _text("gpuscout_version"),
    UniqueConstraint("digest"),
    UniqueConstraint("name", "revision"),
)

sweep_engines = Table(
    "sweep_engines",
    metadata,
    _ref("sweep_id", "sweeps.id"),
    _int("position"),
    _ref("engine_id", "engines.id"),
    _ref("ladder_id", "ladders.id"),
    _big("block_size"),
    _big("first_block"),
    _big("block_count"),
    PrimaryKeyConstraint("sweep_id", "position"),
)

sweep_workloads = Table(
    "sweep_workloads",
    metadata,
    _ref("sweep_id", "sweeps.id"),
    _text("name"),
    _big("input_len"),
    _big("output_len"),
    Column("traffic_id", Id, nullable=True),  # as of its cases
    _number("request_rate", nullable=True),
    PrimaryKeyConstraint("sweep_id", "name"),
)

# Names that came with an export, which has no sweeps.
imported_workloads = Table(
    "imported_workloads",
    metadata,
    _id(),
    _text("name"),
    _big("input_len"),
    _big("output_len"),
    Column("traffic_id", Id, nullable=True),  # as of its cases
)

membership = Table(
    "membership",
    metadata,
    _ref("sweep_id", "sweeps.id"),
    _ref("task_id", "tasks.id"),
    PrimaryKeyConstraint("sweep_id", "task_id"),
    Index(None, "task_id"),
    sqlite_with_rowid=False,
)

exclusions = Table(
    "exclusions",
    metadata,
    _id(),
    _ref("sweep_id", "sweeps.id"),
    _text("reason"),
    _text("model", nullable=True),  # NULL: whatever the model
    _text("gpu", nullable=True),  # NULL: whatever the GPU
    _text("detail"),
    _big("combinations"),
    Index(None, "sweep_id"),
)

runners = Table("runners", metadata, _id(), _text("host"), _int("pid"), _time("started_at"))

blocks = Table(
    "blocks",
    metadata,
    _ref("sweep_id", "sweeps.id"),
    _big("block"),
    _word("state"),
    _ref("runner_id", "runners.id", nullable=True),  # who claimed it last; NULL: never claimed, or given back
    _int("attempt"),  # raised by every claim; a commit must name the current one
    _big("task_count"),
    _big("failure_count"),  # failures of this block that are still open
    _time("finished_at", nullable=True),
    PrimaryKeyConstraint("sweep_id", "block"),
    _one_of("state", BLOCK_STATES),
    Index(None, "sweep_id", "state", "block"),
)

# A retry is a new row. A failure is open as long as its key is not in the membership of its sweep.
failures = Table(
    "failures",
    metadata,
    _id(),
    Column("sweep_id", Id, nullable=False),
    _big("block"),
    _int("attempt"),
    _digest("task_key"),
    _ref("case_id", "cases.id"),
    _ref("engine_id", "engines.id"),
    _word("outcome"),
    _text("message"),
    _time("failed_at"),
    ForeignKeyConstraint(["sweep_id", "block"], ["blocks.sweep_id", "blocks.block"]),
    _one_of("outcome", (outcome for outcome in OUTCOMES if not outcome.is_answer)),
    Index(None, "sweep_id", "block"),
    Index(None, "case_id"),  # deleting a case asks who refers to it
)

# --- prices ------------------------------------------------------------------------------------------------------

# The book that ships with gpuscout is a file of the package; these are books of the users of this store.
prices = Table(
    "prices",
    metadata,
    _id(),
    _text("book"),
    _text("gpu"),  # a canonical name; no reference: prices may be there before any result
    _text("provider"),
    _number("usd_per_gpu_hour"),
    Column("date", Date, nullable=False),
    _word("purchase"),
    _text("region"),  # empty: not stated, here and below
    _text("instance_type"),
    _int("gpus_per_instance", nullable=True),
    _word("date_kind"),
    Column("exact", Boolean, nullable=False),  # false: the price of a near variant
    _text("currency"),
    _number("usd_rate"),  # USD for one unit of `currency`, already in the price
    _text("source"),
    _text("note"),
    _time("stored_at"),
    UniqueConstraint("book", "gpu", "provider", "instance_type", "purchase", "region", "date"),
    CheckConstraint("usd_per_gpu_hour > 0", name="usd_per_gpu_hour"),
    _one_of("purchase", ("on-demand", "spot", "reserved")),
    _one_of("date_kind", ("read", "upper-bound")),
)

# What APIs ask for tokens, in books of their own.
token_prices = Table(
    "token_prices",
    metadata,
    _id(),
    _text("book"),
    _text("provider"),
    _text("model"),  # as in the catalogue where it knows it; no reference: it may be a model that is sold only
    _number("input_usd_per_mtok"),
    _number("cached_input_usd_per_mtok", nullable=True),  # NULL: that of other input
    _number("output_usd_per_mtok"),
    Column("date", Date, nullable=False),
    _text("currency"),
    _number("usd_rate"),
    _text("source"),
    _text("note"),
    _time("stored_at"),
    UniqueConstraint("book", "provider", "model", "date"),
    CheckConstraint("input_usd_per_mtok >= 0", name="input_usd_per_mtok"),
    CheckConstraint("output_usd_per_mtok > 0", name="output_usd_per_mtok"),
)

# --- the revision ------------------------------------------------------------------------------------------------

# As alembic makes it; not in `metadata`, which is what revisions are about.
_revision = Table(
    REVISION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{REVISION_TABLE}_pkc"),
)


def create_tables(connection: Connection) -> None:
    """Create all tables in an empty database, at the revision of this version.

    Running every revision gives the same tables (a test compares them), takes six times as long and imports alembic.
    """
    metadata.create_all(connection, checkfirst=False)
    _revision.create(connection)
    connection.execute(_revision.insert().values(version_num=HEAD))
