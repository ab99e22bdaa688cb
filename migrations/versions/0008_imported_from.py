"""Answers and measured runs that came from an export say from which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("tasks", "measured_runs"):
        op.add_column(table, sa.Column("imported_from", sa.Text(), nullable=True))
