"""An installation whose topics begin otherwise: one setting here, one in the device."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiomqtt
import pytest

from device_sdk.core.identity import Policy
from device_sdk.simulator.fleet import Fleet
from service.installation import broker_plan
from service.mqtt.port import EVERYWHERE
from service.settings import SettingsError, load_settings
from tests.support.actor import Actor
from tests.support.site import ENVIRONMENT, GROUP, Site, made_site
from tests.support.site_agents import agent_file, run_once

ROOT = "plants/north"


def _use(site: Site, root: str) -> None:
    site.config.write_text(f'topic_root = "{root}"\n' + site.config.read_text())
    site.settings = load_settings(site.config)


async def test_devices_with_the_same_topic_root_activate_and_take_their_firmware(tmp_path: Path) -> None:
    async with made_site(tmp_path) as site:
        _use(site, ROOT)
        await site.register(["simulated", "program", "stranger"])
        version_id = await site.add_version("2.0", 2, os.urandom(100_000))
        async with site.serving_here():
            fleet = Fleet([site.identity("simulated")], seed=1, jitter_s=0, policy=Policy(root=ROOT), target=version_id)
            assert await fleet.run_until_confirmed(30)
            done = await run_once(agent_file(site, "program", topic_root=ROOT), "--allow-plaintext")
            assert done.returncode == 0, done.stdout + done.stderr
            # One that was left at the default is not let in to that root by the broker, and gets no answer.
            other = await run_once(agent_file(site, "stranger"), "--allow-plaintext", "--timeout", "1.5")
            assert other.returncode == 5
        states = dict(site.query("SELECT serial, state FROM device"))
        assert states == {"simulated": "confirmed", "program": "confirmed", "stranger": "registered"}


@asynccontextmanager
async def entered(site: Site, name: str, key: str) -> AsyncIterator[Actor]:
    """The account's session, once it works."""
    assert site.mosquittos is not None
    tls = site.mosquittos.tls()
    tls.check_hostname = False  # its certificate is for localhost, and an actor connects to 127.0.0.1
    async with asyncio.timeout(20):
        while True:
            with suppress(aiomqtt.MqttError):
                actor = await Actor(site.ports["api_key"], name, name, key, tls=tls).__aenter__()
                break
            await asyncio.sleep(0.1)
    try:
        yield actor
    finally:
        await actor.__aexit__()


@pytest.mark.mosquitto
async def test_mosquitto_s_access_lists_are_written_for_that_root_and_the_doctor_looks_there(tmp_path: Path) -> None:
    async with made_site(tmp_path, "mosquitto") as site:
        _use(site, ROOT)
        assert site.mosquittos is not None
        site.mosquittos.plan = broker_plan(site.settings, ENVIRONMENT)
        await site.register(["simulated"])
        await site.add_version("2.0", 2, os.urandom(100_000))
        for role in EVERYWHERE:
            await site.start_broker(role)
        async with site.serving_here():
            fleet = Fleet([site.identity("simulated")], seed=1, jitter_s=0, policy=Policy(root=ROOT))
            assert await fleet.run_until_confirmed(30)
            key = json.loads(await site.command("account", "create", "alice", "--json"))["key"]
            integrator = json.loads(await site.command("account", "create", "erp", "--kind", "integrator", "--json"))[
                "key"
            ]
            async with entered(site, "alice", key) as alice, entered(site, "erp", integrator) as erp:
                await alice.subscribe(f"{ROOT}/o/alice/dn/#")
                await erp.subscribe(f"{ROOT}/e/erp/#")
                await alice.say(
                    f"{ROOT}/o/alice/up/get", json.dumps({"id": "1", "device": f"{GROUP}/simulated"}).encode()
                )
                await alice.heard(f"{ROOT}/o/alice/dn/get")
                await site.command("device", "block", f"{GROUP}/simulated")
                await erp.heard(f"{ROOT}/e/erp/blocked")
            examined = json.loads(await site.command("doctor", "--json"))
        assert examined["ok"], examined


@pytest.mark.parametrize("root", ["", "/", "a//b", "a/", "a/+", "#", "$share/a", "ä", "a" * 65])
def test_a_root_that_is_no_plain_topic_prefix_is_refused(tmp_path: Path, root: str) -> None:
    with pytest.raises(SettingsError, match="topic_root"):
        _use(Site(tmp_path), root)
