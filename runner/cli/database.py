"""`gpuscout db status | upgrade`: the schema revision of a store."""

from __future__ import annotations

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, print_json

db_commands = typer.Typer(help="The schema of the store.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(db_commands, name="db", rich_help_panel="Store")


@db_commands.command("status", epilog="Example: gpuscout db status --db postgresql://scout@db/gpuscout")
def status(db: Db = DEFAULT_STORE, json: Json = False) -> None:
    """Show the store's revision. Exit 0: up to date, 3: not reachable, 4: outdated."""
    from gpuscout.store.upgrade import store_status

    found = store_status(db)
    if json:
        print_json({"store": found.url, "revision": found.current, "head": found.head, "up_to_date": found.up_to_date})
    else:
        print(f"{found.url}: {found.summary}")
    if not found.up_to_date:
        raise typer.Exit(4)


@db_commands.command("upgrade", epilog="Example: gpuscout db upgrade --db sqlite:///gpuscout.db")
def upgrade(db: Db = DEFAULT_STORE) -> None:
    """Bring a store to this version's schema; a SQLite file is backed up first."""
    from gpuscout.store.upgrade import upgrade_store

    done = upgrade_store(db)
    print(done.summary)
