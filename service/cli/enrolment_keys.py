"""`firstlight enrolment key`: our own key for exchanged files, and the one that follows it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from cryptography.hazmat.primitives.serialization import Encoding

from service.cli import context
from service.credentials import keyholder
from service.credentials.cms import CmsError
from service.operations import audits
from service.operations.enrolment import pending
from service.storage.database import Database

app = typer.Typer(help="Our own key for exchanged files.", no_args_is_help=True)
T = TypeVar("T")
NAME = "firstlight"
SHOWN = 5  # files that a refusal names


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """The key in use, the next one, and those of before that files are still read with."""
    folder = _folder()

    async def action() -> list[keyholder.Pair]:
        return _refusing(lambda: keyholder.pairs(folder))

    found = [
        {"key": one.key_id, "place": one.place, "until": one.certificate.not_valid_after_utc}
        for one in context.guarded(action)
    ]
    rows = [[str(one["key"]), str(one["place"]), f"{one['until']:%Y-%m-%d}"] for one in found]
    context.emit(found, as_json=as_json, text=lambda: context.table("Keys", ["key", "place", "until"], rows))


@app.command("next")
def next_(as_json: context.JsonOption = False) -> None:
    """The certificate of the key that comes next, in PEM; the first time, it is made. Files for it can be read at once."""
    folder = _folder()
    made = _changed(lambda: keyholder.make_next(folder, NAME, datetime.now(UTC)), "next")
    pem = made.certificate.public_bytes(Encoding.PEM).decode("ascii")
    context.emit({"certificate": pem}, as_json=as_json, text=lambda: print(pem, end=""))


@app.command()
def rotate(as_json: context.JsonOption = False) -> None:
    """Sign with the next key from now on; the one before reads what is encrypted to it, until it is retired."""
    folder = _folder()
    after, before = _changed(lambda: keyholder.rotate(folder, NAME, datetime.now(UTC)), "rotated")
    said = f"key {after} is in use, {before} reads until `firstlight enrolment key retire {before}`; back up own.*"
    context.emit({"key": after, "before": before}, as_json=as_json, text=lambda: print(said))


@app.command()
def retire(
    key: Annotated[str, typer.Argument(help="As `list` shows it.")],
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Also where files that lie there need it: they will fail.")
    ] = False,
    as_json: context.JsonOption = False,
) -> None:
    """Delete a key of before: what is encrypted to it, or signed with it and still on its way, fails from now on.

    Refused while such files lie in inbox, outbox or work; what is on its way elsewhere nobody sees here.
    """
    folder = _folder()
    if not at_once:
        _check_unneeded(folder, key)
    _changed(lambda: keyholder.retire(folder, key), "retired")
    context.emit({"retired": key}, as_json=as_json, text=lambda: print(f"key {key} is retired"))


def _check_unneeded(folder: Path, key: str) -> None:
    async def look() -> list[str]:
        known = {one.key_id: one.certificate for one in _refusing(lambda: keyholder.pairs(folder))}
        if key not in known:
            return []  # `retire` says so
        return pending.needing(folder, known.pop(key), known.values())

    files = context.guarded(look)
    if files:
        more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        context.fail(
            f"{len(files)} files need key {key}: {', '.join(files[:SHOWN])}{more}; "
            "have the daemons take them first, or say --at-once and let them fail"
        )


def _folder() -> Path:
    return context.settings().data_dir / "enrolment"


def _changed(action: Callable[[], T], what: str) -> T:
    """Work on the files, and say so in the audit."""
    folder = _folder()

    async def inside(database: Database) -> T:
        done = _refusing(action)
        keys = {one.place: one.key_id for one in keyholder.pairs(folder) if one.place != "earlier"}
        await audits.note(database, {"file": "enrolment/own.key"}, after={"what": what, **keys})
        return done

    return context.run(inside)


def _refusing(action: Callable[[], T]) -> T:
    try:
        return action()
    except CmsError as error:
        raise context.CommandError(str(error)) from error
