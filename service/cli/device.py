"""`firstlight device`: register, import, look at, block and approve devices."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from device_sdk.wire import limits
from service.cli import context, device_file, selecting
from service.domain.device import Device, DeviceState, Firmware
from service.domain.group import KeyKind
from service.errors import Secret, ServiceError
from service.operations import devices, imports, registration
from service.operations.registration import Outcome, Registration, Result
from service.storage.database import Database

app = typer.Typer(help="Devices: register them, see their state, block them.", no_args_is_help=True)

DeviceArgument = Annotated[str, typer.Argument(metavar="GROUP/SERIAL", help="Or a bare serial where it is unique.")]


@app.command()
def register(
    group_id: Annotated[str, typer.Argument(metavar="GROUP")],
    serial: str,
    key: Annotated[
        str | None,
        typer.Option(envvar="FIRSTLIGHT_DEVICE_KEY", help="Device key in base64 (kind individual); else one is made."),
    ] = None,
    public_key: Annotated[
        list[str] | None, typer.Option(help="Base64 of a DER public key (kind public_key); may be repeated.")
    ] = None,
    ou: Annotated[str | None, typer.Option(help="Its own OU instead of the group's default.")] = None,
    environment: Annotated[str | None, typer.Option(help="Its own environment.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--device-file", help="Also write what firstlight-device needs (mode 0600), the key among it."),
    ] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Register one device. A key that is made here is shown this once, or written to the device file."""
    try:
        asked = Registration(
            group_id=group_id,
            serial=serial,
            key=None if key is None else registration.parse_key(key),
            public_keys=tuple(
                registration.parse_public_key(index, text) for index, text in enumerate(public_key or [])
            ),
            ou=ou,
            environment=environment,
        )
    except ServiceError as error:
        context.fail(error.public)
    outcome = context.run(lambda database: _register(database, asked, file))
    context.emit(_document(outcome), as_json=as_json, text=lambda: _print_registered(outcome, file))


async def _register(database: Database, asked: Registration, path: Path | None) -> Outcome:
    if path is None:
        return await registration.register(database, asked, now=datetime.now(UTC), random_bytes=os.urandom)
    return await _with_file(database, asked, path)


async def _with_file(database: Database, asked: Registration, path: Path) -> Outcome:
    """The key is made and in the file before anything is stored, so that it cannot be lost; a refusal takes it away."""
    group = await device_file.group_of(database, asked.group_id)
    is_new = asked.key is None and group.key_kind is KeyKind.INDIVIDUAL
    if is_new:
        asked = replace(asked, key=Secret(os.urandom(limits.DEVICE_KEY_BYTES)))
    content = await device_file.collect(database, context.settings(), group, asked.serial, asked.key, asked.environment)
    device_file.write(path, content)
    try:
        return await registration.register(database, asked, now=datetime.now(UTC), random_bytes=os.urandom)
    except ServiceError as error:
        await asyncio.to_thread(path.unlink)
        if is_new and error.cause == "serial_conflict":
            raise context.CommandError("the device is registered already, and its key was shown then") from error
        raise


def _print_registered(outcome: Outcome, file: Path | None) -> None:
    print(f"{outcome.group_id}/{outcome.serial} {outcome.result.value.replace('_', ' ')}")
    if file is not None:
        print(f"{file}: for firstlight-device --config; keep it as secret as the key in it")
    elif outcome.new_key is not None:
        print(f"device key (shown this once): {_base64(outcome)}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="*.csv with a header line, or JSON lines.")],
    group: Annotated[str | None, typer.Option(help="Group of the rows that name none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line instead of text.")] = False,
) -> None:
    """Register every row of a file, while the service runs; one line of result for each row.

    Columns: serial, and group, key, public_key, public_keys, ou, environment. Keys that are made stand in the result
    line, this once. A summary goes to standard error; the exit code is 1 if any row was refused. An import that was
    cut off is simply run again: rows that are registered with the same data are no error.
    """
    totals = context.run(lambda database: _import(database, file, group, as_json=as_json))
    print(
        f"{totals[Result.REGISTERED]} registered, {totals[Result.ALREADY_REGISTERED]} already registered, "
        f"{totals[Result.ERROR]} refused",
        file=sys.stderr,
    )
    if totals[Result.ERROR]:
        raise typer.Exit(1)


async def _import(database: Database, file: Path, group: str | None, *, as_json: bool) -> Counter[Result]:
    totals: Counter[Result] = Counter()
    lines: list[str] = []
    outcomes = imports.import_file(
        database, file, group_id=group, now=lambda: datetime.now(UTC), random_bytes=os.urandom
    )
    async for one in outcomes:
        totals[one.outcome.result] += 1
        lines.append(_line(one, as_json=as_json))
        if len(lines) >= imports.PAGE_ROWS:
            await asyncio.to_thread(sys.stdout.write, "".join(lines))
            lines.clear()
    await asyncio.to_thread(sys.stdout.write, "".join(lines))
    return totals


@app.command()
def show(device: DeviceArgument, as_json: context.JsonOption = False) -> None:
    """A device with its thing and credentials."""

    async def look(database: Database) -> tuple[Device, list[str]]:
        one = await devices.show(database, device)
        return one, await devices.chain(database, one)

    found, chain = context.run(look)
    context.emit({**_device(found), "chain": chain}, as_json=as_json, text=lambda: _print_device(found, chain))


@app.command("list")
def list_(
    state: Annotated[DeviceState | None, typer.Option(help="Only devices in this state.")] = None,
    group: Annotated[str | None, typer.Option(help="Only devices of this group.")] = None,
    product: Annotated[str | None, typer.Option(help="Only devices of this product.")] = None,
    in_ou: Annotated[str | None, typer.Option(help="Only what is in this OU or below it.")] = None,
    in_environment: Annotated[str | None, typer.Option(help="Only what is in this environment.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only devices with this batch tag.")] = None,
    thing: Annotated[list[str] | None, typer.Option(help="Only this thing, by its id; may stand often.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, 1 to 1000.")] = 100,
    after: Annotated[str | None, typer.Option(metavar="GROUP/SERIAL", help="The last one of the page before.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Devices by group and serial, page by page."""
    named = {"state": state, "group": group, "product": product, "batch": batch, "thing": thing}
    selector = selecting.selector_read({**named, "in_ou": in_ou, "in_environment": in_environment})
    page = context.run(lambda database: devices.list_page(database, selector, after=after, limit=limit))

    def text() -> None:
        columns = ["device", "state", "thing", "environment", "firmware", "version", "registered"]
        context.table("Devices", columns, [_row(one) for one in page.devices])
        if page.after is not None:
            print(f"more: --after {page.after}")

    context.emit(page, as_json=as_json, text=text)


@app.command()
def block(device: DeviceArgument, as_json: context.JsonOption = False) -> None:
    """Refuse a device; its sessions end within 2 seconds while the service runs."""
    _word(lambda database: devices.block(database, device, now=datetime.now(UTC), trace_id=_trace_id()), as_json)


@app.command()
def unblock(device: DeviceArgument, as_json: context.JsonOption = False) -> None:
    """Let a blocked device activate again."""
    _word(lambda database: devices.unblock(database, device, now=datetime.now(UTC), trace_id=_trace_id()), as_json)


@app.command()
def approve(
    device: DeviceArgument,
    credential: Annotated[str | None, typer.Option(help="Which one, when several wait.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Let a reactivation that waits for an operator take over."""
    _word(
        lambda database: devices.approve(
            database, device, credential_id=credential, now=datetime.now(UTC), trace_id=_trace_id()
        ),
        as_json,
    )


def _word(action: Any, as_json: bool) -> None:
    changed: Device = context.run(action)
    context.emit(
        _device(changed),
        as_json=as_json,
        text=lambda: print(f"{changed.group_id}/{changed.serial} {changed.state.value}"),
    )


def _trace_id() -> str:
    return os.urandom(8).hex()


def _base64(outcome: Outcome) -> str | None:
    return None if outcome.new_key is None else base64.b64encode(outcome.new_key.reveal()).decode("ascii")


def _document(outcome: Outcome) -> dict[str, Any]:
    found = {
        "group": outcome.group_id,
        "serial": outcome.serial,
        "result": outcome.result.value,
        "cause": outcome.cause,
        "reason": outcome.reason,
        "key": _base64(outcome),
    }
    return {name: value for name, value in found.items() if value is not None}


def _line(one: imports.RowOutcome, *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"row": one.row, **_document(one.outcome)}) + "\n"
    of = one.outcome
    parts = [str(one.row), of.result.value, ascii(f"{of.group_id}/{of.serial}")[1:-1]]
    if of.cause is not None:
        parts += [of.cause, of.reason or ""]
    elif of.new_key is not None:
        parts.append(_base64(of) or "")
    return "\t".join(parts) + "\n"


def _row(one: devices.DeviceLine) -> list[str]:
    at = context.moment(one.registered_at) if one.registered_at else "-"
    name = f"{one.group_id}/{one.serial}"
    return [name, one.state, one.thing or "-", one.environment or "-", one.firmware or "-", one.version or "-", at]


_NOT_SHOWN = ("nonce", "server_nonce", "grant", "last_reply", "desired_doc", "certificate_pem")


def _device(device: Device) -> dict[str, Any]:
    """What an operator may see: no key, and of a credential no bytes that only matter to the protocol."""
    shown: dict[str, Any] = context.plain(device)
    shown["key"] = device.key is not None
    shown["credentials"] = [
        {name: value for name, value in context.plain(one).items() if name not in _NOT_SHOWN}
        for one in device.credentials
    ]
    return shown


def _firmware(said: Firmware) -> str:
    """The state, the version that it is about, and what the device says of it."""
    words = [said.state.value if said.state is not None else "", said.version_id or "of the factory"]
    if said.progress is not None:
        words.append(f"{said.progress} %")
    if said.deferred_until is not None:
        words.append(f"until {context.moment(said.deferred_until)}")
    words += [said.deferred_reason or "", said.cause or ""]
    return ", ".join(dict.fromkeys(word for word in words if word))


def _transfer(device: Device) -> str:
    until = device.rekey_deadline_at
    return "at its next activation" + (f", until {context.moment(until)}" if until is not None else "")


def _print_device(device: Device, chain: list[str]) -> None:
    firmware = device.firmware
    lines = {
        "device": f"{device.group_id}/{device.serial}",
        "state": device.state.value,
        "registered": context.moment(device.registered_at),
        "model": device.model,
        "boot count": device.boot_count,
        "thing": device.thing and f"{device.thing.name} ({device.thing.thing_id})",
        "place": device.thing and f"{device.thing.ou} in {device.thing.environment}",
        "firmware": firmware.state and _firmware(firmware),
        "batch": device.batch,
        "frozen": "yes: two devices speak under this serial" if device.frozen else None,
        "retired": device.retired_reason,
        "until": device.retire_deadline_at and f"{context.moment(device.retire_deadline_at)} it may still hear of that",
        "new key": _transfer(device) if device.rekey else None,
        "replacements": " -> ".join(chain) if len(chain) > 1 else None,
        "moving to": device.thing
        and device.thing.move
        and f"{device.thing.move.ou} in {device.thing.move.environment} until {device.thing.move.deadline_at.isoformat(timespec='seconds')}",
        "revision": device.thing and device.thing.rev,
        "installed": device.thing and device.thing.installed_version_id,
    }
    context.table("Device", ["", ""], [[name, "-" if value is None else str(value)] for name, value in lines.items()])
    rows = [
        [
            one.credential_id,
            one.kind.value,
            one.state.value + (" (waits for approval)" if one.awaits_operator else ""),
            one.environment,
            context.moment(one.created_at),
            one.drop_cause or "-",
        ]
        for one in device.credentials
    ]
    context.table("Credentials", ["credential", "kind", "state", "environment", "created", "dropped for"], rows)
