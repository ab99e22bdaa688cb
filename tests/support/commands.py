"""The command line as tests use it: the real command in a process of its own, and engines as installed plug-ins."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

GPUSCOUT = Path(sys.executable).with_name("gpuscout")


def gpuscout(
    *arguments: str | Path, cwd: Path, plugins: Path | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder; the caller looks at the exit status."""
    return subprocess.run(
        [GPUSCOUT, *map(str, arguments)],
        cwd=cwd,
        env=environment(plugins),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def environment(plugins: Path | None = None) -> dict[str, str]:
    """An environment without settings of the developer's; `plugins` is a folder made by `install_engine`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GPUSCOUT_", "COLUMNS"))}
    return kept | ({"PYTHONPATH": str(plugins)} if plugins else {})


def started(
    *arguments: str | Path, cwd: Path, plugins: Path | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the command in a folder, for a test that disturbs it. Messages are read by `communicate`."""
    return subprocess.Popen(
        [GPUSCOUT, *map(str, arguments)],
        cwd=cwd,
        env=environment(plugins) | dict(environ or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


class Process(Protocol):
    def poll(self) -> int | None: ...
    def communicate(self) -> tuple[str, str]: ...


def wait_for(what: Callable[[], object], process: Process | None = None, timeout_s: float = 120) -> None:
    """Wait until something is true, while a process is still running."""
    until = time.monotonic() + timeout_s
    while not what():
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def install_engine(
    folder: Path, name: str, evaluate: str, *, cost: str = "CHEAP", fingerprint: str = "1", in_process: bool = True
) -> Path:
    """Put an engine into a folder as an installed package would: a module and its entry point.

    `evaluate` is the body of `evaluate(self, cases, ladder)`; `answer(cases, ladder)` gives a plain answer.
    """
    module = f"{name.replace('-', '_')}_engine"
    (folder / f"{module}.py").write_text(
        textwrap.dedent(
            """
            import os, time
            from pathlib import Path
            import numpy as np
            from gpuscout.runner.engines.base import Cost
            from gpuscout.sweeps.curves import Bound, Curves, Points
            from gpuscout.sweeps.outcomes import Outcome

            def answer(cases, ladder):
                n = len(cases)
                task = np.repeat(np.arange(n), len(ladder))
                concurrency = np.tile(ladder, n)
                itl = 10.0 + 0.1 * concurrency / cases.num_gpus[task]
                e2e = (50.0 + itl * (cases.output_len[task] - 1)) / 1000
                return Curves(
                    outcome=np.full(n, Outcome.OK.code), needed_gib=np.full(n, 1.0), usable_gib=np.full(n, 2.0),
                    kv_capacity_tokens=np.full(n, 1000), fits_up_to=np.full(n, -1),
                    points=Points(
                        task=task, concurrency=concurrency, ttft_ms=np.full(len(task), 50.0), itl_ms=itl, e2e_s=e2e,
                        output_tokens_per_s=concurrency * cases.output_len[task] / e2e,
                        requests_per_s=concurrency / e2e, bound=np.full(len(task), Bound.MEMORY.code),
                        queued=np.zeros(len(task), dtype=bool),
                        regime=np.full(len(task), -1),
                    ),
                )
            """
        )
        + textwrap.dedent(
            f"""
            class Engine:
                name = {name!r}
                cost = Cost.{cost}
                in_process = {in_process}
                def __init__(self, **options):
                    self.options = options
                def fingerprint(self):
                    return {fingerprint!r}
                def evaluate(self, cases, ladder):
            """
        )
        + textwrap.indent(textwrap.dedent(evaluate), " " * 8)
    )
    information = folder / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[gpuscout.engines]\n{name} = {module}:Engine\n")
    return folder


_RESULTS = """
    SELECT {key}, tasks.outcome, tasks.detail, tasks.fits_up_to, models.name, gpus.name,
           engines.name, point.concurrency, point.ttft_ms, point.itl_ms, point.e2e_s, point.output_tokens_per_s,
           point.requests_per_s, point.bound, CAST(point.queued AS INTEGER)
    FROM membership
    JOIN sweeps ON sweeps.id = membership.sweep_id
    JOIN tasks ON tasks.id = membership.task_id
    JOIN cases ON cases.id = tasks.case_id
    JOIN models ON models.id = cases.model_id
    JOIN gpus ON gpus.id = cases.gpu_id
    JOIN engines ON engines.id = tasks.engine_id
    LEFT JOIN operating_points AS point ON point.task_id = tasks.id
    ORDER BY sweeps.revision, tasks.key, point.concurrency
"""


def results(store: Path | str) -> list[tuple[object, ...]]:
    """Every result row of a store (a SQLite file or a URL), in an order of its own: no ids, no times."""
    return rows(store, _RESULTS.format(key="encode(tasks.key, 'hex')" if _is_url(store) else "lower(hex(tasks.key))"))


def rows(store: Path | str, query: str) -> list[tuple[object, ...]]:
    if not _is_url(store):
        with closing(sqlite3.connect(store)) as connection:
            return connection.execute(query).fetchall()
    import psycopg

    with psycopg.connect(str(store)) as connection:
        return connection.execute(query.encode()).fetchall()


def _is_url(store: Path | str) -> bool:
    return isinstance(store, str) and store.startswith("postgres")


def digest(found: list[tuple[object, ...]]) -> str:
    return hashlib.sha256(repr(found).encode()).hexdigest()


def count(store: Path | str, table: str) -> int:
    return int(str(rows(store, f"SELECT count(*) FROM {table}")[0][0]))
