"""Alembic's entry point. Runs the migrations on the connection that database.py passes."""

from __future__ import annotations

from alembic import context

from services.imagestore.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table="wentu_schema_version"
)
with context.begin_transaction():
    context.run_migrations()
