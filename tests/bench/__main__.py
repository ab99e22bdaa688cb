"""What `make bench` measures: one table, ratios against a baseline of the same run on the same machine."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# One core's work is measured: the linear algebra library must not use the others.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np

from gpuscout.runner.api.run import expand
from gpuscout.runner.engines.registry import create_engine
from gpuscout.store.database.connect import open_store
from gpuscout.sweeps.expand import Expansion
from tests.bench import alternatives, llm_optimizer, plain, queries
from tests.bench.client import client
from tests.bench.simulator import simulator
from tests.bench.sweeps import LADDER, run, run_in, sweep
from tests.support.commands import environment, install_engine
from tests.support.memory import peak_mib
from tests.support.stores import postgres_database, postgres_server

_REPEATS = 5
_POSTGRES_REPEATS = 2


def say(what: str, figure: float, unit: str = "", form: str = ",.0f") -> None:
    print(f"{what:62} {figure:>14{form}} {unit}".rstrip(), flush=True)


def best(measure: Callable[[], float], repeats: int = _REPEATS) -> float:
    """The largest rate of several: others use this machine too, and they only ever slow it down."""
    return max(measure() for _ in range(repeats))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def engine() -> None:
    expansion = expand(sweep(4_000))
    cases = expansion.block(0)
    roofline = create_engine("roofline")
    ladder = np.array(LADDER, dtype=np.int64)

    def once() -> float:
        started = time.perf_counter()
        curves = roofline.evaluate(cases, ladder)
        return len(curves.points) / (time.perf_counter() - started)

    say("roofline engine, one core", best(once), "operating points/s")
    large = expand(sweep(400_000)).sweep
    say("expansion, counted", best(lambda: 400_000 / seconds(lambda: Expansion(large).census())), "combinations/s")
    with tempfile.TemporaryDirectory() as directory:
        rate = llm_optimizer.points_per_s(Path(directory))
    say("llm-optimizer engine, one core", rate, "operating points/s")
    say("expansion, keyed", best(lambda: len(cases) / seconds(lambda: expansion.block(0).digests())), "cases/s")


def end_to_end(directory: Path, tasks: int) -> Path:
    """Through Ray on this machine's cores. Ray's start and stop are told apart."""
    import ray

    spec, file = sweep(tasks), directory / "first.db"
    start = seconds(lambda: ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR"))
    expansion = expand(spec)
    # Workers start with the first tasks that need them; that belongs to Ray's start.
    start += seconds(lambda: run_in(directory / "warm-up.db", sweep(2_000, name="warm-up"), "ray"))
    with open_store(str(file), create=True) as store:
        took = seconds(lambda: run(store, expansion, "ray"))
        points = _count(store, "operating_points")
    say(f"{tasks:,} tasks, {points:,} points: through Ray into SQLite", points / took, "points/s")
    baseline = plain.sqlite_seconds(file, directory / "plain.db")
    say("  all rows by plain sqlite3.executemany", points / baseline, "points/s")
    say("  ratio", baseline / took, form=".2f")
    say("  size of the store", file.stat().st_size / points, "bytes/point", ".1f")

    say("  the same sweep again: recognised in", seconds(lambda: run_in(file, spec)) * 1000, "ms")
    again = seconds(lambda: run_in(file, sweep(tasks, name="again"), "ray"))
    say("  another sweep over the stored tasks, of the first run's time", 100 * again / took, "%", ".1f")
    more = run_in(file, sweep(tasks, name="more", gpus=[{"vendor": "NVIDIA", "min_memory_gb": 32}, "MI300X"]), "ray")
    say("  one more GPU: tasks computed", more.progress.computed_tasks)
    longer = run_in(file, sweep(tasks, name="longer", concurrency=[*LADDER, 512]), "ray")
    say("  one more concurrency: points computed", longer.progress.points)

    with postgres_server() as server:
        if server is not None:
            beside_copy(server, expansion, tasks)
    say("Ray: start and stop, not counted above", start + seconds(ray.shutdown), "s", ".1f")
    return file


def beside_copy(server: str, expansion: Expansion, tasks: int) -> None:
    """The same into Postgres, and by COPY, in turns; the best of each. The first turn only warms the server up."""
    took, baseline = [], []
    for _ in range(1 + _POSTGRES_REPEATS):
        with postgres_database(server) as first, postgres_database(server) as second:
            with open_store(first, create=True) as store:
                took.append(seconds(lambda store=store: run(store, expansion, "ray")))
                points = _count(store, "operating_points")
            baseline.append(plain.postgres_seconds(first, second))
    ours, theirs = min(took[1:]), min(baseline[1:])
    say(f"{tasks:,} tasks, {points:,} points: through Ray into Postgres", points / ours, "points/s")
    say("  all rows by psycopg COPY with write_row", points / theirs, "points/s")
    say("  ratio", theirs / ours, form=".2f")


def memory(tasks: int) -> float:
    """The peak memory of a controller in MiB, in a process of its own, through Ray."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench", "--only-run", str(tasks), directory],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    return float(done.stdout.split()[-1])


def dear_engine(directory: Path) -> None:
    """A dear engine, half a second a task: two Ray workers against one."""
    plugins = directory / "plugins"
    plugins.mkdir()
    install_engine(plugins, "sleeper", "time.sleep(0.5); return answer(cases, ladder)", cost="EXPENSIVE")
    program = """
import sys, time, ray
from tests.bench.sweeps import run_in
from gpuscout.sweeps.spec.spec import spec_from_mapping
cpus, file = int(sys.argv[1]), sys.argv[2]
spec = spec_from_mapping(dict(name="dear", models="Qwen3-8B", gpus=["H100", "L4", "B200", "H200"], workloads="chat",
                              tensor_parallel=[1, 2, 4, 8], concurrency=[1, 8], engine="sleeper"))
ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.get([ray.remote(lambda: time.sleep(1)).remote() for _ in range(cpus)])
started = time.perf_counter()
run_in(file, spec, "ray")
print(time.perf_counter() - started)
"""
    took = {}
    for cpus in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", program, str(cpus), str(directory / f"dear-{cpus}.db")],
            env=environment(plugins),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        took[cpus] = float(done.stdout.split()[-1])
    say("a dear engine (0.5 s a task): two Ray workers, of one's time", 100 * took[2] / took[1], "%", ".0f")


def beside_others() -> None:
    say("a small sweep: gpuscout, in this process", best(alternatives.gpuscout_tasks_per_s, 2), "tasks/s")
    say("  Optuna, RDB storage, grid sampler", alternatives.optuna_tasks_per_s(), "tasks/s", ",.1f")
    say("  Ray Tune, grid", alternatives.ray_tune_tasks_per_s(), "tasks/s", ",.1f")


def _count(store, table: str) -> int:  # type: ignore[no-untyped-def]
    with store.reading() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--tasks", type=int, default=100_000, help="of the end-to-end run")
    parser.add_argument("--large", type=int, default=1_000_000, help="tasks of the memory run; 0 leaves it out")
    parser.add_argument("--only-simulator", action="store_true", help="only what the simulator does")
    parser.add_argument("--only-run", nargs=2, metavar=("TASKS", "DIRECTORY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_run:
        report = run_in(Path(options.only_run[1]) / "large.db", sweep(int(options.only_run[0])), "ray")
        print(report.progress.points, report.seconds, peak_mib())
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores", flush=True)
    if options.only_simulator:
        with tempfile.TemporaryDirectory() as directory:
            simulator(say, Path(directory), 2_000)
        return
    engine()
    with tempfile.TemporaryDirectory() as directory:
        end_to_end(Path(directory), options.tasks)
        dear_engine(Path(directory))
        simulator(say, Path(directory), 2_000)
    queries.queries(say, options.tasks)
    client(say)
    if options.large:
        small, large = memory(options.tasks), memory(options.large)
        say(f"peak memory of the controller, {options.large:,} tasks", large, "MiB")
        say(f"  of the run of {options.tasks:,} tasks", large / small, "x", ".2f")
    beside_others()


if __name__ == "__main__":
    sys.exit(main())
