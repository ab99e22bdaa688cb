"""Measured runs: which task of a sweep measured one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("measured_runs", sa.Column("task_key", sa.LargeBinary(16), nullable=True))
    op.create_index(op.f("ix_measured_runs_task_key"), "measured_runs", ["task_key"])
