"""Images, their contents, and the contents' thumbnails."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

collection = sa.String(63).with_variant(mysql.VARCHAR(63, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
image_id = sa.LargeBinary(255).with_variant(mysql.VARBINARY(255), "mysql", "mariadb")
sha256 = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
data = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def upgrade() -> None:
    op.create_table(
        "images",
        sa.Column("collection", collection, primary_key=True),
        sa.Column("image_id", image_id, primary_key=True),
        sa.Column("sha256", sha256, nullable=False),
        sa.Column("media_type", sa.String(127), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("create_time_ms", sa.BigInteger, nullable=False),
        **OPTIONS,
    )
    op.create_index("images_by_content", "images", ["collection", "sha256"])
    op.create_table(
        "contents",
        sa.Column("collection", collection, primary_key=True),
        sa.Column("sha256", sha256, primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("data", data, nullable=False),
        **OPTIONS,
    )
    op.create_table(
        "thumbnails",
        sa.Column("collection", collection, primary_key=True),
        sa.Column("sha256", sha256, primary_key=True),
        sa.Column("data", data, nullable=False),
        **OPTIONS,
    )


def downgrade() -> None:
    for table in ("thumbnails", "contents", "images"):
        op.drop_table(table)
