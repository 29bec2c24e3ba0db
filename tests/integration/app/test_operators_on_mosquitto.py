"""An operator on a real Mosquitto: let in while the service runs, again after the broker was killed, out when disabled."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime

import aiomqtt
import pytest

from service.brokers import doctor
from service.mqtt.port import EVERYWHERE, Role
from service.operations import accounts
from service.operations.accounts import AccountKind
from service.operations.verbs.verb import Role as AccountRole
from tests.support.actor import Actor
from tests.support.site import GROUP, Site, made_site, until

pytestmark = pytest.mark.mosquitto


def actor(site: Site, key: str) -> Actor:
    tls = site.mosquittos.tls()
    tls.check_hostname = False  # its certificate is for localhost, and an actor connects to 127.0.0.1
    return Actor(site.ports["api_key"], "alice", "alice", key, tls=tls)


async def let_in(site: Site, key: str) -> None:
    async def works() -> bool:
        try:
            async with actor(site, key):
                return True
        except aiomqtt.MqttError:
            return False

    await until(works)


async def ask(alice: Actor, verb: str, **fields) -> dict:
    topic, before = f"pv1/o/alice/dn/{verb}", len(alice.received)
    await alice.subscribe("pv1/o/alice/dn/#")
    await alice.say(f"pv1/o/alice/up/{verb}", json.dumps(fields).encode())
    await until(lambda: any(t == topic for t, _ in alice.received[before:]))
    return json.loads(next(p for t, p in alice.received[before:] if t == topic))


async def test_an_operator_comes_and_goes_with_the_database(tmp_path):
    async with made_site(tmp_path, "mosquitto") as site:
        await site.register(["sn-1"])
        for role in EVERYWHERE:
            await site.start_broker(role)
        async with site.serving_here() as service:
            async with site.database() as database:
                made = await accounts.create(
                    database, "alice", AccountKind.OPERATOR, role=AccountRole.OPERATOR, now=datetime.now(UTC),
                    random_bytes=os.urandom,
                )  # fmt: skip
            key = made.reveal().decode()
            await let_in(site, key)
            async with actor(site, key) as alice:
                said = await ask(alice, "block", id="1", selector={"devices": [f"{GROUP}/sn-1"]})
                assert (said["ok"], said["changed"]) == (True, 1)
                assert [check for check in doctor.files(site.mosquittos.plan) if not check.ok] == []
                await site.stop_broker(Role.OPERATIONAL, signal.SIGKILL)
                await alice.lost.wait()
            await site.start_broker(Role.OPERATIONAL)
            async with actor(site, key) as alice:  # from its file, before the service has compared anything
                await until(lambda: all(link.connected.is_set() for link in service.links))
                assert (await ask(alice, "get", id="2", device=f"{GROUP}/sn-1"))["device"]["state"] == "blocked"
                async with site.database() as database:
                    await accounts.disable(database, "alice", now=datetime.now(UTC))
                await alice.lost.wait()
            with pytest.raises(aiomqtt.MqttError):
                await actor(site, key).__aenter__()
