"""The agent's store torn at every byte of each record: the device still comes up and ends confirmed.

Each record is cut (and, apart from that, zero-filled) at every byte, the core is started on it in this process, and its
way goes on; the program itself is started on a few of them.
"""

import asyncio
import itertools
import os
import shutil

import pytest

from device_sdk import Client, Endpoint, FileFlash, FileSlots, FullCrypto, Identity, Policy
from device_sdk.drivers.aio import REBOOT, Driver
from tests.support.agents import KEY, SERIAL, run_agent, scripted_site, write_config
from tests.support.scripted_service import HARDWARE, PRODUCT, RELEASE_PUBLIC


async def live(folder, port):
    """Start over and over, as the agent does, until online with nothing to do."""
    for _ in range(6):
        slots = FileSlots(folder / "slots", sync_writes=False)
        slots.boot()
        identity = Identity(
            "factory-a",
            SERIAL,
            KEY,
            PRODUCT,
            HARDWARE,
            [Endpoint("127.0.0.1", port, tls=False)],
            (RELEASE_PUBLIC,),
            allow_plain=True,
        )
        flash = FileFlash(folder / "records", sync_writes=False)
        client = Client(identity, Policy(backoff_first_s=0.01), flash, slots, FullCrypto(), os.urandom)
        stop = asyncio.Event()

        def changed(client, stop=stop):
            if client.status.state == "online":
                stop.set()

        async with asyncio.timeout(30):
            outcome = await Driver(client, on_change=changed).run(stop)
        slots.close()
        if outcome != REBOOT:
            return
    raise AssertionError("still rebooting after six starts")


def torn(content):
    for length in range(len(content)):
        yield content[:length]
        yield content[:length] + bytes(len(content) - length)


async def prepared(folder, port):
    """A device's folder after its first life: confirmed, nothing to do."""
    await live(folder, port)
    return sorted(path for path in folder.rglob("*.rec"))


async def sweep(tmp_path, every):
    with scripted_site(5_000) as (service, server):
        whole = tmp_path / "whole"
        whole.mkdir()
        records = [path.relative_to(whole) for path in await prepared(whole, server.port)]
        assert len(records) >= 6
        cases = itertools.chain.from_iterable(
            ((name, damaged) for damaged in torn((whole / name).read_bytes())) for name in records
        )
        for number, (name, damaged) in enumerate(cases):
            if number % every:
                continue
            folder = tmp_path / "torn"
            shutil.copytree(whole, folder)
            (folder / name).write_bytes(damaged)
            service.confirmed.clear()
            await live(folder, server.port)
            assert service.confirmed == {SERIAL}, (name, len(damaged))
            assert (folder / "slots" / "current").read_bytes() == service.image, (name, len(damaged))
            shutil.rmtree(folder)
        assert not server.errors


async def test_a_record_torn_at_some_bytes_brings_the_device_up_and_confirmed(tmp_path):
    await sweep(tmp_path, every=67)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_record_torn_at_every_byte_brings_the_device_up_and_confirmed(tmp_path):
    await sweep(tmp_path, every=1)


def test_the_program_itself_comes_up_on_a_store_of_garbage(tmp_path):
    with scripted_site(20_000) as (service, server):
        config = write_config(tmp_path, server.port)
        assert run_agent(config, "--once", "--allow-plaintext").returncode == 0
        for path in sorted((tmp_path / "state").rglob("*.rec")):
            path.write_bytes(os.urandom(len(path.read_bytes())))
        service.confirmed.clear()
        assert run_agent(config, "--once", "--allow-plaintext").returncode == 0
        assert service.confirmed == {SERIAL}
