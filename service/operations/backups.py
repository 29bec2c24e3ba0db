"""A copy of a running database, and putting one back.

Owns the backup directory: `firstlight.db` (one consistent snapshot) and `manifest.json` (schema, SHA-256, the images
that the versions need). Keys, CA and image bytes are not in it: whoever holds only a backup can open no secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from service.errors import ServiceError
from service.images.files import ImageFiles
from service.operations.requests import bad_request, conflict
from service.operations.sealed import check_openable
from service.storage.database import Database
from service.storage.errors import unavailable, unavailable_on_error
from service.storage.schema import check_known
from service.storage.tables import HEAD

DATABASE_NAME = "firstlight.db"
MANIFEST_NAME = "manifest.json"
FORMAT = "firstlight backup 1"


@dataclass(frozen=True, slots=True)
class ImageNeeded:
    image_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    made_at: str  # ISO 8601
    schema: str
    size: int  # bytes of the database
    sha256: str
    images: list[ImageNeeded]


@dataclass(frozen=True, slots=True)
class Restored:
    manifest: Manifest
    missing_images: list[str]  # named by a version, but not in the images folder


async def backup(database: Database, directory: Path, *, now: datetime) -> Manifest:
    """Copy the database while it is in use; `directory` must be new or empty. Writers are not held up.

    The manifest is written last: a directory without one is no backup. Raises ServiceError CONFLICT, UNAVAILABLE.
    """
    target = directory / DATABASE_NAME
    try:
        await asyncio.to_thread(_prepare, directory)
        async with database.read() as connection:
            # VACUUM runs outside of a transaction; its snapshot is its own.
            raw = await connection.get_raw_connection()
            cursor = await raw.driver_connection.execute("VACUUM INTO ?", (str(target),))  # type: ignore[union-attr]
            await cursor.close()
        return await asyncio.to_thread(_finish, directory, target, now)
    except OSError as error:
        raise ServiceError(
            "UNAVAILABLE", f"cannot write the backup: {error.strerror}", cause="backup_unwritable", detail=str(error)
        ) from error


def restore(
    directory: Path,
    database_path: Path,
    images: ImageFiles,
    *,
    replace: bool = False,
    kids: Collection[str] | None = None,
) -> Restored:
    """Put a backup in the place of a database that nobody has open.

    1. The backup is whole: its hash, SQLite's integrity check, a schema that we know; its secrets are sealed under keys
    of `kids`, the ids of those at hand (None: not asked). 2. The place is free, or
    `replace` is said and no process has the database open; what was there is kept as `*.before-restore`. 3. Copy,
    flush, rename. Synchronous. Raises ServiceError BAD_REQUEST, CONFLICT, UNAVAILABLE.
    """
    source = directory / DATABASE_NAME
    try:
        manifest = _read_manifest(directory)
        _check_whole(source, manifest)
        if kids is not None:
            check_openable(source, kids, immutable=True)
        if database_path.exists():
            if not replace:
                raise conflict("database_exists", f"there is a database at {database_path}")
            take_over(database_path)
            database_path.replace(database_path.with_name(database_path.name + ".before-restore"))
        _put_in_place(source, database_path)
    except OSError as error:
        raise ServiceError(
            "UNAVAILABLE", f"cannot restore: {error.strerror}", cause="backup_unwritable", detail=str(error)
        ) from error
    stored = set(images.stored())
    return Restored(manifest, [one.image_id for one in manifest.images if one.image_id not in stored])


def _put_in_place(source: Path, database_path: Path) -> None:
    """At no moment is half a database at this path, nor a log of the one before beside it."""
    database_path.parent.mkdir(parents=True, exist_ok=True)
    incoming = database_path.with_name(database_path.name + ".restoring")
    shutil.copyfile(source, incoming)
    incoming.chmod(0o600)
    _flush(incoming)
    for leftover in ("-wal", "-shm"):
        database_path.with_name(database_path.name + leftover).unlink(missing_ok=True)
    incoming.replace(database_path)
    _flush(database_path.parent)


def take_over(database_path: Path) -> None:
    """Raise ServiceError CONFLICT when any process has the database open; folds its log into the file."""
    with unavailable_on_error(), closing(sqlite3.connect(database_path, timeout=0, isolation_level=None)) as connection:
        try:
            # Leaving WAL takes a lock that every open connection withholds.
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            raise conflict("database_live", "the database is in use; stop the service first") from error


def _prepare(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(directory.iterdir()):
        raise conflict("backup_exists", f"{directory} is not empty")


def _finish(directory: Path, target: Path, now: datetime) -> Manifest:
    target.chmod(0o600)
    _flush(target)
    with closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as connection:
        images = connection.execute("SELECT image_id, size FROM image ORDER BY image_id").fetchall()
    made = Manifest(
        made_at=now.isoformat(),
        schema=HEAD,
        size=target.stat().st_size,
        sha256=_sha256(target),
        images=[ImageNeeded(*row) for row in images],
    )
    incoming = directory / (MANIFEST_NAME + ".new")
    incoming.write_text(json.dumps({"format": FORMAT, **asdict(made)}, indent=2), "utf-8")
    _flush(incoming)
    incoming.replace(directory / MANIFEST_NAME)
    _flush(directory)
    return made


def _read_manifest(directory: Path) -> Manifest:
    try:
        data: dict[str, Any] = json.loads((directory / MANIFEST_NAME).read_text("utf-8"))
        if data.pop("format") == FORMAT:
            data["images"] = [ImageNeeded(**one) for one in data["images"]]
            return Manifest(**data)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise bad_request("backup_unreadable", f"{directory} holds no backup") from error
    raise bad_request("backup_unreadable", f"{directory} holds a backup of another format")


def _check_whole(source: Path, manifest: Manifest) -> None:
    if not source.is_file() or _sha256(source) != manifest.sha256:
        raise bad_request("backup_damaged", "the backup's database is not what the manifest says")
    with unavailable_on_error(), closing(sqlite3.connect(f"file:{source}?mode=ro&immutable=1", uri=True)) as connection:
        first = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if first != "ok":
            raise unavailable("storage_corrupt", str(first))
        check_known(str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
