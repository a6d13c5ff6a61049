"""The tables. Ids are bytes, so that every database compares and sorts them byte by byte, without a collation.

The migrations in migrations/versions create the tables. Queries are built from this module.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table, Text
from sqlalchemy.dialects import mysql

from services.common.limits import MAX_COLLECTION_CHARS, MAX_IMAGE_ID_BYTES, MAX_MEDIA_TYPE_CHARS

metadata = MetaData()
# The id of a creation. The column `collection` in the tables of images holds it too.

COLLECTION = String(MAX_COLLECTION_CHARS).with_variant(
    mysql.VARCHAR(MAX_COLLECTION_CHARS, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
)
IMAGE_ID = LargeBinary(MAX_IMAGE_ID_BYTES).with_variant(mysql.VARBINARY(MAX_IMAGE_ID_BYTES), "mysql", "mariadb")
SHA256 = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
JSON_TEXT = Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
BYTES = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

# A creation of a collection. A collection that is deleted and created again has a new creation.
creations = Table(
    "creations",
    metadata,
    Column("creation_id", COLLECTION, primary_key=True),
    Column("collection", COLLECTION, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("register_time_ms", BigInteger, nullable=False),
    Index("creations_by_collection", "collection"),
)

# An image: the caller's id, and the checksum of its content.
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
    # A JSON object, or null if no attributes were given. Stored as text: JSON types of databases may change numbers.
    Column("attributes", JSON_TEXT),
    # Changes with every write. 0 if an older version without revisions wrote the image.
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Index("images_by_content", "collection", "sha256"),
)

# A content: equal bytes are stored once per collection, even if many images have them.
contents = Table(
    "contents",
    metadata,
    Column("collection", COLLECTION, primary_key=True),
    Column("sha256", SHA256, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("data", BYTES, nullable=False),
)

# A content's thumbnail, made at the first request. `data` is empty if no thumbnail can be made.
thumbnails = Table(
    "thumbnails",
    metadata,
    Column("collection", COLLECTION, primary_key=True),
    Column("sha256", SHA256, primary_key=True),
    Column("data", BYTES, nullable=False),
)
