"""`firstlight keys`: the service's own keys."""

from __future__ import annotations

import base64
from pathlib import Path

import typer

from service.cli import context
from service.credentials.keyfile import KeyFile
from service.operations import rekeying

app = typer.Typer(help="The service's own keys.", no_args_is_help=True)


@app.command()
def rotate(as_json: context.JsonOption = False) -> None:
    """Seal every secret in the database under a new key, and make server nonces with a new one; stop the service first.

    The old key leaves keys.json when nothing is sealed with it any more. Cut short, it goes on when run again. Older
    backups need the keys.json of their time.
    """
    of = context.settings()
    done = context.guarded(lambda: rekeying.rotate(of.key_file, of.database_path))
    said = f"{done.resealed} secrets sealed under key {done.kid}; old keys removed: {', '.join(done.retired) or 'none'}"
    context.emit(done, as_json=as_json, text=lambda: print(said))


@app.command()
def public(as_json: context.JsonOption = False) -> None:
    """The service's public key: what devices of key kind public_key hold, to know the service by (Ed25519, base64)."""
    of = context.settings()
    keys = context.guarded(lambda: _load(of.key_file))
    shown = base64.b64encode(keys.service_public_key()).decode("ascii")
    context.emit({"service_public_key": shown}, as_json=as_json, text=lambda: print(shown))


async def _load(path: Path) -> KeyFile:
    return KeyFile.load(path)
