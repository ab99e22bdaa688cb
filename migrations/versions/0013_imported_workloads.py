"""Names of workloads that came with an export."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    id_type = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "imported_workloads",
        sa.Column("id", id_type, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("input_len", sa.BigInteger(), nullable=False),
        sa.Column("output_len", sa.BigInteger(), nullable=False),
        sa.Column("traffic_id", id_type, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_imported_workloads"),
    )
