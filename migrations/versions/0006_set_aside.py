"""Measured runs: why one does not stand for its configuration: drafted, cached, disaggregated, low trust, older."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_REASONS = {"drafts_tokens": "drafted", "disaggregated": "disaggregated", "shared_prefixes": "prefix-cached"}


def upgrade() -> None:
    op.add_column("measured_runs", sa.Column("set_aside", sa.Text(), nullable=True))
    runs = sa.table("measured_runs", sa.column("id"), sa.column("details"), sa.column("set_aside"))
    connection = op.get_bind()
    for row in connection.execute(sa.select(runs.c.id, runs.c.details).where(runs.c.details.is_not(None))).all():
        details = json.loads(row.details)
        reasons = [reason for name, reason in _REASONS.items() if details.get(name)]
        reasons += ["low trust"] if details.get("trust") == "low" else []
        reasons += ["superseded"] if details.get("latest") is False else []
        if reasons:
            connection.execute(sa.update(runs).where(runs.c.id == row.id).values(set_aside=", ".join(reasons)))
