"""`firstlight keys`: the service's own keys."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context
from service.credentials.keyfile import KeyFile
from service.operations import key_exchange, rekeying

app = typer.Typer(help="The service's own keys.", no_args_is_help=True)


@app.command()
def rotate(as_json: context.JsonOption = False) -> None:
    """Seal every secret in the database under a new key, and make server nonces with a new one.

    A running service takes the new keys over. The old key leaves keys.json when nothing is sealed with it any more:
    at once where no service runs, else when this is run again at least ten minutes later. Cut short, it goes on when
    run again. Older backups need the keys.json of their time.
    """
    of = context.settings()
    done = context.guarded(lambda: rekeying.rotate(of.key_file, of.database_path))
    said = f"{done.resealed} secrets sealed under key {done.kid}; old keys removed: {', '.join(done.retired) or 'none'}"
    if done.kept:
        said += f"; still there: {', '.join(done.kept)}, run this again in ten minutes"
    context.emit(done, as_json=as_json, text=lambda: print(said))


@app.command("rotate-service")
def rotate_service(as_json: context.JsonOption = False) -> None:
    """Make the next service key and have devices of key kind public_key told.

    A running service takes it over. The present one goes on speaking. When the devices have heard (`keys public`), `keys use-service` ends its time.
    """
    of = context.settings()
    done = context.guarded(lambda: key_exchange.announce(of.key_file, of.database_path))
    context.emit(_service(done), as_json=as_json, text=lambda: _show(done))


@app.command("use-service")
def use_service(
    at_most: Annotated[
        int, typer.Option(help="How many devices in service may be left that do not know the new key; they are lost.")
    ] = 0,
    as_json: context.JsonOption = False,
) -> None:
    """Let the announced service key take the place of the present one, for good. A running service takes it over.

    Devices without a credential cannot be told and do not count: `keys public` says how many they are.
    """
    of = context.settings()
    done = context.guarded(lambda: key_exchange.use_next(of.key_file, of.database_path, at_most=at_most))
    context.emit(_service(done), as_json=as_json, text=lambda: _show(done))


@app.command("rotate-labels")
def rotate_labels(as_json: context.JsonOption = False) -> None:
    """Sign labels by a new key; those that are printed are good until they expire. A running service takes it over."""
    of = context.settings()
    done = context.guarded(lambda: key_exchange.rotate_labels(of.key_file, of.database_path))
    until = "" if done.until is None else f"; labels of {done.previous} older keys are good until {done.until}"
    context.emit(done, as_json=as_json, text=lambda: print(f"labels are signed by a new key from now on{until}"))


@app.command()
def public(as_json: context.JsonOption = False) -> None:
    """The service's public key: what devices of key kind public_key hold, to know the service by (Ed25519, base64).

    During an exchange also the next one, which new devices should hold too.
    """
    of = context.settings()
    keys = context.guarded(lambda: _load(of.key_file))
    if keys.service_next is None:
        shown = _b64(keys.service_public_key())
        context.emit({"service_public_key": shown}, as_json=as_json, text=lambda: print(shown))
        return
    found = context.guarded(lambda: key_exchange.status(keys, of.database_path))
    context.emit(_service(found), as_json=as_json, text=lambda: _show(found))


def _service(found: key_exchange.ServiceKeys) -> dict[str, object]:
    return {
        "service_public_key": _b64(found.current),
        "next": None if found.next is None else _b64(found.next),
        "untold": found.untold,
        "blocked": found.blocked,
        "not_activated": found.not_activated,
    }


def _show(found: key_exchange.ServiceKeys) -> None:
    print(_b64(found.current))
    if found.next is not None:
        print(f"next: {_b64(found.next)}\ndevices of kind public_key that have still to hear of it: {found.untold}")
    if found.blocked or found.not_activated:
        print(
            f"without a credential: {found.not_activated} not activated, {found.blocked} blocked; they know the key of"
            " their file"
        )


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


async def _load(path: Path) -> KeyFile:
    return KeyFile.load(path)
