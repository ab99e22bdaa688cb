"""Precision, link and tensor parallelism of the runs behind the errors of an engine."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # A few dozen rows with another primary key: written anew, which both databases can.
    connection = op.get_bind()
    rows = [dict(row) for row in connection.execute(sa.text("SELECT * FROM errors_seen")).mappings()]
    op.drop_table("errors_seen")
    table = op.create_table(
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
        sa.Column("precision", sa.String(24), nullable=False),
        sa.Column("link", sa.String(24), nullable=False),
        sa.Column("tp_from", sa.Integer(), nullable=False),
        sa.Column("tp_to", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint(
            "engine_id",
            "source",
            "gpu_family",
            "model_kind",
            "precision",
            "link",
            "concurrency_from",
            "metric",
            name="pk_errors_seen",
        ),
        sa.ForeignKeyConstraint(["engine_id"], ["engines.id"], name="fk_errors_seen_engine_id"),
        sa.CheckConstraint("model_kind IN ('dense', 'moe')", name=op.f("ck_errors_seen_model_kind")),
        sqlite_with_rowid=False,
    )
    if rows:
        op.bulk_insert(table, [{**row, "precision": "any", "link": "any", "tp_from": 1, "tp_to": None} for row in rows])
