"""`firstlight release`: the offline release key. Making a key and signing need neither service nor database."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context
from service.errors import Secret, ServiceError
from service.operations import releases

app = typer.Typer(help="Release keys and signatures; keep the private key offline.", no_args_is_help=True)
key_app = typer.Typer(help="The public release keys that this installation trusts.", no_args_is_help=True)
app.add_typer(key_app, name="key")

PASSPHRASE_VARIABLE = "FIRSTLIGHT_RELEASE_PASSPHRASE"  # noqa: S105 - the name of a variable
AskPassphrase = Annotated[
    bool, typer.Option("--passphrase", help=f"Ask for a passphrase (or take it from {PASSPHRASE_VARIABLE}).")
]


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; the public one goes to FILE.pub.")],
    passphrase: AskPassphrase = False,
    as_json: context.JsonOption = False,
) -> None:
    """Make a release key (Ed25519, PKCS8 PEM, mode 0600). Do this on the machine that signs, not on the server."""
    secret = ask_passphrase(wanted=passphrase, confirm=True)
    try:
        made = releases.keygen(file, passphrase=secret)
    except ServiceError as error:
        context.fail(error.public)
    said = f"release key {made.key_id}\nprivate key: {file}\npublic key: {file}.pub"
    context.emit(made, as_json=as_json, text=lambda: print(said))


@app.command()
def sign(
    image: Path,
    key: Annotated[Path, typer.Option(help="The private release key.")],
    product: Annotated[str, typer.Option(help="The product's name, such as Thermometer.")],
    hardware: Annotated[str, typer.Option(help="The product's hardware.")],
    name: Annotated[str, typer.Option(help="The version's name, such as 2.0.")],
    seq: Annotated[int, typer.Option(help="A number that rises with every release; devices refuse a lower one.")],
    out: Annotated[Path | None, typer.Option(help="The signature file; default: IMAGE.sig")] = None,
    passphrase: AskPassphrase = False,
    as_json: context.JsonOption = False,
) -> None:
    """Sign an image as a version of a product. Needs no service and no database."""
    secret = ask_passphrase(wanted=passphrase)
    target = out or image.with_name(image.name + ".sig")
    try:
        signed = releases.sign(image, key, product=product, hardware=hardware, name=name, seq=seq, passphrase=secret)
        target.write_text(signed.to_json() + "\n", "utf-8")
    except ServiceError as error:
        context.fail(error.public)
    except OSError as error:
        context.fail(f"cannot write {target}: {error.strerror}")
    context.emit(
        json.loads(signed.to_json()), as_json=as_json, text=lambda: print(f"signed {signed.version_id}: {target}")
    )


@key_app.command("add")
def key_add(
    file: Annotated[Path, typer.Argument(help="The public key that `firstlight release keygen` has written.")],
    name: Annotated[str, typer.Option(help="What people call it.")],
    as_json: context.JsonOption = False,
) -> None:
    """Trust a release key."""
    try:
        public = releases.read_public_key(file)
    except ServiceError as error:
        context.fail(error.public)
    added = context.run(lambda database: releases.add_key(database, public, name, now=datetime.now(UTC)))
    context.emit(added, as_json=as_json, text=lambda: print(f"release key {added.key_id} is trusted as {added.name}"))


@key_app.command("list")
def key_list(as_json: context.JsonOption = False) -> None:
    """Every release key, and whether it is trusted or was retired."""
    found = context.run(releases.all_keys)
    rows = [[one.name, one.key_id, one.public_key.hex(), _state(one)] for one in found]
    columns = ["name", "key id", "public key", "state"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Release keys", columns, rows))


@key_app.command("retire")
def key_retire(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    as_json: context.JsonOption = False,
) -> None:
    """Trust a release key no more, for good. Set other targets first where versions signed by it are targets."""
    found = context.run(lambda database: releases.retire_key(database, name, now=datetime.now(UTC)))
    said = f"release key {found.key_id} ({found.name}) is {_state(found)}"
    context.emit(found, as_json=as_json, text=lambda: print(said))


def _state(one: releases.KeyView) -> str:
    return "trusted" if one.retired_at is None else f"retired {one.retired_at:%Y-%m-%d %H:%M:%S} UTC"


def ask_passphrase(*, wanted: bool, confirm: bool = False) -> Secret | None:
    """That of a release key: from the environment, or asked for on the terminal where it is wanted."""
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given:
        return Secret(given.encode())
    if not wanted:
        return None
    asked: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return Secret(asked.encode())
