"""A new device takes over a thing while the old one is alive, dead or late."""

from datetime import timedelta

import pytest

from device_sdk.wire import codes
from service.domain import replacement
from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.device import DeviceState
from tests.support.pipeline_site import NEW, OLD, Peer, catalogue, group, registered, running


def of(site, serial):
    return site.store.device("line-1", serial)


async def in_service(site, serial="sn-1"):
    peer = Peer(site, serial)
    assert (await peer.activate())["ok"]
    assert (await peer.online())["ok"]
    return peer


async def command(site, decide, *serials, **asked):
    """What an operator's `replace` or `undo-replace` saves."""
    async with site.store.batch() as batch:
        old, new = (of(site, one) for one in serials or ("sn-1", "sn-2"))
        *after, events = decide(old, new, site.clock.now, **asked)
        pairs = tuple(pair for pair in zip((old, new), after, strict=True) if pair[0] is not pair[1])
        await batch.save(Changes(devices=pairs, events=events))
    await site.pipeline.ticker.tick()
    await site.settle()


DEVICES = [registered(), registered("sn-2"), registered("sn-3")]
# The new device belongs nowhere by itself.
WORLD = catalogue(group(default_ou=None, default_environment=None))
PLACED = [registered(ou="acme", environment="prod"), *DEVICES[1:]]


async def test_the_new_device_becomes_the_thing_and_the_old_one_is_out(tmp_path):
    async with running(tmp_path, world=WORLD, devices=PLACED) as site:
        old = await in_service(site)
        thing = of(site, "sn-1").thing
        new = Peer(site, "sn-2")
        assert (await new.activate())["code"] == codes.NOT_ALLOCATED  # powered up too early
        await command(site, replacement.replace, command_id="c1")
        new.session, new.nonce = "5" * 32, bytes(16)
        assert (await new.activate())["ok"]
        assert (new.grant["thing_id"], new.grant["name"]) == (thing.thing_id, thing.name)
        assert (await old.online())["ok"]  # still in service
        assert (await new.online(firmware={"version_id": OLD.version_id}))["ok"]
        assert of(site, "sn-1").state is DeviceState.REPLACED
        holder = of(site, "sn-2")
        assert (holder.thing.thing_id, holder.thing.holder_device_id) == (thing.thing_id, holder.device_id)
        assert holder.thing.installed_version_id == OLD.version_id
        assert [one.command_id for one in site.store.events if one.kind == "replaced"] == ["c1"]
        await site.settle()
        await site.pipeline.revoker.revoke_all()
        assert set(site.gate.logins) == {new.credential_id}
        old.session, old.nonce = "6" * 32, bytes(16)
        assert (await old.activate())["code"] == codes.REPLACED


async def test_the_holder_may_confirm_again_while_a_successor_waits(tmp_path):
    async with running(tmp_path, world=WORLD, devices=PLACED) as site:
        await in_service(site)
        await command(site, replacement.replace)
        new = Peer(site, "sn-2")
        assert (await new.activate())["ok"]
        again = Peer(site)
        again.session, again.nonce, again.boot_count = "5" * 32, bytes(16), 2
        assert (await again.activate())["ok"]
        assert (await again.online())["ok"]
        assert of(site, "sn-2").credentials[0].state is CredentialState.PENDING
        assert (await new.online())["ok"]
        assert of(site, "sn-1").state is DeviceState.REPLACED


async def test_a_name_given_by_the_holder_meanwhile_is_kept(tmp_path):
    async with running(tmp_path, world=WORLD, devices=PLACED) as site:
        old = await in_service(site)
        await command(site, replacement.replace)
        new = Peer(site, "sn-2")
        assert (await new.activate())["ok"]
        assert (await old.ask("c", "rename", {"n": 2, "name": "Kitchen"}))["ok"]
        assert of(site, "sn-2").thing.name == "Kitchen"
        assert (await new.online())["name"] == "Kitchen"


async def test_after_an_undo_the_new_device_is_nobody_and_the_old_one_goes_on(tmp_path):
    async with running(tmp_path, world=WORLD, devices=PLACED) as site:
        old = await in_service(site)
        await command(site, replacement.replace)
        new = Peer(site, "sn-2")
        assert (await new.activate())["ok"]
        await command(site, replacement.undo)
        assert (await old.online())["ok"]
        assert of(site, "sn-2").state is DeviceState.REGISTERED
        new.session, new.nonce = "5" * 32, bytes(16)
        assert (await new.activate())["code"] == codes.NOT_ALLOCATED
        await site.pipeline.revoker.revoke_all()
        assert set(site.gate.logins) == {old.credential_id}


async def test_a_successor_that_never_appears_is_let_go(tmp_path):
    async with running(tmp_path, world=WORLD, devices=PLACED) as site:
        old = await in_service(site)
        await command(site, replacement.replace, deadline=timedelta(minutes=1))
        site.clock.advance(60)
        await site.pipeline.ticker.tick()
        await site.settle()
        assert site.store.events[-1].kind == "replacement_failed"
        assert of(site, "sn-2").thing is None
        assert of(site, "sn-1").thing.successor_device_id is None
        assert (await old.online())["ok"]


async def test_a_dead_old_device_is_no_obstacle_and_a_chain_goes_on(tmp_path):
    async with running(tmp_path, world=WORLD, devices=PLACED) as site:
        await in_service(site)
        for before, after in (("sn-1", "sn-2"), ("sn-2", "sn-3")):
            await command(site, replacement.replace, before, after)
            peer = Peer(site, after)
            assert (await peer.activate())["ok"]
            assert (await peer.online())["ok"]
        assert [of(site, one).replaced_by for one in ("sn-1", "sn-2")] == [
            of(site, "sn-2").device_id,
            of(site, "sn-3").device_id,
        ]
        assert of(site, "sn-3").thing.holder_device_id == of(site, "sn-3").device_id


@pytest.mark.parametrize("first", ["sn-1", "sn-2"])
async def test_both_in_one_batch_leave_one_holder(tmp_path, first):
    async with running(tmp_path, world=WORLD, devices=PLACED) as site:
        old = await in_service(site)
        await command(site, replacement.replace)
        new = Peer(site, "sn-2")
        assert (await new.activate())["ok"]
        body = {
            "id": "1",
            "n": 9,
            "boot_count": 1,
            "desired_rev": 0,
            "caps": [],
            "firmware": {"version_id": NEW.version_id},
        }
        for peer in (old, new) if first == "sn-1" else (new, old):
            site.op.send(f"pv1/c/{peer.credential_id}/up/online", peer.pack(body))
        await site.settle()
        assert of(site, "sn-1").state is DeviceState.REPLACED
        assert of(site, "sn-1").thing is None
        assert of(site, "sn-2").thing.holder_device_id == of(site, "sn-2").device_id
        assert of(site, "sn-2").thing.installed_version_id == NEW.version_id
