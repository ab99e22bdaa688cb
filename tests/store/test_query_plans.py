"""How databases answer the main questions: along an index wherever a filter selects, never by reading a whole table.

The statements are those that the code really sends. What is small whatever is stored (names, sweeps, prices) may be
read as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from gpuscout.store import schema
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.queries.operating_points.points import query
from gpuscout.store.ranking.rank import Question, rank, sql_of
from gpuscout.store.results.blocks import claim_blocks, open_failures
from gpuscout.sweeps.slo import parse_slo
from tests.bench.sweeps import run_in, sweep
from tests.support.stores import postgres_database

pytestmark = pytest.mark.slow

LARGE = {"cases", "tasks", "operating_points", "membership", "failures"}
_ALIAS = re.compile(r"\b(\w+) AS (\w+)")
_IS_THERE_ANY = re.compile(r"SELECT \w+\.id \sFROM \w+\s+LIMIT")
SLOS = (parse_slo("itl<=30ms"), parse_slo("ttft<=2s"))
ONE_GROUP = {"models": ("Qwen/Qwen3-8B",), "workload": "w1"}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A sweep of 4,800 tasks, one of 48 of them, measured runs of 400 cases, and 5 tasks of a dear engine."""
    if request.param == "sqlite":
        yield from filled(str(tmp_path_factory.mktemp("plans") / "gpuscout.db"))
    else:
        with postgres_database(request.getfixturevalue("postgres")) as url:
            yield from filled(url)


def filled(url: str) -> Iterator[Store]:
    run_in(url, sweep(4_800, name="large"))
    run_in(url, sweep(480, name="small", models=["Qwen/Qwen3-8B", "Qwen/Qwen3-14B"], tensor_parallel=[1]))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with open_store(url) as store:
        with store.writing() as connection:
            engine = {"name": "dear", "fingerprint": "1", "options": "{}", "options_digest": bytes(16)}
            new = sa.insert(schema.engines).values(engine | {"created_at": now}).returning(schema.engines.c.id)
            dear = connection.execute(new).scalar_one()
            case_ids = connection.execute(sa.select(schema.cases.c.id).limit(400)).scalars().all()
            answer: dict[str, Any] = {"engine_id": dear, "ladder_id": 1, "outcome": "does_not_fit", "created_at": now}
            answers = [answer | {"case_id": case, "key": case.to_bytes(16, "big")} for case in case_ids[:5]]
            connection.execute(sa.insert(schema.tasks), answers)
            about: dict[str, Any] = {"source": "test", "imported_at": now, "load": "closed_loop", "concurrency": 8}
            runs = [about | {"case_id": case, "digest": case.to_bytes(16, "big"), "itl_ms": 9.0} for case in case_ids]
            connection.execute(sa.insert(schema.measured_runs), runs)
            about = {
                "sweep_id": 1,
                "attempt": 1,
                "engine_id": dear,
                "outcome": "error",
                "message": "",
                "failed_at": now,
            }
            failed = [
                about | {"case_id": case, "task_key": case.to_bytes(16, "big"), "block": case % 2} for case in case_ids
            ]
            connection.execute(sa.insert(schema.failures), failed)
        if not store.is_sqlite:
            with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("ANALYZE")
        yield store


def whole_tables(
    store: Store, work: Callable[[sa.Connection], object], *, writes: bool = False, large: set[str] = LARGE
) -> list[str]:
    """The large tables that the statements of `work` would read as a whole, with the statement."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if re.match(r"\s*(SELECT|WITH|UPDATE|DELETE)", statement) and not _IS_THERE_ANY.match(statement):
            sent.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    try:
        with store.writing() if writes else store.reading() as connection:
            also = work(connection)
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", note)
    # And what it says that it would send.
    sent += [(text, ()) for text in re.split(r";\s*", also if isinstance(also, str) else "") if text]
    assert sent
    explain = explained_by_sqlite if store.is_sqlite else explained_by_postgres
    with store.reading() as connection:
        if not store.is_sqlite:
            # Reading a store as small as this as a whole is often quicker; it must never be the only way.
            for way in ("seqscan", "hashjoin", "mergejoin"):
                connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        return [
            f"{table}: {text}" for text, parameters in sent for table in explain(connection, text, parameters, large)
        ]


def explained_by_sqlite(connection: sa.Connection, statement: str, parameters: Any, large: set[str]) -> list[str]:
    tables = {table: table for table in large} | {alias: table for table, alias in _ALIAS.findall(statement)}
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    scanned = [match[1] for row in rows if (match := re.match(r"SCAN (\w+)", row.detail))]
    return [tables[name] for name in scanned if tables.get(name) in large]


def explained_by_postgres(connection: sa.Connection, statement: str, parameters: Any, large: set[str]) -> list[str]:
    def below(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield plan
        for child in plan.get("Plans", ()):
            yield from below(child)

    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    (top,) = plan if isinstance(plan, list) else json.loads(plan)
    return [
        node["Relation Name"]
        for node in below(top["Plan"])
        if node.get("Relation Name") in large and "Index Cond" not in node and "Recheck Cond" not in node
    ]


RANKED = {
    "one model and workload": Question(**ONE_GROUP),
    "one model and workload, limits": Question(**ONE_GROUP, slos=SLOS),
    "one model and workload, latencies and a rate": Question(**ONE_GROUP, slos=(*SLOS, parse_slo("rate>=2/s"))),
    "one model and workload that nothing meets": Question(**ONE_GROUP, slos=(parse_slo("itl<=0.001ms"),)),
    "one model and workload of a sweep": Question(**ONE_GROUP, sweep="large", slos=SLOS),
    "one model": Question(models=("Qwen/Qwen3-8B",)),
    "lengths": Question(input_len=128, output_len=64),
    "a sweep": Question(sweep="small"),
    "one model of a sweep": Question(sweep="small", models=("Qwen/Qwen3-8B",)),
    "one GPU": Question(gpus=("L40S",)),
    "one GPU, limits": Question(gpus=("L40S",), slos=SLOS),
    "a dear engine": Question(engines=("dear",)),
}


@pytest.mark.parametrize("question", RANKED.values(), ids=RANKED)
def test_a_ranking_reads_no_table_as_a_whole(store: Store, question: Question) -> None:
    def ranked(connection: sa.Connection) -> str:
        assert rank(connection, question).groups
        return sql_of(connection, question)

    assert whole_tables(store, ranked) == []


QUERIED = {name: RANKED[name] for name in ("one model and workload", "a sweep", "one GPU", "a dear engine")}


@pytest.mark.parametrize("question", QUERIED.values(), ids=QUERIED)
def test_a_query_of_points_reads_no_table_as_a_whole(store: Store, question: Question) -> None:
    assert whole_tables(store, lambda connection: len(list(query(connection, question)))) == []


def test_everything_is_read_as_a_whole(store: Store) -> None:
    """What the tests above look for does show where there is no filter."""
    assert whole_tables(store, lambda connection: sql_of(connection, Question()))


def test_claims_and_failures_are_found_by_their_sweep(store: Store) -> None:
    def claimed(connection: sa.Connection) -> None:
        claim_blocks(connection, 1, 1, 1, lambda runner: True)
        assert open_failures(connection, 1, 0)

    assert whole_tables(store, claimed, writes=True) == []


def test_runs_are_found_by_their_case(store: Store) -> None:
    runs = schema.measured_runs
    found = sa.select(runs).where(runs.c.case_id.in_([1, 2]))
    assert whole_tables(store, lambda connection: connection.execute(found).close(), large={"measured_runs"}) == []
