"""Questions to a large store beside the best SQL that we could write by hand for them, and the start of commands.

The statements by hand know what they read: one engine, one version of every name, no measured runs. The first returns
what is best for each model and workload. The second returns what `gpuscout recommend` prints of each: the best and the
next GPU type with their settings and figures, and how many of the other configurations were out for what; a ranking
also says why the nearest of them were, and which prices would change the best. `python -m tests.bench.queries
--tasks 1000000` asks a store of 10 million points.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gpuscout.runner.cli.main import collect_rarely
from gpuscout.store.connect import Store, open_store
from gpuscout.store.prices import PriceRules
from gpuscout.store.prices_books import prices_for
from gpuscout.store.rank import Question, rank
from gpuscout.store.schema import gpus, models
from gpuscout.sweeps.slo import parse_slo
from tests.bench.sweeps import run_in, sweep
from tests.commands import gpuscout
from tests.stores import postgres_database, postgres_server

Say = Callable[..., None]
_REPEATS = 5
_ITL, _TTFT = "itl<=30ms", "ttft<=2s"
# As `gpuscout recommend` asks: for the best and a runner-up of another GPU type.
_ASKED = Question(top=2, gpu_types=2, briefly=True)
_QUESTIONS = {
    "cost, no limits": _ASKED,
    f"cost, {_ITL}, stored points": replace(_ASKED, slos=(parse_slo(_ITL),), interpolate=False),
    f"cost, {_ITL}, {_TTFT}, interpolated": replace(_ASKED, slos=(parse_slo(_ITL), parse_slo(_TTFT))),
}
_WITHIN = ("", "AND itl_ms <= 30", "AND itl_ms <= 30 AND ttft_ms <= 2000")

# The best stored point of every task, in one pass over the points.
_BEST = {
    "sqlite": """
        SELECT task_id, concurrency AS c0, ttft_ms AS ttft0, itl_ms AS itl0, output_tokens_per_s AS tokens0, queued,
               max(output_tokens_per_s - 1e9 * queued)
        FROM operating_points WHERE output_tokens_per_s > 0 {within} GROUP BY task_id""",
    "distinct on": """
        SELECT DISTINCT ON (task_id) task_id, concurrency AS c0, ttft_ms AS ttft0, itl_ms AS itl0,
               output_tokens_per_s AS tokens0, queued
        FROM operating_points WHERE output_tokens_per_s > 0 {within}
        ORDER BY task_id, queued, output_tokens_per_s DESC""",
    "array": """
        SELECT task_id, a[3] AS c0, a[4] AS ttft0, a[5] AS itl0, -a[2] AS tokens0, a[1] = 1 AS queued FROM (
            SELECT task_id, min(ARRAY[queued::int, -output_tokens_per_s, concurrency, ttft_ms, itl_ms]) AS a
            FROM operating_points WHERE output_tokens_per_s > 0 {within} GROUP BY task_id) AS aggregated""",
}
# Between it and the next one above: the highest whole concurrency within both limits.
_BETWEEN = """
    pair AS (
        SELECT best.*, next.concurrency AS c1, next.ttft_ms AS ttft1, next.itl_ms AS itl1,
               next.output_tokens_per_s AS tokens1
        FROM best LEFT JOIN {next}),
    limited AS (
        SELECT pair.*, {least}(
            c1 - 1,
            CASE WHEN itl1 > itl0 THEN {floor}(c0 + (30 - itl0) / (itl1 - itl0) * (c1 - c0){end} ELSE c1 - 1 END,
            CASE WHEN ttft1 > ttft0 THEN {floor}(c0 + (2000 - ttft0) / (ttft1 - ttft0) * (c1 - c0){end} ELSE c1 - 1 END
        ) AS c
        FROM pair),
    found AS (
        SELECT task_id, CASE WHEN c > c0 AND tokens1 > tokens0 THEN c ELSE c0 END AS concurrency,
               CASE WHEN c > c0 AND tokens1 > tokens0
                    THEN tokens0 + (tokens1 - tokens0) * (c - c0) / (c1 - c0) ELSE tokens0 END AS tokens
        FROM limited)"""
_STORED = "found AS (SELECT task_id, c0 AS concurrency, tokens0 AS tokens FROM best)"
_NEXT = {
    "sqlite": """operating_points AS next ON next.task_id = best.task_id AND next.queued <= best.queued
        AND next.concurrency = (SELECT min(concurrency) FROM operating_points AS above
                                WHERE above.task_id = best.task_id AND above.concurrency > best.c0)""",
    "postgresql": """LATERAL (
            SELECT * FROM operating_points AS above WHERE above.task_id = best.task_id AND above.concurrency > best.c0
            ORDER BY concurrency LIMIT 1) AS next ON next.queued <= best.queued""",
}
# What is best for each model and workload.
_WINNERS = {
    "sqlite": """
        SELECT model_id, input_len, output_len, task_id, concurrency, min(num_gpus * usd / (tokens * 0.0036)) AS cost
        FROM found CROSS JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        JOIN price ON price.gpu_id = cases.gpu_id GROUP BY model_id, input_len, output_len""",
    "postgresql": """
        SELECT DISTINCT ON (model_id, input_len, output_len) model_id, input_len, output_len, task_id, concurrency,
               num_gpus * usd / (tokens * 0.0036) AS cost
        FROM found JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        JOIN price ON price.gpu_id = cases.gpu_id ORDER BY model_id, input_len, output_len, cost""",
}


# The configurations that are printed, and the others.
_TYPES = {
    "sqlite": """, types AS (
        SELECT model_id, input_len, output_len, gpu_id, task_id, concurrency,
               min(num_gpus * usd / (tokens * 0.0036)) AS cost
        FROM found CROSS JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        JOIN price USING (gpu_id) GROUP BY model_id, input_len, output_len, gpu_id)""",
    "postgresql": """, types AS (
        SELECT DISTINCT ON (model_id, input_len, output_len, gpu_id)
               model_id, input_len, output_len, gpu_id, task_id, concurrency,
               num_gpus * usd / (tokens * 0.0036) AS cost
        FROM found JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        JOIN price USING (gpu_id) ORDER BY model_id, input_len, output_len, gpu_id, cost)""",
}
_PRINTED = """, ranked AS (
        SELECT types.*, rank() OVER (PARTITION BY model_id, input_len, output_len ORDER BY cost) AS place FROM types)
    SELECT ranked.*, cases.*, models.name, gpus.name, engines.name, fingerprint, points.*
    FROM ranked JOIN tasks ON tasks.id = ranked.task_id JOIN cases ON cases.id = case_id
    JOIN models ON models.id = ranked.model_id JOIN gpus ON gpus.id = ranked.gpu_id
    JOIN engines ON engines.id = engine_id
    LEFT JOIN operating_points AS points ON points.task_id = ranked.task_id AND points.concurrency = ranked.concurrency
    WHERE place <= 2"""
_OUT = """
    SELECT model_id, input_len, output_len, outcome, count(*) FROM tasks JOIN cases ON cases.id = case_id
    GROUP BY model_id, input_len, output_len, outcome"""


def by_hand(connection: sa.Connection, number: int, *, printed: bool = False) -> Iterator[str]:
    """Statements for one of `_QUESTIONS`; which is quickest depends on the database."""
    dialect = connection.dialect.name
    ids = {row.name: row.id for row in connection.execute(sa.select(gpus.c.name, gpus.c.id))}
    prices = prices_for(connection, list(ids), PriceRules()).known
    price = ", ".join(f"({ids[name]}, {price.per_hour(1).usd!r})" for name, price in prices.items())
    sqlite = dialect == "sqlite"
    least, floor, end = ("min", "CAST(", ") AS INTEGER)") if sqlite else ("least", "floor(", "))")
    between = _BETWEEN.format(next=_NEXT[dialect], least=least, floor=floor, end=end)
    for way in ["sqlite"] if sqlite else ["distinct on", "array"]:
        best = _BEST[way].format(within=_WITHIN[number])
        points = between if number == 2 else _STORED
        result = _TYPES[dialect] + _PRINTED if printed else _WINNERS[dialect]
        yield f"WITH price (gpu_id, usd) AS (VALUES {price}), best AS ({best}), {points} {result}"


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def beside_sql(say: Say, store: Store, repeats: int = _REPEATS) -> None:
    """Rankings of everything, in turns with the statements by hand; the best of each."""
    for number, (name, question) in enumerate(_QUESTIONS.items()):
        with store.reading() as connection:
            winners = [(sql,) for sql in by_hand(connection, number)]
            printed = [(sql, _OUT) for sql in by_hand(connection, number, printed=True)]
            written = {"what is best": winners, "what is printed": printed}
            ours = []
            theirs: dict[str, list[float]] = {what: [] for what in written}
            for _ in range(repeats):
                ours.append(milliseconds(lambda question=question: rank(connection, question)))
                for what, ways in written.items():
                    theirs[what] += [milliseconds(lambda way=way: _answers(connection, way)) for way in ways]
            _same_winners(connection, question, winners)
        say(f"  {name}", min(ours), "ms")
        for what, took in theirs.items():
            say(f"    SQL by hand, {what}", min(took), "ms")
            say("      ratio", min(ours) / min(took), "x", ".2f")


def _answers(connection: sa.Connection, statements: Sequence[str]) -> list[Any]:
    return [row for sql in statements for row in connection.exec_driver_sql(sql).all()]


def _same_winners(connection: sa.Connection, question: Question, written: Sequence[Sequence[str]]) -> None:
    names = {row.id: row.name for row in connection.execute(sa.select(models.c.id, models.c.name))}
    groups = rank(connection, question).groups
    ours = {(group.model, group.input_len, group.output_len): group.best for group in groups if group.best}
    for statements in written:
        rows = _answers(connection, statements)
        theirs = {(names[row.model_id], row.input_len, row.output_len): row for row in rows}
        assert theirs.keys() == ours.keys(), (len(theirs), len(ours))
        for group, best in ours.items():
            row = theirs[group]
            # Equal figures may be those of several points and configurations.
            assert abs(best.objective - row.cost) <= 1e-6, (group, best, row)


def one_group(say: Say, store: Store) -> None:
    """One model and workload of 1,920 tasks, and the same again with other limits and prices."""
    asked = replace(_ASKED, models=("Qwen/Qwen3-8B",), workload="one")
    first = replace(asked, slos=(parse_slo(_ITL), parse_slo(_TTFT)))
    again = replace(asked, slos=(parse_slo("itl<=20ms"), parse_slo("ttft<=1s")), prices=PriceRules(discount=0.3))
    with store.reading() as connection:
        (group,) = rank(connection, first).groups
        tasks = group.candidates + sum(losers.count for losers in group.losers)
        took = [[milliseconds(lambda q=q: rank(connection, q)) for q in (first, again)] for _ in range(4 * _REPEATS)]
    say(f"  one model and workload of {tasks:,} tasks", min(pair[0] for pair in took), "ms", ".1f")
    say("    the same with other limits and prices", min(pair[1] for pair in took), "ms", ".1f")


def commands(say: Say) -> None:
    """Wall time of whole processes."""
    with tempfile.TemporaryDirectory() as directory:
        run_in(Path(directory) / "gpuscout.db", sweep(480))
        for arguments in (["--help"], ["recommend"]):
            took = min(milliseconds(lambda a=arguments: _succeeds(a, Path(directory))) for _ in range(_REPEATS))
            say(f"gpuscout {arguments[0]}", took, "ms")


def _succeeds(arguments: Sequence[str], directory: Path) -> None:
    done = gpuscout(*arguments, cwd=directory)
    assert done.returncode == 0, done.stderr


def filled(url: str, tasks: int) -> None:
    """A store of so many tasks, and one model and workload of 1,920 more."""
    run_in(url, sweep(tasks))
    fractions = [round(0.76 + 0.01 * step, 2) for step in range(20)]
    workload = [{"name": "one", "input_len": 1000, "output_len": 250}]
    one = sweep(480, name="one", models=["Qwen/Qwen3-8B"], workloads=workload, gpu_memory_utilization=fractions)
    run_in(url, one)


@contextmanager
def stores(tasks: int) -> Iterator[Iterator[str]]:
    def urls() -> Iterator[str]:
        with tempfile.TemporaryDirectory() as directory:
            yield f"{directory}/queries.db"
        with postgres_server() as server:
            if server is not None:
                with postgres_database(server) as url:
                    yield url

    yield urls()


def queries(say: Say, tasks: int, urls: Sequence[str] = ()) -> None:
    """Print them for a new store of so many tasks on each database, or for the stores at `urls`."""
    commands(say)
    collect_rarely()
    with stores(tasks) as new:
        for url in urls or new:
            if not urls:
                filled(url, tasks)
            with open_store(url) as store:
                if not store.is_sqlite:
                    # As autovacuum does within minutes.
                    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                        connection.exec_driver_sql("VACUUM ANALYZE")
                say(f"rankings of everything, {store.engine.dialect.name}, {tasks:,} tasks", tasks, "tasks")
                beside_sql(say, store, _REPEATS if tasks <= 200_000 else 2)
                one_group(say, store)


def _print(what: str, figure: float, unit: str = "", form: str = ",.0f") -> None:
    print(f"{what:62} {figure:>14{form}} {unit}".rstrip(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.queries")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--store", action="append", default=[], metavar="URL", help="that holds them already")
    options = parser.parse_args()
    sys.exit(queries(_print, options.tasks, options.store))
