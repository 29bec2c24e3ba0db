"""A device is sent to another environment, and ends there or stays where it was."""

from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import codes, topics
from service.domain import placement
from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind, CredentialState
from service.domain.group import Reactivation
from service.mqtt.port import Role
from tests.support.pipeline_site import Peer, catalogue, group, running

EAST = Environment(
    "east", {CredentialKind.API_KEY: Endpoint("east.example", 8883, False)},
    bootstrap=(Endpoint("boot.east.example", 8883, False),),
)  # fmt: skip


def two_places(**fields):
    world = catalogue(group(**fields), target=None)
    return replace(world, environments={**world.environments, "east": EAST})


def device_of(site):
    return site.store.device("line-1", "sn-1")


def kinds(site):
    return [one.kind for one in site.store.events]


async def in_service(site, session="1" * 32):
    peer = Peer(site)
    peer.session = session
    assert (await peer.activate())["ok"]
    assert (await peer.online())["ok"]
    return peer


async def command(site, **asked):
    """What an operator's `reprovision` saves."""
    async with site.store.batch() as batch:
        before = device_of(site)
        after, events = placement.reprovision(before, site.store.catalogue, site.clock.now, **asked)
        await batch.save(Changes(devices=((before, after),), events=events))
    await site.pipeline.ticker.tick()
    await site.settle()


async def pushed(site, peer):
    message = peer.unpack(
        await site.links[peer.at, Role.OPERATIONAL].next(topics.down("c", peer.credential_id, "desired"))
    )
    return peer.document(message["desired"])


def elsewhere(site, session="2" * 32):
    """The same device at the new environment's bootstrap broker."""
    peer = Peer(site)
    peer.session, peer.at, peer.boot_count = session, "east", 2
    return peer


async def test_a_connected_device_is_pushed_its_new_place_and_ends_there(tmp_path):
    async with running(tmp_path, world=two_places(reactivation=Reactivation.HOLD)) as site:
        peer = await in_service(site)
        name = device_of(site).thing.name
        await command(site, ou="acme/b", environment="east", deadline=timedelta(hours=2), command_id="c1")
        doc = await pushed(site, peer)
        end = {"host": "east.example", "port": 8883, "tls": False}
        assert doc["placement"] == {
            "ou": "acme/b", "environment": "east", "endpoint": end,
            "bootstrap": [{**end, "host": "boot.east.example"}], "deadline_s": 7200,
        }  # fmt: skip
        assert (await peer.report(desired_rev=doc["rev"], placement={"state": "accepted"}))["ok"]
        new = elsewhere(site)
        assert (await new.activate())["ok"]
        assert (new.grant["environment"], new.grant["ou"], new.grant["endpoint"]) == ("east", "acme/b", end)
        assert device_of(site).thing.environment == "prod"
        reply = await new.online()
        assert (reply["ok"], reply["environment"], reply["ou"]) == (True, "east", "acme/b")
        thing = device_of(site).thing
        assert (thing.environment, thing.ou, thing.move, thing.name) == ("east", "acme/b", None, name)
        assert kinds(site) == ["activated", "confirmed", "move_started", "confirmed", "moved"]
        assert site.store.events[-1].command_id == "c1"
        await site.settle()
        await site.pipeline.revoker.revoke_all()
        assert (set(site.gates["prod"].logins), set(site.gates["east"].logins)) == (set(), {new.credential_id})


async def test_a_sleeping_device_hears_of_its_move_at_its_next_contact(tmp_path):
    async with running(tmp_path, world=two_places()) as site:
        peer = await in_service(site)
        await command(site, environment="east")
        site.op.published.clear()
        reply = await peer.online()
        assert peer.document(reply["desired"])["placement"]["environment"] == "east"


async def test_a_device_that_lost_its_credential_goes_to_the_new_place_by_its_factory_bootstrap(tmp_path):
    async with running(tmp_path, world=two_places()) as site:
        await in_service(site)
        await command(site, environment="east")
        again = Peer(site)
        again.session, again.boot_count = "2" * 32, 2
        assert (await again.activate())["ok"]
        assert again.grant["environment"] == "east"


async def test_a_device_that_comes_back_reports_why_and_stays_where_it_was(tmp_path):
    async with running(tmp_path, world=two_places()) as site:
        peer = await in_service(site)
        await command(site, environment="east", command_id="c1")
        rev = (await pushed(site, peer))["rev"]
        waiting = elsewhere(site)
        assert (await waiting.activate())["ok"]
        said = {"state": "failed", "cause": "unreachable"}
        reply = await peer.report(desired_rev=rev - 1, placement=said)
        assert device_of(site).thing.move is not None  # about an older document
        reply = await peer.report(desired_rev=rev, placement=said)
        assert "placement" not in peer.document(reply["desired"])
        assert (device_of(site).thing.environment, device_of(site).thing.move) == ("prod", None)
        failed = site.store.events[-1]
        assert (failed.kind, failed.command_id, failed.data["cause"]) == ("move_failed", "c1", "unreachable")
        assert [one.state for one in device_of(site).credentials] == [
            CredentialState.CONFIRMED,
            CredentialState.DROPPED,
        ]


async def change_settings(site):
    """A change that has nothing to do with the move raises the document's revision."""
    async with site.store.batch() as batch:
        before = device_of(site)
        after = replace(before, thing=replace(before.thing, settings={"volume": 3}, settings_rev=1))
        await batch.save(Changes(devices=((before, after),)))


async def on_its_way(site, peer, environment="east"):
    """It has accepted that move; the revision of the document that it has."""
    rev = (await pushed(site, peer))["rev"]
    said = {"state": "accepted", "environment": environment}
    assert (await peer.report(desired_rev=rev, placement=said))["ok"]
    return rev


async def test_what_failed_is_heard_although_the_document_has_changed_since_the_device_left(tmp_path):
    async with running(tmp_path, world=two_places()) as site:
        peer = await in_service(site)
        await command(site, environment="east", command_id="c1")
        rev = await on_its_way(site, peer)
        await change_settings(site)
        assert (await peer.online(desired_rev=rev))["desired"]  # on its way back; it may be busy with something else
        said = {"state": "failed", "environment": "east", "cause": "unreachable"}
        reply = await peer.report(desired_rev=rev, placement=said)
        assert (device_of(site).thing.environment, device_of(site).thing.move) == ("prod", None)
        assert site.store.events[-1].data["cause"] == "unreachable"
        assert "placement" not in peer.document(reply["desired"])


async def test_the_failure_of_an_earlier_move_does_not_end_the_one_that_took_its_place(tmp_path):
    west = replace(EAST, name="west")
    world = two_places()
    world = replace(world, environments={**world.environments, "west": west})
    async with running(tmp_path, world=world) as site:
        peer = await in_service(site)
        await command(site, environment="east")
        rev = await on_its_way(site, peer)
        await command(site, environment="west")
        said = {"environment": "east", "cause": "unreachable"}
        for state in ("accepted", "failed"):
            assert (await peer.report(desired_rev=rev, placement={"state": state, **said}))["ok"]
        move = device_of(site).thing.move
        assert (move.environment, move.announced) == ("west", False)


async def test_after_the_deadline_the_new_place_lets_nobody_in_and_the_old_one_goes_on(tmp_path):
    async with running(tmp_path, world=two_places()) as site:
        peer = await in_service(site)
        await command(site, environment="east", deadline=timedelta(minutes=1))
        late = elsewhere(site)
        assert (await late.activate())["ok"]
        site.clock.advance(60)
        await site.pipeline.ticker.tick()
        await site.settle()
        assert site.store.events[-1].data["cause"] == "deadline"
        site.links["east", Role.OPERATIONAL].send(
            topics.up("c", late.credential_id, "online"),
            late.pack({"id": "1", "n": 1, "boot_count": 2, "desired_rev": 0, "caps": []}),
        )
        assert (await peer.online())["ok"]
        assert device_of(site).thing.environment == "prod"
        assert not site.links["east", Role.OPERATIONAL].published  # a dropped credential is not even answered


async def test_a_move_that_was_taken_back_is_withdrawn_from_the_document(tmp_path):
    async with running(tmp_path, world=two_places()) as site:
        peer = await in_service(site)
        await command(site, environment="east")
        assert "placement" in await pushed(site, peer)
        await command(site, environment="prod")
        assert "placement" not in await pushed(site, peer)
        assert device_of(site).thing.environment == "prod"


async def test_a_move_that_nobody_announced_is_held_like_any_reactivation(tmp_path):
    async with running(tmp_path, world=two_places(reactivation=Reactivation.HOLD)) as site:
        await in_service(site)
        await command(site, environment="east")
        new = elsewhere(site)
        assert (await new.activate())["ok"]
        reply = await new.online()
        assert (reply["code"], reply["retry_after_s"]) == (codes.CONFLICT, 30)
        site.clock.advance(31)
        assert (await new.online())["ok"]
        assert device_of(site).thing.environment == "east"


async def test_another_ou_inside_the_environment_needs_no_reconnect(tmp_path):
    async with running(tmp_path, world=two_places()) as site:
        peer = await in_service(site)
        await command(site, ou="acme/b")
        assert (await peer.online())["ou"] == "acme/b"
        assert kinds(site)[-1] == "moved"


@pytest.mark.parametrize("again", [False, True])
async def test_renewal_during_a_move_stays_in_the_old_place(tmp_path, again):
    async with running(tmp_path, world=two_places()) as site:
        peer = await in_service(site)
        await command(site, environment="east")
        peer.nonce = bytes(16)
        assert (await peer.activate("c"))["ok"]
        assert peer.grant["environment"] == "prod"
        peer.n = 0
        assert (await peer.online())["ok"]
        assert device_of(site).thing.move is not None
        assert kinds(site)[-1] == "renewed"
        if again:
            new = elsewhere(site)
            assert (await new.activate())["ok"]
            assert (await new.online())["ok"]
            assert device_of(site).thing.environment == "east"
