"""Schedules of jobs, which clients of the service ask for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Lets a schedule order a job in place of an experiment."""
    for name in ("job", "owner", "gate"):
        op.add_column("schedule", sa.Column(name, sa.Text))
