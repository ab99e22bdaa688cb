"""Alembic's environment: runs revisions on the connection that `gpuscout.store.database.upgrade` hands over.

The caller owns the connection, the lock and the transaction, so that a migration either happens entirely or not at
all. There is no alembic.ini: a URL in a file would be a second place that says where the store is.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from gpuscout.store.schema import REVISION_TABLE, metadata

connection = context.config.attributes.get("connection")
if not isinstance(connection, Connection):
    raise RuntimeError("no connection in config.attributes: run migrations through gpuscout.store.database.upgrade")

context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=REVISION_TABLE,
    # SQLite alters a table by copying it.
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
