"""`firstlight replace` and `undo-replace`: new hardware for a thing.

Owns how the new device's key comes in: given, read from a file, or made here together with the file that the device
starts from. The rest is the verb's.
"""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from device_sdk.wire import limits
from service.cli import asking, context, device_file
from service.cli.context import CommandError
from service.domain.group import KeyKind
from service.errors import Secret, ServiceError
from service.operations import devices, registration
from service.operations.accounts import THIS_MACHINE
from service.operations.command_rows import Status
from service.operations.commands import Commands, Request
from service.storage.database import Database

DeviceArgument = Annotated[str, typer.Argument(metavar="GROUP/SERIAL")]
# How the new device comes to be known, where it is not registered yet.
KeyOption = Annotated[
    str | None, typer.Option(envvar="FIRSTLIGHT_DEVICE_KEY", help="Base64: registers the new device along.")
]
KeyFileOption = Annotated[
    Path | None, typer.Option(help="A file with the key in base64: registers the new device along.")
]
PublicKeyOption = Annotated[list[str] | None, typer.Option(help="The same for key kind public_key; may be repeated.")]
RegisterOption = Annotated[
    bool, typer.Option("--register", help="Register the new device along; a key that is made is shown this once.")
]
DeviceFileOption = Annotated[
    Path | None,
    typer.Option("--device-file", help="Register it along, and write what firstlight-device needs (mode 0600)."),
]


def replace_(
    old: DeviceArgument,
    new: Annotated[str, typer.Argument(metavar="SERIAL", help="Of the same group; or GROUP/SERIAL.")],
    device_key: KeyOption = None,
    key_file: KeyFileOption = None,
    public_key: PublicKeyOption = None,
    register: RegisterOption = False,
    file: DeviceFileOption = None,
    deadline_s: Annotated[
        int | None, typer.Option(help="A new device that has not appeared by then is let go.")
    ] = None,
    *,
    more: dict[str, Any],
    as_json: context.JsonOption = False,
) -> None:
    """Let a new device become the thing of an old one: name, place, settings, target and history stay.

    A new device that is not registered yet is registered along if its key is given or made: nothing else is needed.
    """
    if device_key is not None and key_file is not None:
        context.fail("give --device-key or --key-file")
    given = device_key if key_file is None else _key_in(key_file)
    name = new if "/" in new else f"{old.rpartition('/')[0]}/{new}"
    arguments = {
        "new": name,
        "device_key": given,
        "public_keys": public_key or None,
        "register_new": register or file is not None or None,
        "deadline_s": deadline_s,
    }
    if file is None or more["dry_run"]:
        asking.ask_one("replace", old, arguments, as_json, **more)
        return
    made = asking.with_commands(lambda by, database: _with_file(by, database, old, arguments, more, file))
    asking.show(made, as_json=as_json)
    if not as_json:
        print(f"{file}: for firstlight-device --config; keep it as secret as the key in it")


def undo_replace(
    device: DeviceArgument,
    more: dict[str, Any],
    as_json: context.JsonOption = False,
) -> None:
    """Let a named successor go, for as long as it has not confirmed; either device may be named."""
    asking.ask_one("undo-replace", device, {}, as_json, **more)


async def _with_file(
    commands: Commands, database: Database, old: str, arguments: dict[str, Any], more: dict[str, Any], path: Path
) -> Status:
    """The key is made and in the file before anything is stored, so that it cannot be lost; a refusal takes it away."""
    group_id, _, serial = str(arguments["new"]).rpartition("/")
    group = await device_file.group_of(database, group_id)
    holder = await devices.show(database, old)
    environment = holder.thing.environment if holder.thing is not None else holder.environment
    given = arguments["device_key"]
    key = None if given is None else registration.parse_key(given)
    if key is None and group.key_kind is KeyKind.INDIVIDUAL:
        key = Secret(os.urandom(limits.DEVICE_KEY_BYTES))
    content = await device_file.collect(database, context.settings(), group, serial, key, environment)
    device_file.write(path, content)
    made = {} if key is None else {"device_key": base64.b64encode(key.reveal()).decode("ascii")}
    request: Request = asking.request_one(old, {**arguments, **made}, **more)
    try:
        status = await commands.submit(THIS_MACHINE, "replace", request)
    except ServiceError:
        await asyncio.to_thread(path.unlink)
        raise
    if status.command.refused:
        await asyncio.to_thread(path.unlink)
        (outcome,) = status.outcomes
        raise CommandError(f"{outcome.group_id}/{outcome.serial}: {outcome.reason}")
    return status


def _key_in(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        context.fail(f"cannot read {path}: {error}")
