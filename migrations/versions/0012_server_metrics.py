"""Metrics of engines that simulate a server: waiting requests, KV cache held, preempted requests, goodput."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("requests_waiting", "kv_cache_usage", "preempted_share", "goodput_per_s"):
        op.add_column("operating_points", sa.Column(name, sa.Double(), nullable=True))
