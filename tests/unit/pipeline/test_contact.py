"""Requests on a credential's topic: first use, numbers, hold, documents, small verbs."""

from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import codes, topics
from service.domain.credential import CredentialState
from service.domain.device import FirmwareState
from service.domain.group import Reactivation
from service.pipeline.bounds import Bounds
from tests.support.pipeline_site import NEW, OLD, Peer, catalogue, group, registered, running

HOLD = catalogue(group(reactivation=Reactivation.HOLD))
QUICK = Bounds(session_burst=1000, credential_burst=1000, serial_burst=1000)


def row(site, credential_id):
    (found,) = [one for one in site.store.device("line-1", "sn-1").credentials if one.credential_id == credential_id]
    return found


async def activated(site, session="1" * 32) -> Peer:
    peer = Peer(site)
    peer.session = session
    assert (await peer.activate())["ok"]
    return peer


async def confirmed(site, session="1" * 32) -> Peer:
    peer = await activated(site, session)
    assert (await peer.online())["ok"]
    return peer


@pytest.mark.parametrize("verb", ["online", "target", "current", "installed", "report"])
async def test_the_first_use_confirms_the_credential(tmp_path, verb):
    async with running(tmp_path) as site:
        peer = await activated(site)
        bodies = {
            "online": {"n": 1, "boot_count": 1, "desired_rev": 0, "caps": []},
            "installed": {"n": 1, "version_id": NEW.version_id},
            "report": {"n": 1, "desired_rev": 0},
        }
        assert (await peer.ask("c", verb, bodies.get(verb, {})))["ok"]
        assert row(site, peer.credential_id).state is CredentialState.CONFIRMED


@pytest.mark.parametrize("verb", ["fetch", "rename"])
async def test_a_pending_credential_may_not_fetch_or_rename(tmp_path, verb):
    async with running(tmp_path) as site:
        peer = await activated(site)
        body = {"image": bytes(8), "stream": 0, "chunk_size": 256, "first": 0, "count": 1, "n": 1, "name": "x"}
        assert (await peer.ask("c", verb, body))["code"] == codes.FORBIDDEN
        assert row(site, peer.credential_id).state is CredentialState.PENDING


async def test_confirming_drops_all_others_and_their_logins_die(tmp_path):
    async with running(tmp_path) as site:
        first = await confirmed(site, "1" * 32)
        second = await activated(site, "2" * 32)
        third = await activated(site, "3" * 32)
        assert (await third.online())["ok"]
        await site.settle()
        await site.pipeline.revoker.revoke_all()
        assert set(site.gate.logins) == {third.credential_id}
        for gone in (first, second):
            assert row(site, gone.credential_id).state is CredentialState.DROPPED


async def test_a_message_of_a_dropped_or_unknown_credential_is_ignored(tmp_path):
    async with running(tmp_path) as site:
        first = await confirmed(site, "1" * 32)
        await confirmed(site, "2" * 32)
        site.op.published.clear()
        before = site.op.acknowledged
        for owner in (first.credential_id, "a" * 32):
            site.op.send(topics.up("c", owner, "current"), first.pack({"id": "1"}))
        await site.settle()
        assert not site.op.published
        assert site.op.acknowledged == before + 2
        assert site.counted("credential_dropped") == 1
        assert site.counted("credential_unknown") == 1


async def test_a_repeat_gets_the_stored_bytes_and_a_lower_number_a_conflict_with_the_state(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        payload = peer.pack({"id": "q", "n": 2, "name": "Kitchen"})
        first = await peer.ask_raw("c", "rename", payload)
        site.store.add(
            replace(
                site.store.device("line-1", "sn-1"),
                thing=replace(site.store.device("line-1", "sn-1").thing, name="Hall"),
            )
        )
        assert await peer.ask_raw("c", "rename", payload) == first
        assert site.store.device("line-1", "sn-1").thing.name == "Hall"
        reply = await peer.ask("c", "rename", {"n": 1, "name": "Cellar"})
        assert (reply["code"], reply["state"]) == (codes.CONFLICT, {"boot_count": 1, "n": 2})
        peer.boot_count, peer.n = 2, 0
        assert (await peer.online())["ok"]  # a higher boot begins again at 1
        assert (await peer.ask("c", "rename", {"n": 2, "boot_count": 1, "name": "x"}))["code"] == codes.CONFLICT


async def test_a_refused_request_leaves_the_numbers_as_they_were(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        assert (await peer.ask("c", "installed", {"n": 2, "version_id": "f" * 32}))["code"] == codes.NOT_FOUND
        assert (await peer.ask("c", "rename", {"n": 2, "name": "x"}))["ok"]


async def test_hold_asks_the_old_credential_and_confirms_the_new_one_after_its_silence(tmp_path):
    async with running(tmp_path, world=HOLD) as site:
        old = await confirmed(site, "1" * 32)
        new = await activated(site, "2" * 32)
        reply = await new.online()
        assert (reply["code"], reply["retry_after_s"]) == (codes.CONFLICT, 30)
        pushed = old.unpack(await site.op.next(topics.down("c", old.credential_id, "desired")))
        assert old.document(pushed["desired"])["firmware"]["version_id"] == NEW.version_id
        site.clock.advance(29)
        assert (await new.online())["code"] == codes.CONFLICT
        site.clock.advance(1)
        assert (await new.online())["ok"]
        assert row(site, old.credential_id).state is CredentialState.DROPPED


async def test_an_old_credential_that_is_heard_stays_and_the_new_one_waits_for_an_operator(tmp_path):
    async with running(tmp_path, world=HOLD) as site:
        old = await confirmed(site, "1" * 32)
        new = await activated(site, "2" * 32)
        await new.online()
        assert (await old.report(desired_rev=1))["ok"]
        site.clock.advance(31)
        assert (await new.online())["code"] == codes.CONFLICT
        assert site.counted("clone_suspected") == 1
        assert row(site, new.credential_id).awaits_operator
        device = site.store.device("line-1", "sn-1")
        approved = tuple(
            replace(one, approved=True) if one.credential_id == new.credential_id else one for one in device.credentials
        )
        site.store.add(replace(device, credentials=approved))
        assert (await new.online())["ok"]


async def test_silence_before_a_restart_of_the_service_proves_nothing(tmp_path):
    async with running(tmp_path, world=HOLD) as site:
        old = await confirmed(site, "1" * 32)
        new = await activated(site, "2" * 32)
        await new.online()
        await site.op.next(topics.down("c", old.credential_id, "desired"))
        site.clock.advance(40)
        site.pipeline.link_connected(site.op)  # as at a start: nothing from before was heard
        site.clock.advance(1)
        assert (await new.online())["code"] == codes.CONFLICT
        await site.op.next(topics.down("c", old.credential_id, "desired"))  # asked anew
        site.clock.advance(30)
        assert (await new.online())["ok"]


@pytest.mark.parametrize("when", ["before it is held", "while it is held"])
async def test_a_clock_that_is_set_back_holds_nobody_longer(tmp_path, when):
    async with running(tmp_path, world=HOLD) as site:
        await confirmed(site, "1" * 32)
        if when == "before it is held":
            site.clock.now -= timedelta(days=365)
        new = await activated(site, "2" * 32)
        assert (await new.online())["code"] == codes.CONFLICT
        if when == "while it is held":
            site.clock.now -= timedelta(days=365)
            assert (await new.online())["code"] == codes.CONFLICT  # its 30 seconds begin anew
        site.clock.advance(30)
        assert (await new.online())["ok"]


async def test_an_announced_move_needs_no_hold(tmp_path):
    async with running(tmp_path, world=HOLD) as site:
        old = await confirmed(site, "1" * 32)
        new = await activated(site, "2" * 32)
        assert (await old.report(moving=new.credential_id))["ok"]
        assert (await new.online())["ok"]


async def test_policy_operator_waits_for_approval_each_time(tmp_path):
    async with running(tmp_path, world=catalogue(group(reactivation=Reactivation.OPERATOR))) as site:
        await confirmed(site, "1" * 32)
        new = await activated(site, "2" * 32)
        for _ in range(2):
            reply = await new.online()
            assert reply["code"] == codes.CONFLICT
            site.clock.advance(100)
        assert row(site, new.credential_id).awaits_operator
        assert site.counted("operator_needed") == 1


async def test_a_credential_of_another_environment_than_the_things_is_not_confirmed(tmp_path):
    async with running(tmp_path) as site:
        peer = await activated(site)
        device = site.store.device("line-1", "sn-1")
        site.store.add(replace(device, thing=replace(device.thing, environment="elsewhere")))
        assert (await peer.online())["code"] == codes.CONFLICT
        site.store.add(replace(device, thing=replace(device.thing, holder_device_id="another")))
        assert (await peer.online())["code"] == codes.CONFLICT


async def test_the_document_comes_until_the_device_has_it_and_its_revision_rises_with_its_content(tmp_path):
    async with running(tmp_path) as site:
        peer = await activated(site)
        assert peer.document((await peer.online())["desired"])["rev"] == 1
        assert peer.document((await peer.online())["desired"])["rev"] == 1
        assert "desired" not in await peer.online(desired_rev=1)
        site.set_catalogue(catalogue(target=OLD))
        reply = await peer.report(desired_rev=1)
        assert peer.document(reply["desired"]) == {
            **peer.document(reply["desired"]),
            "rev": 2,
        }
        assert peer.document(reply["desired"])["firmware"]["version_id"] == OLD.version_id


async def test_a_device_that_reports_a_higher_revision_is_gone_on_from(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        assert peer.document((await peer.online(desired_rev=41))["desired"])["rev"] == 42
        assert "desired" not in await peer.report(desired_rev=42)


async def test_a_target_that_is_taken_away_gives_an_empty_document(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        site.set_catalogue(catalogue(target=None))
        assert peer.document((await peer.report(desired_rev=1))["desired"]) == {"rev": 2}


async def test_a_change_of_encoding_raises_the_revision(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        peer.encoding = "json"
        assert peer.document((await peer.online(desired_rev=1))["desired"])["rev"] == 2


async def test_a_changed_target_is_pushed_to_who_is_online_within_a_tick(tmp_path):
    devices = [registered("sn-1"), registered("sn-2")]
    async with running(tmp_path, devices=devices, world=catalogue(target=None)) as site:
        peer = await confirmed(site)
        silent = Peer(site, "sn-2")
        await silent.activate()
        await site.pipeline.ticker.tick()
        site.set_catalogue(catalogue())
        await site.pipeline.ticker.tick()
        push = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "desired")))
        assert set(push) == {"desired"}
        assert peer.document(push["desired"])["rev"] == 1
        await site.settle()
        assert not [topic for topic, _ in site.op.published if silent.credential_id in topic]
        await site.pipeline.ticker.tick()
        await site.settle()
        assert site.counted("desired_pushed") == 1


async def test_small_verbs(tmp_path):
    async with running(tmp_path) as site:
        peer = await activated(site)
        assert "version" not in await peer.ask("c", "current", {})
        assert peer.document((await peer.ask("c", "target", {}))["desired"])["firmware"]["name"] == "2.0"
        reply = await peer.ask("c", "installed", {"n": 1, "version_id": NEW.version_id, "boot_count": 2})
        expected = {"version_id": NEW.version_id, "name": "2.0", "description": "Release 2.0"}
        assert reply["version"] == expected
        assert (await peer.ask("c", "current", {}))["version"] == expected
        assert (await peer.ask("c", "rename", {"n": 2, "name": "Küche"}))["name"] == "Küche"
        device = site.store.device("line-1", "sn-1")
        assert device.thing.name == "Küche"
        assert device.firmware.state is FirmwareState.CONFIRMED
        site.set_catalogue(catalogue(target=None))
        assert (await peer.ask("c", "target", {}))["code"] == codes.NO_TARGET


async def reported(peer, *states, boot_count=None):
    for state in states:
        extra = {} if boot_count is None else {"boot_count": boot_count}
        reply = await peer.report(desired_rev=1, firmware={"state": state, "version_id": NEW.version_id}, **extra)
        assert reply["ok"], reply


def firmware(site):
    return site.store.device("line-1", "sn-1").firmware


async def test_confirmed_needs_a_boot_above_the_one_of_installing(tmp_path):
    async with running(tmp_path, bounds=QUICK) as site:
        peer = await confirmed(site)
        await reported(peer, "accepted", "downloading", "verified", "installing", "rebooting")
        await peer.online(firmware={"version_id": NEW.version_id})
        assert firmware(site).state is FirmwareState.REBOOTING
        await reported(peer, "confirmed")  # its word alone is not taken
        assert firmware(site).state is FirmwareState.REBOOTING
        peer.boot_count = 2
        await peer.online(firmware={"version_id": NEW.version_id})
        assert firmware(site).state is FirmwareState.CONFIRMED
        assert firmware(site).confirmed_seq == 2
        assert site.counted("firmware_confirmed") == 1


async def test_the_old_version_seen_after_rebooting_is_rolled_back(tmp_path):
    async with running(tmp_path, bounds=QUICK) as site:
        peer = await confirmed(site)
        await reported(peer, "installing", "rebooting")
        peer.boot_count = 2
        await peer.online(firmware={"version_id": OLD.version_id})
        assert firmware(site).state is FirmwareState.ROLLED_BACK
        assert site.store.device("line-1", "sn-1").thing.installed_version_id == OLD.version_id


async def test_the_old_version_seen_while_installing_was_only_a_power_cut(tmp_path):
    async with running(tmp_path, bounds=QUICK) as site:
        peer = await confirmed(site)
        await reported(peer, "installing")
        peer.boot_count = 2
        await peer.online(firmware={"name": "factory"})
        assert firmware(site).state is FirmwareState.INSTALLING
        await reported(peer, "installing", "rebooting", boot_count=2)
        await peer.online(firmware={"version_id": NEW.version_id})
        assert firmware(site).state is FirmwareState.REBOOTING


async def test_installed_before_a_boot_confirms_nothing(tmp_path):
    async with running(tmp_path, bounds=QUICK) as site:
        peer = await confirmed(site)
        await reported(peer, "installing")
        peer.n += 1
        assert (await peer.ask("c", "installed", {"n": peer.n, "version_id": NEW.version_id}))["ok"]
        assert firmware(site).state is FirmwareState.INSTALLING


async def test_a_failed_update_is_kept_with_its_cause(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        await peer.report(firmware={"state": "failed", "version_id": NEW.version_id, "cause": "sha256"})
        assert (firmware(site).state, firmware(site).cause) == (FirmwareState.FAILED, "sha256")
        assert [one.step for one in site.store.traces][-1] == "firmware_failed"
