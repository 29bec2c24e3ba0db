"""Alembic's door: runs the steps on the connection that storage/schema.py hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from service.storage.every_table import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's DDL is transactional; the transaction is the caller's
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
