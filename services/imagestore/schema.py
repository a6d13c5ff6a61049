"""The tables. Ids are bytes: compared and sorted byte by byte on every database, without a collation's surprises.

The migrations in migrations/versions create them; this module is what queries are built from.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table, Text
from sqlalchemy.dialects import mysql

from services.common.limits import MAX_COLLECTION_CHARS, MAX_IMAGE_ID_BYTES, MAX_MEDIA_TYPE_CHARS

metadata = MetaData()
# Of a creation: `collection` in the tables of images is its id too.

COLLECTION = String(MAX_COLLECTION_CHARS).with_variant(
    mysql.VARCHAR(MAX_COLLECTION_CHARS, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
)
IMAGE_ID = LargeBinary(MAX_IMAGE_ID_BYTES).with_variant(mysql.VARBINARY(MAX_IMAGE_ID_BYTES), "mysql", "mariadb")
SHA256 = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
JSON_TEXT = Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
BYTES = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

# A creation of a collection: one that is deleted and created again is another.
creations = Table(
    "creations",
    metadata,
    Column("creation_id", COLLECTION, primary_key=True),
    Column("collection", COLLECTION, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("register_time_ms", BigInteger, nullable=False),
    Index("creations_by_collection", "collection"),
)

# An image: the caller's id, and which content it has.
images = Table(
    "images",
    metadata,
    Column("collection", COLLECTION, primary_key=True),
    Column("image_id", IMAGE_ID, primary_key=True),
    Column("sha256", SHA256, nullable=False),
    Column("media_type", String(MAX_MEDIA_TYPE_CHARS), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("create_time_ms", BigInteger, nullable=False),
    # An object of JSON; null where nobody said. Text: a database's own JSON type may change numbers.
    Column("attributes", JSON_TEXT),
    # Changes with every write; 0 if a version wrote it that had none.
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Index("images_by_content", "collection", "sha256"),
)

# A content: the same bytes are stored once a collection, whatever number of images have them.
contents = Table(
    "contents",
    metadata,
    Column("collection", COLLECTION, primary_key=True),
    Column("sha256", SHA256, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("data", BYTES, nullable=False),
)

# A content's thumbnail, made when it is first asked for. `data` is empty where none can be made.
thumbnails = Table(
    "thumbnails",
    metadata,
    Column("collection", COLLECTION, primary_key=True),
    Column("sha256", SHA256, primary_key=True),
    Column("data", BYTES, nullable=False),
)
