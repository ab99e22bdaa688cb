"""Price books of a team, in the store whose results they price."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("book", sa.Text(), nullable=False),
        sa.Column("gpu", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("usd_per_gpu_hour", sa.Double(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("purchase", sa.String(24), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("instance_type", sa.Text(), nullable=False),
        sa.Column("gpus_per_instance", sa.Integer(), nullable=True),
        sa.Column("date_kind", sa.String(24), nullable=False),
        sa.Column("exact", sa.Boolean(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("usd_rate", sa.Double(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prices"),
        sa.UniqueConstraint(
            "book",
            "gpu",
            "provider",
            "instance_type",
            "purchase",
            "region",
            "date",
            name="uq_prices_book_gpu_provider_instance_type_purchase_region_date",
        ),
        sa.CheckConstraint("usd_per_gpu_hour > 0", name=op.f("ck_prices_usd_per_gpu_hour")),
        sa.CheckConstraint("purchase IN ('on-demand', 'spot', 'reserved')", name=op.f("ck_prices_purchase")),
        sa.CheckConstraint("date_kind IN ('read', 'upper-bound')", name=op.f("ck_prices_date_kind")),
    )
