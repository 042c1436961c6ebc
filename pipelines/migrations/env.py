"""Alembic's way into the schema: always on the connection that `Store` hands over."""

from __future__ import annotations

from alembic import context

from pipelines.store_tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
