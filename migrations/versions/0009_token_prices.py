"""Books of what APIs ask for tokens, beside those of prices of GPUs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "token_prices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("book", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("input_usd_per_mtok", sa.Double(), nullable=False),
        sa.Column("cached_input_usd_per_mtok", sa.Double(), nullable=True),
        sa.Column("output_usd_per_mtok", sa.Double(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("usd_rate", sa.Double(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_token_prices"),
        sa.UniqueConstraint("book", "provider", "model", "date", name="uq_token_prices_book_provider_model_date"),
        sa.CheckConstraint("input_usd_per_mtok >= 0", name=op.f("ck_token_prices_input_usd_per_mtok")),
        sa.CheckConstraint("output_usd_per_mtok > 0", name=op.f("ck_token_prices_output_usd_per_mtok")),
    )
