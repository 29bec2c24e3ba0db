"""Keys that a command has made, for whoever asks again because the reply that showed them was lost.

Owns who gets them a second time: the same account with the same request, within an hour, until the device has activated.
Nothing is stored for it: a key stands, sealed, with its device only.
"""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

from service.domain.device import DeviceState
from service.operations.command_rows import Command
from service.operations.requests import parse_device
from service.operations.verbs import register, replace
from service.operations.verbs.verb import Arguments
from service.storage.store import SqlBatch

AGAIN = timedelta(hours=1)
VERBS = frozenset({register.NAME, replace.NAME})


async def again(batch: SqlBatch, command: Command, arguments: Arguments, now: datetime) -> dict[str, object]:
    """The `result` of the first reply; empty where there was no key, or its time is over. Raises ServiceError."""
    if command.dry_run or now - command.created_at > AGAIN:
        return {}
    names = _without_key(arguments)
    known = (await batch.load(serials=names)).by_serial
    keys = {
        one.serial: base64.b64encode(one.key.reveal()).decode("ascii")
        for one in (known.get(name) for name in names)
        if one is not None
        and one.key is not None
        and one.registered_at == command.created_at  # by this command
        and one.state is DeviceState.REGISTERED
    }
    return {"keys": keys} if keys else {}


def _without_key(arguments: Arguments) -> list[tuple[str, str]]:
    """The devices for which the request brought no key, so that one was made if they were new."""
    if isinstance(arguments, register.Arguments):
        return [(arguments.group, one.serial) for one in arguments.devices if one.key is None]
    assert isinstance(arguments, replace.Arguments)
    if not arguments.register_new or arguments.device_key is not None:
        return []
    group_id, serial = parse_device(arguments.new)
    return [] if group_id is None else [(group_id, serial)]
