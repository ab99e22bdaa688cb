"""Cases whose requests vary or arrive at a rate, and the percentiles of estimates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "traffics",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_traffics"),
        sa.UniqueConstraint("shape", name="uq_traffics_shape"),
    )
    for table in ("cases", "sweep_workloads"):
        op.add_column(table, sa.Column("traffic_id", _BIG, nullable=True))
        op.add_column(table, sa.Column("request_rate", sa.Double(), nullable=True))
    op.create_table(
        "point_percentiles",
        sa.Column("task_id", _BIG, nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(24), nullable=False),
        sa.Column("percentile", sa.Double(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "concurrency", "metric", "percentile", name="pk_point_percentiles"),
        sqlite_with_rowid=False,
    )
