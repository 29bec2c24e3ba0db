"""Bringing a database file to the newest schema, all at once or not at all.

Owns the call into Alembic and the look at which schema a file has. An upgrade is one immediate transaction over every
step, so a crash between two statements leaves the old schema. Synchronous: callers run it in a thread.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from service.errors import ServiceError
from service.storage.errors import unavailable_on_error
from service.storage.tables import HEAD

BUSY_TIMEOUT_S = 5.0
MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(path: Path, to: str = "head") -> str:
    """Create the database or upgrade it; returns its schema. Raises ServiceError for a newer schema than ours.

    Creates the file readable by its owner only. An upgrade waits up to 5 s for other writers.
    """
    path.touch(mode=0o600, exist_ok=True)
    engine = _engine(path)
    try:
        with unavailable_on_error(), engine.begin() as connection:
            check_known(schema_of(connection))
            _upgrade(connection, to)
            found = schema_of(connection)
    finally:
        engine.dispose()
    assert found is not None
    return found


def schema_of(connection: Connection) -> str | None:
    """Which schema the database has; None where it has none."""
    known = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first()
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first() if known else None
    return None if row is None else str(row[0])


def check_known(schema: str | None) -> None:
    """Raise ServiceError UNAVAILABLE where a newer Firstlight has written this database."""
    if schema is not None and not (schema.isdigit() and int(schema) <= int(HEAD)):
        raise ServiceError(
            "UNAVAILABLE",
            f"the database has schema {schema}, newer than this version of Firstlight knows ({HEAD})",
            cause="schema_newer",
        )


def check_current(schema: str | None) -> None:
    """Raise ServiceError UNAVAILABLE unless the database has exactly the schema that this code is written for."""
    check_known(schema)
    if schema is None:
        raise ServiceError(
            "UNAVAILABLE", "there is no Firstlight database here; `firstlight init` makes one", cause="schema_missing"
        )
    if schema != HEAD:
        raise ServiceError(
            "UNAVAILABLE",
            f"the database has the older schema {schema}; stop the service and start it anew to upgrade it to {HEAD}",
            cause="schema_older",
        )


def _engine(path: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")  # not possible within a transaction
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _upgrade(connection: Connection, to: str) -> None:
    # Alembic takes 0.2 s to import: only those who upgrade pay for it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, to)
