"""Of which kind stamps are, so that only those of one kind are matched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Lets actuals and recorded forecasts say it; older rows are matched as before."""
    for table in ("actual", "forecast_record"):
        op.add_column(table, sa.Column("kind", sa.Text))
