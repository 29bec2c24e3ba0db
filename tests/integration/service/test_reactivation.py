"""A device that activates again: because a reply was lost, and because somebody has copied its key."""

from __future__ import annotations

import asyncio

import pytest

from device_sdk.simulator import Fleet
from device_sdk.wire import topics
from tests.integration.service.conftest import Running
from tests.support import auditor
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import ENVIRONMENT, GROUP, Site, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def unheard_activate(peer: MqttPeer) -> None:
    """Activate in a session of its own, and lose the reply."""
    session, nonce = peer.session, await peer.hello()
    body = peer.activate_body(nonce)
    await peer.say(topics.up("b", session, "activate"), peer.pack({"id": "lost", **body}))
    await peer.heard("b", "activate")


def states(site: Site, serial: str) -> list[str]:
    found = site.query(
        "SELECT c.state FROM credential c JOIN device d USING (device_id) WHERE d.serial = ? ORDER BY c.created_at",
        serial,
    )
    return [row[0] for row in found]


async def test_a_device_whose_activate_reply_was_lost_comes_back_with_its_old_credential(running: Running) -> None:
    site, suspected = running.site, running.counted("clone_suspected")
    async with MqttPeer(site, "sn-1") as peer, MqttPeer(site, "sn-1") as again:
        assert (await peer.activate())["ok"]
        assert (await peer.online())["ok"]
        await peer.cut("c")
        await unheard_activate(again)
        assert states(site, "sn-1") == ["confirmed", "pending"]
        peer.boot_count += 1  # it lost power, and has only what it stored
        assert (await peer.online())["ok"]
        assert (await peer.report())["ok"]
    assert states(site, "sn-1") == ["confirmed", "pending"]
    assert running.counted("clone_suspected") == suspected


async def test_lost_replies_of_the_first_activation_leave_one_credential(running: Running) -> None:
    site = running.site
    async with MqttPeer(site, "sn-2") as peer:
        for _ in range(6):
            await unheard_activate(peer)
            await peer.new_session()
        assert states(site, "sn-2").count("pending") == 4
        assert (await peer.activate())["ok"]
        assert (await peer.online())["ok"]
    assert sorted(set(states(site, "sn-2"))) == ["confirmed", "dropped"]
    assert states(site, "sn-2").count("confirmed") == 1
    await until(lambda: site.query("SELECT 1 FROM credential WHERE state = 'dropped' AND revoked_at IS NULL") == [])
    logins = await running.service.deployments[0].gate.snapshot()  # type: ignore[attr-defined]
    assert auditor.audit(site.settings.database_path, logins=logins) == []


async def test_a_clone_is_held_while_the_true_device_answers_and_takes_over_only_when_approved(
    running: Running,
) -> None:
    site, stop = running.site, asyncio.Event()
    fleet = Fleet([site.identity("sn-3")], seed=1, jitter_s=0)
    (true,) = fleet.devices
    task = asyncio.create_task(fleet.run(stop))
    try:
        async with MqttPeer(site, "sn-3") as clone:
            async with asyncio.timeout(30):
                await true.confirmed.wait()
            suspected = running.counted("clone_suspected")
            assert (await clone.activate())["ok"]
            held = await clone.online()
            assert (held["code"], held["retry_after_s"]) == ("CONFLICT", 30)
            # The true device is asked on its old credential, and its answer says that it lives.
            await until(lambda: running.counted("clone_suspected") == suspected + 1)
            waiting = await clone.online()
            assert (waiting["code"], waiting["retry_after_s"]) == ("CONFLICT", 60)
            assert states(site, "sn-3") == ["confirmed", "pending"]
            assert true.status.place == ENVIRONMENT or true.status.state == "online"
            await site.command("device", "approve", f"{GROUP}/sn-3")
            assert (await clone.online())["ok"]
            assert states(site, "sn-3") == ["dropped", "confirmed"]
    finally:
        stop.set()
        await task


async def test_silence_on_the_old_credential_is_asked_for_before_it_counts(running: Running) -> None:
    site = running.site
    async with MqttPeer(site, "sn-4") as old, MqttPeer(site, "sn-4") as new:
        assert (await old.activate())["ok"]
        assert (await old.online())["ok"]
        assert (await new.activate())["ok"]
        assert (await new.online())["code"] == "CONFLICT"
        pushed = old.unpack(await old.heard("c", "desired"))
        assert old.document(pushed["desired"])["rev"] >= 1
        assert states(site, "sn-4") == ["confirmed", "pending"]
