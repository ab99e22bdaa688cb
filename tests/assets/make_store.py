"""Makes the committed store of a revision: `python -m tests.assets.make_store` writes it beside this file.

`store-<revision>.sqlite` is what a released gpuscout left behind, `store-<revision>.json` what it answered. Tests
upgrade every one of them and ask again; a released file is never made anew.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from gpuscout.runner.api.run import run
from gpuscout.store.database.connect import open_store
from gpuscout.store.ranking.rank import Question, rank
from gpuscout.store.schema import HEAD, cases, measured_runs, percentiles
from gpuscout.sweeps.spec.spec import parse_spec

FOLDER = Path(__file__).parent
SPEC = """
name: released
models: [Qwen/Qwen3-8B, Qwen/Qwen3-32B]
gpus: [H100, L4]
tensor_parallel: [1, 2]
workloads: [chat]
concurrency: [1, 8]
"""


def answers(connection: sa.Connection) -> dict[str, object]:
    """What the store is asked, before and after every upgrade: stored figures, not what follows from today's prices."""
    ranking = rank(connection, Question(sweep="released", objective="throughput"))
    points = [
        [group.model, best.gpu, best.num_gpus, best.concurrency, best.ttft_ms, best.itl_ms, best.output_tokens_per_s]
        for group in ranking.groups
        for best in group.configs
    ]
    measured = connection.execute(
        sa.text("SELECT source, ttft_ms, metric, percentile, value FROM measured_runs, percentiles")
    )
    return {"ranked": points, "measured": [list(row) for row in measured]}


def main() -> None:
    file = FOLDER / f"store-{HEAD}.sqlite"
    if file.exists() and "--again" not in sys.argv:
        sys.exit(f"{file.name} is there; --again makes it again, which only an unreleased revision may need")
    file.unlink(missing_ok=True)
    with open_store(str(file), create=True) as store:
        run(parse_spec(SPEC), store, executor="in-process")
        with store.writing() as connection:
            case_id = connection.execute(sa.select(sa.func.min(cases.c.id))).scalar_one()
            now = datetime.now(UTC)
            row = {"digest": b"m" * 16, "case_id": case_id, "source": "by hand", "imported_at": now, "ttft_ms": 75.0}
            measured = sa.insert(measured_runs).values(**row, load="closed_loop").returning(measured_runs.c.id)
            run_id = connection.execute(measured).scalar_one()
            tail = {"run_id": run_id, "metric": "ttft_ms", "percentile": 99.0, "value": 120.0}
            connection.execute(sa.insert(percentiles).values(tail))
        with store.reading() as connection:
            found = answers(connection)
    (FOLDER / f"store-{HEAD}.json").write_text(json.dumps(found, indent=1) + "\n")
    with closing(sqlite3.connect(file)) as connection_:
        # Small pages: a schema of sixteen tables takes more room than a few rows.
        for statement in ("PRAGMA journal_mode=DELETE", "PRAGMA page_size=512", "VACUUM"):
            connection_.execute(statement)
    Path(f"{file}.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
