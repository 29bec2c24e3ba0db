"""`firstlight backup` and `firstlight restore`: a copy of the running database, and putting one back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context
from service.credentials.keyfile import KeyFile, KeyFileError
from service.errors import ServiceError
from service.images.files import ImageFiles
from service.operations import audits, backups
from service.storage.tables import HEAD


def backup(
    directory: Annotated[Path, typer.Argument(help="A new or empty directory.")],
    as_json: context.JsonOption = False,
) -> None:
    """Copy the database while the service runs.

    In the backup: the database and a list of the images that it needs. NOT in it: keys.json and ca/ (without them the
    secrets in the database cannot be opened: keep a copy of each in another safe place, made once and after each
    rotation), the bytes of the images (copy images/ with any tool, its files never change), the broker's files (they
    are rendered from the database) and firstlight.toml.
    """
    made = context.run(lambda database: backups.backup(database, directory, now=datetime.now(UTC)))
    said = f"{made.size} bytes, {len(made.images)} images listed; keys.json, ca/ and images/ are not in a backup"
    context.emit(made, as_json=as_json, text=lambda: print(said))


def restore(
    directory: Annotated[Path, typer.Argument(help="What `firstlight backup` has written.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of a database; that one is kept beside it.")
    ] = False,
    as_json: context.JsonOption = False,
) -> None:
    """Put a backup back. Refused while the service or another command has the database open."""
    of = context.settings()
    try:
        kids = KeyFile.load(of.key_file).seal_keys if of.key_file.exists() else None  # without it, serve says so
        images = ImageFiles(of.images_dir)
        restored = backups.restore(directory, of.database_path, images, replace=replace, kids=kids)
    except (ServiceError, KeyFileError) as error:
        context.fail(error.public if isinstance(error, ServiceError) else str(error))

    if kids is not None and restored.manifest.schema == HEAD:  # else it is upgraded first, by the service
        made_at = {"made_at": restored.manifest.made_at}
        context.run(lambda database: audits.note(database, {"backup": str(directory)}, after=made_at))

    def text() -> None:
        print(f"restored the database of {restored.manifest.made_at}")
        for one in restored.missing_images:
            print(f"missing image: {one}")

    context.emit(restored, as_json=as_json, text=text)
