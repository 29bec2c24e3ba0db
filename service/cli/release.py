"""`firstlight release`: the offline release key. Making a key and signing need neither service nor database."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from device_sdk.wire.ids import release_key_id
from service.cli import context
from service.domain.product import Endorsement
from service.errors import Secret, ServiceError
from service.operations import endorsing, releases

app = typer.Typer(help="Release keys and signatures; keep the private key offline.", no_args_is_help=True)
key_app = typer.Typer(help="The public release keys that this installation trusts.", no_args_is_help=True)
app.add_typer(key_app, name="key")

PASSPHRASE_VARIABLE = "FIRSTLIGHT_RELEASE_PASSPHRASE"  # noqa: S105 - the name of a variable
AskPassphrase = Annotated[
    bool, typer.Option("--passphrase", help=f"Ask for a passphrase (or take it from {PASSPHRASE_VARIABLE}).")
]


ENDORSER_VARIABLE = "FIRSTLIGHT_ENDORSER_PASSPHRASE"


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; the public one goes to FILE.pub.")],
    passphrase: AskPassphrase = False,
    endorsed_by: Annotated[
        Path | None, typer.Option(help="The private key that devices trust by now; it endorses the new one.")
    ] = None,
    endorser_passphrase: Annotated[
        bool, typer.Option("--endorser-passphrase", help=f"Ask for that key's (or take it from {ENDORSER_VARIABLE}).")
    ] = False,
    as_json: context.JsonOption = False,
) -> None:
    """Make a release key (Ed25519, PKCS8 PEM, mode 0600). Do this on the machine that signs, not on the server.

    With --endorsed-by the endorsement goes to FILE.endorsement: without one devices do not take a further key.
    """
    secret = ask_passphrase(wanted=passphrase, confirm=True)
    try:
        by = None
        if endorsed_by is not None:
            asked = ask_passphrase(wanted=endorser_passphrase, variable=ENDORSER_VARIABLE)
            by = releases.load_private(endorsed_by, asked)
        made = releases.keygen(file, passphrase=secret)
        if by is not None:
            text = endorsing.to_json(endorsing.endorse(made.public_key, by)) + "\n"
            releases.write_new(file.with_name(file.name + ".endorsement"), text.encode("ascii"), 0o644)
    except ServiceError as error:
        context.fail(error.public)
    said = f"release key {made.key_id}\nprivate key: {file}\npublic key: {file}.pub"
    if by is not None:
        said += f"\nendorsement: {file}.endorsement"
    context.emit(made, as_json=as_json, text=lambda: print(said))


@app.command()
def endorse(
    file: Annotated[Path, typer.Argument(help="The public key of the new release key.")],
    key: Annotated[Path, typer.Option(help="The private release key that devices trust by now.")],
    out: Annotated[Path | None, typer.Option(help="The endorsement; default: FILE.endorsement")] = None,
    passphrase: AskPassphrase = False,
    as_json: context.JsonOption = False,
) -> None:
    """Let a release key that devices trust vouch for another one. Needs no service and no database."""
    secret = ask_passphrase(wanted=passphrase)
    target = out or file.with_name(file.name.removesuffix(".pub") + ".endorsement")
    try:
        made = endorsing.endorse(releases.read_public_key(file).public_key, releases.load_private(key, secret))
        releases.write_new(target, (endorsing.to_json(made) + "\n").encode("ascii"), 0o644)
    except ServiceError as error:
        context.fail(error.public)
    context.emit(
        json.loads(endorsing.to_json(made)), as_json=as_json, text=lambda: print(f"endorsed by {made.by}: {target}")
    )


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
    endorsement: Annotated[
        list[Path] | None, typer.Option(help="What `keygen --endorsed-by` or `endorse` has written; repeatable.")
    ] = None,
    unendorsed: Annotated[
        bool, typer.Option("--unendorsed", help="Without one: only devices made from now on will know it.")
    ] = False,
    as_json: context.JsonOption = False,
) -> None:
    """Trust a release key. A further one needs the endorsement of one that devices know, or they do not take it."""
    try:
        public = releases.read_public_key(file)
        endorsements = [_endorsement(one) for one in endorsement or ()]
    except ServiceError as error:
        context.fail(error.public)
    added = context.run(
        lambda database: releases.add_key(
            database, public, name, now=datetime.now(UTC), endorsements=endorsements, unendorsed=unendorsed
        )
    )
    context.emit(added, as_json=as_json, text=lambda: print(f"release key {added.key_id} is trusted as {added.name}"))


@key_app.command("endorse")
def key_endorse(
    file: Annotated[Path, typer.Argument(help="What `firstlight release endorse` has written.")],
    as_json: context.JsonOption = False,
) -> None:
    """Keep a further endorsement of a release key, for devices that know only the key it is by."""
    try:
        one = _endorsement(file)
    except ServiceError as error:
        context.fail(error.public)
    fresh = context.run(lambda database: endorsing.add(database, one, now=datetime.now(UTC)))
    said = f"release key {release_key_id(one.public_key)} is endorsed by {one.by}"
    context.emit(
        {"key_id": release_key_id(one.public_key), "by": one.by, "added": fresh},
        as_json=as_json,
        text=lambda: print(said),
    )


@key_app.command("list")
def key_list(as_json: context.JsonOption = False) -> None:
    """Every release key, whether it is trusted or was retired, and which other ones endorse it."""
    found = context.run(releases.all_keys)
    names = {one.key_id: one.name for one in found}
    rows = [
        [one.name, one.key_id, one.public_key.hex(), _state(one), ", ".join(names[by] for by in one.endorsed_by) or "-"]
        for one in found
    ]
    columns = ["name", "key id", "public key", "state", "endorsed by"]
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


def _endorsement(path: Path) -> Endorsement:
    return endorsing.parse(releases.read_file(path, "endorsement_unreadable"))


def ask_passphrase(*, wanted: bool, confirm: bool = False, variable: str = PASSPHRASE_VARIABLE) -> Secret | None:
    """That of a release key: from the environment, or asked for on the terminal where it is wanted."""
    given = os.environ.get(variable)
    if given:
        return Secret(given.encode())
    if not wanted:
        return None
    words = "Passphrase" if variable == PASSPHRASE_VARIABLE else "Passphrase of the endorsing key"
    asked: str = typer.prompt(words, hide_input=True, confirmation_prompt=confirm, err=True)
    return Secret(asked.encode())
