"""Runs that a client of the service asked for, and that may be cancelled."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATES = "state IN ('pending', 'running', 'succeeded', 'failed', 'dead', 'skipped', 'cancelled')"


def upgrade() -> None:
    """Makes the table of jobs, and lets a run be cancelled."""
    op.create_table(
        "job",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("problem", sa.Text),
    )
    op.create_index("job_tenant", "job", ["tenant", "owner"])
    with op.batch_alter_table("run") as batch:
        batch.drop_constraint("run_state", type_="check")
        batch.create_check_constraint("run_state", STATES)
