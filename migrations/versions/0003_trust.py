"""Trust in points: regimes, intervals, errors of engines; more of measured runs; indexes of filters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("operating_points", sa.Column("regime", sa.SmallInteger(), nullable=True))
    op.add_column("measured_runs", sa.Column("details", sa.Text(), nullable=True))
    op.create_table(
        "intervals",
        sa.Column("engine_id", _ID, nullable=False),
        sa.Column("regime", sa.SmallInteger(), nullable=False),
        sa.Column("metric", sa.String(24), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("engine_id", "regime", "metric", name="pk_intervals"),
        sa.ForeignKeyConstraint(["engine_id"], ["engines.id"], name="fk_intervals_engine_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "errors_seen",
        sa.Column("engine_id", _ID, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("gpu_family", sa.Text(), nullable=False),
        sa.Column("model_kind", sa.String(24), nullable=False),
        sa.Column("concurrency_from", sa.Integer(), nullable=False),
        sa.Column("concurrency_to", sa.Integer(), nullable=True),
        sa.Column("metric", sa.String(24), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("models", sa.Integer(), nullable=False),
        sa.Column("median_error", sa.Double(), nullable=False),
        sa.Column("p90_error", sa.Double(), nullable=False),
        sa.Column("bias", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "engine_id", "source", "gpu_family", "model_kind", "concurrency_from", "metric", name="pk_errors_seen"
        ),
        sa.ForeignKeyConstraint(["engine_id"], ["engines.id"], name="fk_errors_seen_engine_id"),
        sa.CheckConstraint("model_kind IN ('dense', 'moe')", name=op.f("ck_errors_seen_model_kind")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_cases_gpu_id", "cases", ["gpu_id"])
    op.create_index("ix_tasks_engine_id", "tasks", ["engine_id"])
