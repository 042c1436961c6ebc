"""The tables of the store: schedules, runs, champions, versions, audit, keys, actuals.

What MLflow's tables cannot promise (compare-and-set, one row a due time, an append-only audit)
stands here. Times are milliseconds since 1970 UTC by the clock of the database. A change is also
a revision in pipelines/migrations/versions.
"""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA = "0006"  # the newest revision in pipelines/migrations/versions

METADATA = sa.MetaData()

SCHEDULE = sa.Table(
    "schedule",
    METADATA,
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
    sa.Column("job", sa.Text),  # JSON: the type and the spec of a job in place of an experiment
    sa.Column("owner", sa.Text),  # the prefix of the key that ordered it
    sa.Column("gate", sa.Text),  # JSON, as it was asked for
    sa.Column("promotes", sa.Boolean, nullable=False, server_default=sa.true()),  # what passes it
    sa.CheckConstraint("trigger IN ('cron', 'interval', 'drift')", name="schedule_trigger"),
)

RUN = sa.Table(
    "run",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("schedule", sa.Text),  # NULL for a run that no schedule asked for
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
        "state IN ('pending', 'running', 'succeeded', 'failed', 'dead', 'skipped', 'cancelled')",
        name="run_state",
    ),
    sa.Index(
        "run_no_overlap",
        "schedule",
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    ),
)

RUN_EVENT = sa.Table(
    "run_event",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.CheckConstraint("kind IN ('state', 'progress', 'log')", name="run_event_kind"),
)

# What a client of the service asked for: a run of no schedule. `owner` is the prefix of its key,
# `spec` zlib of JSON, `problem` what it failed by, as the client is told.
JOB = sa.Table(
    "job",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("problem", sa.Text),
    sa.Index("job_tenant", "tenant", "owner"),
)

CHAMPION = sa.Table(
    "champion",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True, server_default="champion"),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("previous", sa.Text),
    sa.Column("rev", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.true()),  # in MLflow too
)

MODEL_VERSION = sa.Table(
    "model_version",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, unique=True),  # a run yields at most one version
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("removed_ms", sa.BigInteger),  # by a clean-up; the row keeps its run from publishing
)

AUDIT = sa.Table(
    "audit",
    METADATA,
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

ACCESS_KEY = sa.Table(
    "access_key",
    METADATA,
    sa.Column("prefix", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_ms", sa.BigInteger),  # the row stays: a service with keys never opens again
    sa.CheckConstraint("role IN ('reader', 'forecaster', 'operator')", name="access_key_role"),
)

ACTUAL = sa.Table(
    "actual",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("unique_id", sa.Text, primary_key=True),
    sa.Column("ds_us", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("y", sa.Double, nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text),  # of stamp (recording.kind_of); NULL in rows from before 0006
    sa.Index("actual_newest", "model", "ds_us"),
)

# One row a forecast of one series: what later actuals are matched with. `ds` are int64, `point`
# and `quantiles` `[step, level]` are float64, little-endian; `levels` is JSON.
FORECAST_RECORD = sa.Table(
    "forecast_record",
    METADATA,
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
    sa.Column("scale", sa.Double),  # that of MASE; NULL where the season is not known or flat
    sa.Column("fallback", sa.Text),
    sa.Column("recorded_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text),  # as that of an actual
    sa.Index("forecast_record_last", "model", "last_us"),
)

DRIFT_ALARM = sa.Table(
    "drift_alarm",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("since_ms", sa.BigInteger),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("measured_ms", sa.BigInteger, nullable=False),
)

# A request that creates something, and what it was answered; `status` is NULL while it runs.
REPEAT = sa.Table(
    "repeat",
    METADATA,
    sa.Column("caller", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("body_sha256", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("held_until_ms", sa.BigInteger, nullable=False),
    sa.Column("status", sa.BigInteger),
    sa.Column("headers", sa.Text),
    sa.Column("body", sa.LargeBinary),
    sa.Index("repeat_created", "created_ms"),
)

# A version of a table that a tenant has stored; its files are in the home (pipelines.datasets).
DATASET = sa.Table(
    "dataset",
    METADATA,
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
