"""Runs alembic on a connection; imported only when a schema is upgraded, since alembic costs 0.6 s."""

from __future__ import annotations

import threading

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

SCRIPTS = "gpuscout:migrations"
# While it migrates, alembic keeps the connection in variables that all threads share.
_migrating = threading.Lock()


def alembic_config(connection: sa.Connection | None = None) -> Config:
    """Return Alembic's configuration without an ini file: the scripts are found in the installed package."""
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    config.attributes["connection"] = connection
    return config


def migrate_to_head(connection: sa.Connection) -> None:
    """Run all revisions that are missing, in the caller's transaction, which the caller has made exclusive."""
    with _migrating:
        command.upgrade(alembic_config(connection), "head")
