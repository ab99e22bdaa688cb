"""What `make bench` measures. Prints one table; ratios are against a baseline of the same run on the same machine."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

# One core's work is measured: the linear algebra library must not use the others.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np

from gpuscout.runner.api import expand
from gpuscout.runner.choose import choose_executor
from gpuscout.runner.controller import run_sweep
from gpuscout.runner.engines.registry import create_engine
from gpuscout.runner.resolve import CHEAP_LADDER
from gpuscout.store.connect import open_store
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.spec import SweepSpec, spec_from_mapping

_REPEATS = 5


def sweep(workloads: int) -> SweepSpec:
    """About 430 tasks for each workload: dense, mixture-of-experts and MLA models on many GPUs."""
    lengths = [{"name": f"w{i}", "input_len": 256 * (i + 1), "output_len": 128 + 16 * i} for i in range(workloads)]
    return spec_from_mapping(
        {
            "name": f"bench-{workloads}",
            "models": ["meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B", "DeepSeek-V3"],
            "gpus": [{"vendor": "NVIDIA"}],
            "tensor_parallel": [1, 2, 4, 8],
            "workloads": lengths,
        }
    )


def best(measure: Callable[[], float], repeats: int = _REPEATS) -> float:
    """The largest rate of several: others use this machine too, and they only ever slow it down."""
    return max(measure() for _ in range(repeats))


def engine_points_per_s() -> float:
    expansion = expand(sweep(16))
    cases = expansion.block(0).take(np.arange(min(2_000, len(expansion.block(0)))))
    engine = create_engine("roofline")
    ladder = np.array(CHEAP_LADDER, dtype=np.int64)

    def once() -> float:
        started = time.perf_counter()
        engine.evaluate(cases, ladder)
        return len(cases) * len(ladder) / (time.perf_counter() - started)

    return best(once)


def expansion_per_s() -> tuple[float, float]:
    """Combinations counted per second; task keys per second."""
    expansion = expand(sweep(64))

    def counted() -> float:
        started = time.perf_counter()
        combinations = Expansion(expansion.sweep).census().combinations
        return combinations / (time.perf_counter() - started)

    def keyed() -> float:
        cases = expansion.block(0)
        started = time.perf_counter()
        cases.digests()
        return len(cases) / (time.perf_counter() - started)

    return best(counted), best(keyed)


def end_to_end(directory: Path, repeats: int = 3) -> tuple[float, float, int, int]:
    """Points per second of a whole run in this process, and of inserting the same rows by plain executemany."""
    expansion = expand(sweep(24))
    rates, plain = [], []
    for number in range(repeats):
        file = directory / f"{number}.db"
        with open_store(str(file), create=True) as store:
            started = time.perf_counter()
            report = run_sweep(
                store,
                expansion,
                choose=lambda work_s: choose_executor(expansion, executor="in-process", work_s=work_s),
            )
            rates.append(report.progress.points / (time.perf_counter() - started))
        plain.append(report.progress.points / insert_plainly(file, directory / f"{number}.plain.db"))
    return max(rates), max(plain), report.progress.total_tasks, report.progress.points


def insert_plainly(source: Path, target: Path) -> float:
    """Seconds sqlite3 takes for all rows of a store: same schema, pragmas and number of transactions, tuples ready."""
    with closing(sqlite3.connect(source)) as store:
        schema = [row[0] for row in store.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")]
        tables = [row[0] for row in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {table: store.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        blocks = store.execute("SELECT count(*) FROM blocks").fetchone()[0]
    with closing(sqlite3.connect(target, isolation_level=None)) as plain:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "temp_store=MEMORY", "cache_size=-65536"):
            plain.execute(f"PRAGMA {pragma}")
        for statement in schema:
            plain.execute(statement)
        started = time.perf_counter()
        for block in range(blocks):
            plain.execute("BEGIN IMMEDIATE")
            for table, content in rows.items():
                part = content[len(content) * block // blocks : len(content) * (block + 1) // blocks]
                if part:
                    plain.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(part[0]))})", part)
            plain.execute("COMMIT")
        return time.perf_counter() - started


def main() -> None:
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores", flush=True)
    rate = engine_points_per_s()
    print(f"{'roofline engine, one core':44} {rate:>14,.0f} operating points/s", flush=True)
    counted, keyed = expansion_per_s()
    print(f"{'expansion: combinations counted':44} {counted:>14,.0f} /s")
    print(f"{'expansion: case digests':44} {keyed:>14,.0f} /s", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        whole, plain, tasks, points = end_to_end(Path(directory))
    print(f"end to end, in this process, SQLite ({tasks:,} tasks, {points:,} points)")
    print(f"{'  expand, look up, evaluate, store':44} {whole:>14,.0f} operating points/s")
    print(f"{'  the same rows by plain sqlite3.executemany':44} {plain:>14,.0f} operating points/s")
    print(f"{'  ratio':44} {whole / plain:>14.2f}")


if __name__ == "__main__":
    sys.exit(main())
