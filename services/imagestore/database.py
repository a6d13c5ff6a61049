"""Connections to MySQL or SQLite, the version of the schema, and transactions that are repeated after a deadlock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from services.common.settings import existing_folder
from services.imagestore.settings import ImageStoreSettings

log = structlog.get_logger()
Result = TypeVar("Result")

MIGRATIONS = Path(__file__).parent / "migrations"
DEADLOCK_CODES = frozenset({1213, 1205})  # deadlock found, lock wait timeout
DISK_FULL_CODES = frozenset({1021, 1114})  # disk full, table full
ATTEMPTS = 10
MAX_PAUSE_SECONDS = 0.5
# Bytes of a packet that are reserved for the statement around an image's bytes.
STATEMENT_BYTES = 64 * 1024
_READING = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}


def database_url(database: str) -> URL:
    """The URL of a MySQL server, with PyMySQL as driver, or of an SQLite file, if `database` is a path."""
    if "://" not in database:
        path = Path(database).expanduser()
        existing_folder(path.parent)
        return URL.create("sqlite", database=str(path))
    try:
        url = make_url(database)
    except (ArgumentError, ValueError):  # some of these have a part of the address in them, and so of the password
        raise ValueError(
            "the database's address must have the form mysql://user:password@host:3306/database; "
            "in the password, write @ as %40, / as %2F and : as %3A"
        ) from None
    if url.get_backend_name() not in ("mysql", "mariadb"):
        raise ValueError(f"the database must be a path or mysql://..., not {url.get_backend_name()}://...")
    return url.set(drivername="mysql+pymysql").update_query_dict({"charset": "utf8mb4"})


class Database:
    """Connections for reading and for writing, each in a bounded pool, and the limits of the connected server.

    There are two pools because a connection that changes its mode costs four more statements per request.
    """

    def __init__(self, settings: ImageStoreSettings) -> None:
        url = database_url(settings.database.get_secret_value())
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._reading, self._writing = (
            _sqlite(url, writing) if self.is_sqlite else _mysql(url, settings, writing) for writing in (False, True)
        )
        with self._writing.connect() as connection:
            self._max_packet_bytes = None if self.is_sqlite else _max_packet_bytes(connection)
            self.version = _version(connection)
            self._migrate(connection)
        self.kind = "sqlite" if self.is_sqlite else "mariadb" if "MariaDB" in self.version else "mysql"

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` without a transaction. An open transaction would block later changes of the tables."""
        with self._reading.connect() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in one transaction. It is repeated if the database rolls it back because of a deadlock."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._writing.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                code = error.orig.args[0] if error.orig is not None and error.orig.args else None
                if code not in DEADLOCK_CODES or attempt == ATTEMPTS:
                    raise
                log.info("deadlock", attempt=attempt)
                time.sleep(random.uniform(0, min(0.01 * 2**attempt, MAX_PAUSE_SECONDS)))
        raise AssertionError("unreachable")

    def packet_excess(self, data: bytes) -> int | None:
        """The server's max_allowed_packet if `data` does not fit in it, else None.

        The server would close the connection in the middle of a larger statement, so such data is never sent.
        """
        limit = self._max_packet_bytes
        # PyMySQL writes bytes as hexadecimal digits (pymysql/converters.py, escape_bytes).
        return limit if limit is not None and 2 * len(data) + STATEMENT_BYTES > limit else None

    def close(self) -> None:
        self._reading.dispose()
        self._writing.dispose()

    def _migrate(self, connection: Connection) -> None:
        """Migrate the schema to this version. Replicas that start at the same time wait for each other."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        if self.is_sqlite:
            command.upgrade(config, "head")
            connection.commit()
            return
        if not connection.execute(text("SELECT GET_LOCK('wentu_migration', 60)")).scalar():
            raise OperationalError("GET_LOCK", None, Exception("another replica migrates for over 60 s"))
        try:
            command.upgrade(config, "head")
            connection.commit()
        finally:
            connection.execute(text("SELECT RELEASE_LOCK('wentu_migration')"))


def problem(error: Exception) -> str:
    """The cause of a failed statement, in words for people."""
    original = getattr(error, "orig", None)
    code = original.args[0] if original is not None and original.args else None
    if code in DISK_FULL_CODES or "disk is full" in str(original):
        return "its disk is full"
    return "it does not answer or refused the request"


def _sqlite(url: URL, writing: bool) -> Engine:
    options: dict[str, Any] = {} if writing else _READING
    engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False}, **options)

    @event.listens_for(engine, "connect")
    def _prepare(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # transactions begin below, not by themselves
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):  # FULL: an acknowledged image survives a power failure
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    if writing:

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _mysql(url: URL, settings: ImageStoreSettings, writing: bool) -> Engine:
    seconds = max(1, round(settings.timeout_seconds))
    options: dict[str, Any] = {"isolation_level": "READ COMMITTED"} if writing else _READING
    return create_engine(
        url,
        **options,
        pool_size=settings.threads,
        max_overflow=0,
        pool_timeout=settings.timeout_seconds,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={"connect_timeout": min(10, seconds), "read_timeout": seconds, "write_timeout": seconds},
    )


def _max_packet_bytes(connection: Connection) -> int:
    return int(connection.execute(text("SELECT @@max_allowed_packet")).scalar_one())


def _version(connection: Connection) -> str:
    statement = "SELECT sqlite_version()" if connection.dialect.name == "sqlite" else "SELECT VERSION()"
    return str(connection.execute(text(statement)).scalar_one())
