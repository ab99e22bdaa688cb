"""Questions to a large store beside the best SQL that we could write by hand for them, and the start of commands.

`python -m tests.bench.queries --tasks 1000000` asks a store of 10 million points.
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

import pytest
import sqlalchemy as sa

from gpuscout.runner.cli.main import collect_rarely
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.ranking.question.asked import Trusted
from gpuscout.store.ranking.rank import Question, Ranking, rank
from gpuscout.store.ranking.types import Cause
from gpuscout.store.schema import models
from gpuscout.sweeps.slo import parse_slo
from tests.bench import by_hand
from tests.bench.pages import pages
from tests.bench.sweeps import run_in, sweep
from tests.support.commands import gpuscout
from tests.support.stores import postgres_database, postgres_server

Say = Callable[..., None]
_REPEATS = 5
_ITL, _TTFT = "itl<=30ms", "ttft<=2s"
# As `gpuscout recommend` asks: for the best and a runner-up of another GPU type. The statements by hand rank all alike.
_ASKED = Question(top=2, gpu_types=2, briefly=True, trust=Trusted.ANY)
_QUESTIONS = {
    "cost, no limits": _ASKED,
    f"cost, {_ITL}, stored points": replace(_ASKED, slos=(parse_slo(_ITL),), interpolate=False),
    f"cost, {_ITL}, {_TTFT}, interpolated": replace(_ASKED, slos=(parse_slo(_ITL), parse_slo(_TTFT))),
}


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def beside_sql(say: Say, store: Store, repeats: int = _REPEATS) -> None:
    """Rankings of everything, in turns with the statements by hand; the best of each."""
    for number, (name, question) in enumerate(_QUESTIONS.items()):
        with store.reading() as connection:
            told, best = list(by_hand.told(connection, number)), list(by_hand.best(connection, number))
            written = {"all that it tells": told, "what is best alone": best}
            ours, trusting = [], []
            theirs: dict[str, list[float]] = {what: [] for what in written}
            for _ in range(repeats):
                ours.append(milliseconds(lambda question=question: rank(connection, question)))
                backed_first = replace(question, trust=Trusted.PREFER)
                trusting.append(milliseconds(lambda question=backed_first: rank(connection, question)))
                for what, ways in written.items():
                    theirs[what] += [milliseconds(lambda way=way: _answers(connection, way)) for way in ways]
            ranking = rank(connection, question)
            for way in told:
                _tell_the_same(ranking, connection, way)
        say(f"  {name}", min(ours), "ms")
        say("    what measurements back first", min(trusting), "ms")
        for what, took in theirs.items():
            say(f"    SQL by hand, {what}", min(took), "ms")
            say("      ratio", min(ours) / min(took), "x", ".2f")


def _answers(connection: sa.Connection, statements: Sequence[str]) -> list[list[sa.Row[Any]]]:
    return [list(connection.exec_driver_sql(sql).all()) for sql in statements]


def _tell_the_same(ranking: Ranking, connection: sa.Connection, statements: Sequence[str]) -> None:
    """The statements by hand find what the ranking tells; equal figures may be those of several configurations."""
    names = {row.id: row.name for row in connection.execute(sa.select(models.c.id, models.c.name))}
    qualifying, *out = _answers(connection, statements)
    types: dict[tuple[str, int, int], list[Any]] = {}
    for row in qualifying:
        types.setdefault((row.model, row.input_len, row.output_len), []).append(row)
    counts = {
        (names[row.model_id], row.input_len, row.output_len, row.cause): row.configurations
        for rows in out
        for row in rows
    }
    nearest: dict[str, float] = {}
    for row in (row for rows in out for row in rows if row.ratio is not None):
        nearest[row.cause] = min(row.ratio, nearest.get(row.cause, row.ratio))

    examples: dict[str, float] = {}
    for group in ranking.groups:
        key = group.model, group.input_len, group.output_len
        unpriced = [row for row in types.get(key, []) if row.cost is None]
        priced = sorted((row for row in types.get(key, []) if row.cost is not None), key=lambda row: row.cost)
        for config, row in zip(group.best_per_gpu, priced, strict=False):
            assert abs(config.objective - row.cost) <= 1e-6, (config, row)
        assert (len(group.best_per_gpu) == 2) == (len(priced) > 1)
        assert [one.gpu for one in group.unranked] == sorted(row.gpu for row in unpriced)
        assert not priced or group.candidates + sum(row.configurations for row in unpriced) == priced[0].qualify
        flips = {(flip.gpu, flip.winner) for flip in group.flips}
        assert _flips(priced, -1e-6) <= flips <= _flips(priced, 1e-6)
        for losers in group.losers:
            cause = losers.cause.value if losers.slo is None else losers.slo.metric
            if losers.cause is not Cause.NO_PRICE:
                assert counts.pop((*key, cause)) == losers.count
                for loser in losers.examples:
                    if loser.ratio is not None:
                        examples[cause] = min(loser.ratio, examples.get(cause, loser.ratio))
    assert not counts, counts
    assert nearest == pytest.approx(examples)


def _flips(priced: Sequence[Any], slack: float) -> set[tuple[str, str]]:
    """Which GPU types would win or lose at another of their prices, and what would win then; the cheapest first.

    `slack`: by how much USD less would do, for a ranking takes figures that are equal to six decimals for equal.
    """
    if len(priced) < 2:
        return set()
    first, second, *_ = priced
    found = {(other.gpu, other.gpu) for other in priced[1:] if other.cost * other.low < first.cost + slack}
    return found | ({(first.gpu, second.gpu)} if second.cost < first.cost * first.high + slack else set())


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
            pages(say, url)


def print_figure(what: str, figure: float, unit: str = "", form: str = ",.0f") -> None:
    print(f"{what:62} {figure:>14{form}} {unit}".rstrip(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.queries")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--store", action="append", default=[], metavar="URL", help="that holds them already")
    options = parser.parse_args()
    sys.exit(queries(print_figure, options.tasks, options.store))
