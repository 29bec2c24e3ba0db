"""A complete device: it activates, keeps its firmware up to date and starts again after an installation."""

import asyncio
import os
from pathlib import Path

from device_sdk import Client, Endpoint, FileFlash, FileSlots, FullCrypto, Identity, Policy, aio


async def power_up(key: bytes, release_key: bytes, broker: Endpoint, state: Path, stop: asyncio.Event) -> str:
    plain = not broker.tls  # only for trials without TLS
    identity = Identity("factory-a", "sn-1", key, "thermometer", "rev1", [broker], (release_key,), allow_plain=plain)
    slots = FileSlots(state / "slots", health_check=lambda: True)  # put your own check of a new image here
    slots.boot()  # the boot loader's part: which slot runs from now on
    client = Client(identity, Policy(), FileFlash(state / "records"), slots, FullCrypto(), os.urandom)
    return await aio.run(client, stop=stop, on_note=print)


async def main(key: bytes, release_key: bytes, broker: Endpoint, state: Path, stop: asyncio.Event) -> None:
    while await power_up(key, release_key, broker, state, stop) == aio.REBOOT:
        print("the new image starts")
