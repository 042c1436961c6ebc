"""Of which kind stamps are, so that only those of one kind match; and what is not promoted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Lets actuals, recorded forecasts and schedules say it; older rows are as they were."""
    for table in ("actual", "forecast_record"):
        op.add_column(table, sa.Column("kind", sa.Text))
    promotes = sa.Column("promotes", sa.Boolean, nullable=False, server_default=sa.true())
    op.add_column("schedule", promotes)
