"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes every table."""
    schedules()
    runs()
    versions()
    keys()
    monitoring()


def schedules() -> None:
    """What is to run, and when."""
    op.create_table(
        "schedule",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("experiment", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("trigger", sa.Text, nullable=False),
        sa.Column("cron", sa.Text),
        sa.Column("tz", sa.Text),
        sa.Column("every_s", sa.BigInteger),
        sa.Column("jitter_s", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("catch_up_s", sa.BigInteger, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("anchor_ms", sa.BigInteger, nullable=False),
        sa.Column("last_due_ms", sa.BigInteger),
        sa.Column("missed", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("skipped", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("rev", sa.BigInteger, nullable=False, server_default="0"),
        sa.CheckConstraint("trigger IN ('cron', 'interval', 'drift')", name="schedule_trigger"),
    )


def runs() -> None:
    """The ledger: one row a due time, and what each run had to say."""
    op.create_table(
        "run",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("schedule", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("experiment", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="pending"),
        sa.Column("attempt", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("submitted", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("submitted_ms", sa.BigInteger),
        sa.Column("lease_until_ms", sa.BigInteger),
        sa.Column("heartbeat_ms", sa.BigInteger),
        sa.Column("input_sha256", sa.Text),
        sa.Column("input_columns", sa.Text),
        sa.Column("result_version", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("started_ms", sa.BigInteger),
        sa.Column("finished_ms", sa.BigInteger),
        sa.UniqueConstraint("schedule", "due_ms", name="run_due"),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'succeeded', 'failed', 'dead', 'skipped')",
            name="run_state",
        ),
    )
    op.create_index(
        "run_no_overlap",
        "run",
        ["schedule"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "run_event",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.CheckConstraint("kind IN ('state', 'progress', 'log')", name="run_event_kind"),
    )


def versions() -> None:
    """Champions, immutable versions and the audit."""
    op.create_table(
        "champion",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("alias", sa.Text, primary_key=True, server_default="champion"),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("previous", sa.Text),
        sa.Column("rev", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.true()),
    )
    op.create_table(
        "model_version",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, unique=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("removed_ms", sa.BigInteger),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("previous_hash", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )


def keys() -> None:
    """Who may ask the service."""
    op.create_table(
        "access_key",
        sa.Column("prefix", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.CheckConstraint("role IN ('reader', 'forecaster', 'operator')", name="access_key_role"),
    )


def monitoring() -> None:
    """What happened after the forecasts."""
    op.create_table(
        "actual",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("unique_id", sa.Text, primary_key=True),
        sa.Column("ds_us", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("y", sa.Double, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("actual_newest", "actual", ["model", "ds_us"])
    op.create_table(
        "forecast_record",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("unique_id", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("cutoff_us", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("first_us", sa.BigInteger, nullable=False),
        sa.Column("last_us", sa.BigInteger, nullable=False),
        sa.Column("ds", sa.LargeBinary, nullable=False),
        sa.Column("point", sa.LargeBinary, nullable=False),
        sa.Column("quantiles", sa.LargeBinary, nullable=False),
        sa.Column("levels", sa.Text, nullable=False),
        sa.Column("scale", sa.Double),
        sa.Column("fallback", sa.Text),
        sa.Column("recorded_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("forecast_record_last", "forecast_record", ["model", "last_us"])
    op.create_table(
        "drift_alarm",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("since_ms", sa.BigInteger),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("measured_ms", sa.BigInteger, nullable=False),
    )
