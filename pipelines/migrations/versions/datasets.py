"""Tables that tenants have stored, each version by the hash of its content."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table of datasets."""
    op.create_table(
        "dataset",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("id", sa.Text),
        sa.Column("time", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("freq", sa.Text, nullable=False),
        sa.Column("tz", sa.Text),
        sa.Column("columns", sa.Text, nullable=False),
        sa.Column("static_columns", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("series", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
