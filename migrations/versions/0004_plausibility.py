"""Measured runs: what is implausible of them, and how many requests succeeded and failed."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COUNTS = {"requests_completed": "completed", "requests_failed": "failed"}


def upgrade() -> None:
    op.add_column("measured_runs", sa.Column("implausible", sa.Text(), nullable=True))
    for column in _COUNTS:
        op.add_column("measured_runs", sa.Column(column, sa.Integer(), nullable=True))
    _fill_counts()


def _fill_counts() -> None:
    """Fill in the counts that runs imported before have among their details."""
    runs = sa.table("measured_runs", sa.column("id"), sa.column("details"), *(sa.column(name) for name in _COUNTS))
    connection = op.get_bind()
    for row in connection.execute(sa.select(runs.c.id, runs.c.details).where(runs.c.details.is_not(None))).all():
        details = json.loads(row.details)
        counts = {column: details.get(key) for column, key in _COUNTS.items() if isinstance(details.get(key), int)}
        if counts:
            connection.execute(sa.update(runs).where(runs.c.id == row.id).values(counts))
