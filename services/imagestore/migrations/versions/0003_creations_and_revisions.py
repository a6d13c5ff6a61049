"""The creations of collections, and the images' revisions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"

collection = sa.String(63).with_variant(mysql.VARCHAR(63, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def upgrade() -> None:
    op.create_table(
        "creations",
        sa.Column("creation_id", collection, primary_key=True),
        sa.Column("collection", collection, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("register_time_ms", sa.BigInteger, nullable=False),
        **OPTIONS,
    )
    op.create_index("creations_by_collection", "creations", ["collection"])
    op.add_column("images", sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))
    # The creation id of an existing collection is the collection's id, so that its rows stay unchanged.
    op.execute("INSERT INTO creations SELECT DISTINCT collection, collection, 0, 0 FROM images")
