"""The schema in `store/schema.py` and the revisions in `migrations/` describe the same tables."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from gpuscout.store.database import connect, migrate, upgrade
from gpuscout.store.database.connect import Store, open_store, reach
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.database.migrate import alembic_config
from gpuscout.store.database.upgrade import store_status, upgrade_store
from gpuscout.store.schema import HEAD, REVISION_TABLE, REVISIONS, metadata
from gpuscout.sweeps.errors import StoreBusyError, StoreOutdatedError, StoreUnreachableError
from tests.assets.make_store import FOLDER, answers
from tests.support.stores import add_runner

pytestmark = pytest.mark.slow

# What the tests call the revision after this version's.
NEXT = f"{int(HEAD) + 1:04}"


def constraints(connection: sa.Connection, table: str) -> dict[str, set[tuple[object, ...]]]:
    """Names and contents of everything that constrains a table."""
    inspector = sa.inspect(connection)
    key = inspector.get_pk_constraint(table)
    return {
        "primary key": {(key["name"], *key["constrained_columns"])},
        "unique": {(c["name"], *c["column_names"]) for c in inspector.get_unique_constraints(table)},
        "foreign key": {
            (c["name"], *c["constrained_columns"], c["referred_table"], *c["referred_columns"])
            for c in inspector.get_foreign_keys(table)
        },
        "check": {(c["name"], " ".join(c["sqltext"].split())) for c in inspector.get_check_constraints(table)},
        "index": {(i["name"], bool(i["unique"]), *i["column_names"]) for i in inspector.get_indexes(table)},
        "column": {(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)},
    }


def test_there_is_one_head_and_the_code_knows_every_revision() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert scripts.get_heads() == [HEAD]
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == REVISIONS


@pytest.fixture
def migrated(store_url: str) -> Store:
    """An empty database in which every revision was run, one after the other."""
    store = reach(store_url, create=True)
    with store.writing() as connection:
        migrate.migrate_to_head(connection)
    return store


def test_alembic_finds_no_difference(migrated: Store) -> None:
    with migrated, migrated.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": REVISION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_a_new_store_is_what_all_revisions_lead_to(migrated: Store, tmp_path: Path) -> None:
    """Beside what alembic compares: CHECKs, primary keys and every name, and the revision itself."""
    tables = [*metadata.tables, REVISION_TABLE]
    with migrated:
        with migrated.reading() as connection:
            by_revisions = {name: constraints(connection, name) for name in tables}
        if migrated.is_sqlite:
            url = f"sqlite:///{tmp_path / 'other.db'}"
        else:
            with migrated.writing() as connection:
                connection.exec_driver_sql("CREATE SCHEMA other")
            other = migrated.url.update_query_dict({"options": "-csearch_path=other"})
            url = other.render_as_string(hide_password=False)
        with open_store(url, create=True) as new, new.reading() as connection:
            assert set(sa.inspect(connection).get_table_names()) == set(tables)
            at_once = {name: constraints(connection, name) for name in tables}
            assert connection.execute(connect.REVISION_QUERY).scalars().all() == [HEAD]
    assert at_once == by_revisions
    for table, found in at_once.items():
        for kind, entries in found.items():
            assert all(entry[0] for entry in entries), f"a {kind} of {table} has no name"


def test_large_tables_are_stored_by_their_key(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "gpuscout.db"), create=True) as store, store.reading() as connection:
        texts = dict(map(tuple, connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'table'")))
    without = {name for name, text in texts.items() if "WITHOUT ROWID" in text}
    assert without == {
        table.name for table in metadata.tables.values() if not table.dialect_options["sqlite"]["with_rowid"]
    }
    assert without >= {"operating_points", "membership"}


def test_the_revisions_are_found_from_anywhere(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "store-0001.sqlite", tmp_path / "here.db")
    code = "from gpuscout.store.database.upgrade import upgrade_store; upgrade_store('here.db')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert store_status(str(tmp_path / "here.db")).up_to_date


# --- released stores ---------------------------------------------------------------------------------------------


def test_there_is_a_store_of_every_revision_that_was_left_behind() -> None:
    assert {file.stem for file in FOLDER.glob("store-*.sqlite")} >= {f"store-{revision}" for revision in REVISIONS[:-1]}


@pytest.mark.parametrize("released", sorted(FOLDER.glob("store-*.sqlite")), ids=lambda file: file.stem)
def test_a_released_store_upgrades_and_answers_as_before(released: Path, tmp_path: Path) -> None:
    path = shutil.copy(released, tmp_path / released.name)
    done = upgrade_store(str(path))
    assert released.stem == f"store-{done.before}"
    assert (done.after, done.backup is not None) == (HEAD, done.before != HEAD)
    with open_store(str(path)) as store, store.reading() as connection:
        assert answers(connection) == json.loads(released.with_suffix(".json").read_text())
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        context = MigrationContext.configure(connection, opts={"version_table": REVISION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []


# --- upgrading ---------------------------------------------------------------------------------------------------


@pytest.fixture
def newer_scripts(tmp_path: Path) -> Path:
    """Revisions with a second one, which adds a column to a table that others refer to, and takes its time."""
    folder = tmp_path / "scripts"
    shipped = Path(ScriptDirectory.from_config(alembic_config()).dir)
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text((shipped / "env.py").read_text())
    for script in (shipped / "versions").glob("*.py"):
        (folder / "versions" / script.name).write_text(script.read_text())
    (folder / "versions" / f"{NEXT}_more.py").write_text(
        "import time\n"
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        f"revision, down_revision, branch_labels, depends_on = '{NEXT}', '{HEAD}', None, None\n"
        "def upgrade():\n"
        "    recreate = 'always' if op.get_bind().dialect.name == 'sqlite' else 'never'\n"
        "    with op.batch_alter_table('runners', recreate=recreate) as table:\n"
        "        table.add_column(sa.Column('note', sa.Text(), nullable=True))\n"
        "    time.sleep(0.5)\n"
    )
    return folder


@pytest.fixture
def newer_code(monkeypatch: pytest.MonkeyPatch, newer_scripts: Path) -> None:
    """Pretend that this version has a second revision."""
    monkeypatch.setattr(migrate, "SCRIPTS", str(newer_scripts))
    for module in (connect, upgrade):
        monkeypatch.setattr(module, "HEAD", NEXT)
        monkeypatch.setattr(module, "REVISIONS", (*REVISIONS, NEXT))


@pytest.fixture
def old_store(store_url: str) -> str:
    """The URL of a store at this version's revision with one runner in it."""
    with open_store(store_url, create=True) as store:
        add_runner(store)
    return store_url


def test_an_upgrade_keeps_what_is_stored(old_store: str, newer_code: None) -> None:
    before = store_status(old_store)
    assert (before.current, before.head, before.up_to_date) == (HEAD, NEXT, False)
    assert "outdated" in before.summary
    with pytest.raises(StoreOutdatedError):
        open_store(old_store)

    done = upgrade_store(old_store)
    assert f"upgraded from revision {HEAD} to {NEXT}" in done.summary
    with open_store(old_store) as store, store.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*), max(note) FROM runners").one() == (1, None)
        assert connection.dialect.name != "sqlite" or connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    again = upgrade_store(old_store)
    assert (again.before, again.backup) == (NEXT, None)
    assert f"already at revision {NEXT}" in again.summary


def test_a_sqlite_file_is_backed_up_first(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "gpuscout.db"
    with open_store(str(path), create=True) as store:
        add_runner(store)
    request.getfixturevalue("newer_code")
    done = upgrade_store(str(path))
    assert done.backup is not None
    assert done.backup.name.startswith(f"gpuscout.db.backup-{HEAD}-")
    assert str(done.backup) in done.summary
    with closing(sqlite3.connect(done.backup)) as backup:
        assert backup.execute(f"SELECT version_num FROM {REVISION_TABLE}").fetchall() == [(HEAD,)]
        assert backup.execute("SELECT count(*) FROM runners").fetchone() == (1,)


def test_a_failing_upgrade_changes_nothing(old_store: str, newer_code: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("DROP TABLE percentiles")
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(migrate, "migrate_to_head", fail)
        with pytest.raises(ZeroDivisionError):
            upgrade_store(old_store)
    assert store_status(old_store).current == HEAD
    upgrade_store(old_store)
    with open_store(old_store) as store, store.reading() as connection:
        assert sa.inspect(connection).has_table("percentiles")


def test_two_upgrades_at_once_are_one(old_store: str, newer_scripts: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from gpuscout.store.database import connect, migrate, upgrade\n"
        "from gpuscout.sweeps.errors import StoreBusyError\n"
        "migrate.SCRIPTS = sys.argv[2]\n"
        f"for module in (connect, upgrade): module.HEAD, module.REVISIONS = '{NEXT}', {(*REVISIONS, NEXT)}\n"
        "try: print(upgrade.upgrade_store(sys.argv[1]).summary)\n"
        "except StoreBusyError as error: print(error.message)\n"
    )
    command = [sys.executable, "-c", code, old_store, str(newer_scripts)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    # On SQLite who comes too early is told; on Postgres everybody waits, and the lock decides who was first.
    assert sum(f"upgraded from revision {HEAD} to {NEXT}" in text for text in said) == 1
    assert all("upgraded" in text or "already at" in text or "another runner holds" in text for text in said)
    assert store_status(old_store).current == NEXT
    assert len(list(tmp_path.glob(f"*.backup-{HEAD}-*"))) == (1 if old_store.startswith("sqlite") else 0)


def test_no_upgrade_under_a_running_sweep(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = str(tmp_path / "gpuscout.db")
    with open_store(path, create=True) as store, RunnerLock(store).held():
        request.getfixturevalue("newer_code")
        with pytest.raises(StoreBusyError, match="another runner"):
            upgrade_store(path)
        assert list(tmp_path.glob("*.backup*")) == []


def test_there_is_nothing_to_upgrade(tmp_path: Path, store_url: str) -> None:
    for missing in (str(tmp_path / "gone.db"), store_url):
        with pytest.raises(StoreUnreachableError, match="run a sweep first"):
            upgrade_store(missing)
    open_store(store_url, create=True).close()
    done = upgrade_store(store_url)
    assert (done.before, done.after, done.backup) == (HEAD, HEAD, None)
