"""What SQLite's errors mean to the service: try again later, and why.

Owns the table from SQLite result codes to causes; raises nothing else than ServiceError and passes on what it does
not know (a broken constraint is a mistake of ours, not a state of the disk). Source: sqlite.org/rescode.html.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from service.errors import ServiceError

RETRY_MIN_S, RETRY_MAX_S = 5, 15  # UNAVAILABLE is usually over in seconds; spread, so that devices do not come at once

READ_ONLY, BUSY = "storage_read_only", "storage_busy"
_CAUSES = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_FULL: "storage_full",
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_PERM: READ_ONLY,
    sqlite3.SQLITE_IOERR: "storage_io_error",
    sqlite3.SQLITE_CANTOPEN: "storage_gone",
    sqlite3.SQLITE_CORRUPT: "storage_corrupt",
    sqlite3.SQLITE_NOTADB: "storage_corrupt",
    sqlite3.SQLITE_NOMEM: "storage_io_error",
    sqlite3.SQLITE_INTERRUPT: BUSY,
    sqlite3.SQLITE_PROTOCOL: BUSY,
}
CAUSES = frozenset(_CAUSES.values())

_random = random.SystemRandom()


def cause_of(error: BaseException | None) -> str | None:
    """The cause that this error of the sqlite3 module stands for, or None where it is not the disk's state."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return _CAUSES.get(code & 0xFF)  # the low byte of an extended code is its family
    if isinstance(error, (sqlite3.OperationalError, ValueError)) and "closed" in str(error).lower():
        return "storage_gone"
    return None


@contextmanager
def unavailable_on_error() -> Iterator[None]:
    """Raise ServiceError UNAVAILABLE for a database that is locked, full, read-only, failing or gone."""
    try:
        yield
    except DBAPIError as error:
        original: BaseException | None = error.orig
        cause = cause_of(original)
        if cause is None:
            raise
        raise unavailable(cause, str(original)) from error
    except sqlite3.Error as error:
        cause = cause_of(error)
        if cause is None:
            raise
        raise unavailable(cause, str(error)) from error


def unavailable(cause: str, detail: str) -> ServiceError:
    return ServiceError(
        "UNAVAILABLE",
        "try again later",
        cause=cause,
        detail=detail,
        retry_after_s=_random.randint(RETRY_MIN_S, RETRY_MAX_S),
    )
