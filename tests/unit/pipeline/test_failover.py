"""A device whose environment is gone ends at other bootstrap brokers and, by its group's policy, in another place."""

from __future__ import annotations

from dataclasses import replace

from device_sdk.wire import codes
from service.domain.catalogue import Endpoint, Environment
from service.domain.credential import CredentialKind, CredentialState
from service.domain.group import Reactivation
from tests.support.pipeline_site import Peer, catalogue, group, running

EAST = Environment("east", {CredentialKind.API_KEY: Endpoint("east.example", 8883, tls=False)})
POLICY = {"failover_environment": "east", "failover_after_s": 600}


def two_places(**fields):
    world = catalogue(group(**fields), target=None)
    return replace(world, environments={**world.environments, "east": EAST})


async def in_service(site):
    peer = Peer(site)
    assert (await peer.activate())["ok"]
    assert (await peer.online())["ok"]
    return peer


async def asks(peer, at, session):
    """It powers up anew and asks at that environment's bootstrap brokers; where it is told to go."""
    peer.at, peer.session, peer.n = at, session * 32, 0
    peer.boot_count += 1
    assert (await peer.activate())["ok"]
    return peer.grant["environment"]


async def test_a_lost_device_fails_over_and_stays_until_it_has_waited_for_long(tmp_path):
    async with running(tmp_path, world=two_places(**POLICY)) as site:
        peer = await in_service(site)
        site.clock.advance(590)
        assert await asks(peer, "east", "1") == "prod"  # it is sent home first
        site.clock.advance(61)
        assert await asks(peer, "east", "2") == "east"
        assert (await peer.online())["ok"]
        thing = site.store.device("line-1", "sn-1").thing
        assert (thing.environment, thing.home_environment, thing.move) == ("east", "prod", None)
        assert [one.kind for one in site.store.events][-3:] == ["failed_over", "confirmed", "moved"]
        site.clock.advance(900)  # east is gone too, but it has been there for a quarter of an hour only
        assert await asks(peer, "prod", "3") == "east"
        site.clock.advance(61)
        assert await asks(peer, "prod", "4") == "east"
        site.clock.advance(3600)
        assert await asks(peer, "prod", "5") == "prod"


async def test_the_policy_operator_does_not_stand_in_the_way_where_the_service_finds_the_place_closed(tmp_path):
    world = two_places(**POLICY, reactivation=Reactivation.OPERATOR, failover_ou="acme/backup")
    async with running(tmp_path, world=world) as site:
        peer = await in_service(site)
        site.clock.advance(590)
        await asks(peer, "east", "1")
        site.clock.advance(61)
        assert await asks(peer, "east", "2") == "east"
        assert (await peer.online())["code"] == codes.CONFLICT  # only the device says so: an operator is asked
        assert site.store.events[-1].kind == "operator_needed"
        site.pipeline.link_state("prod", connected=False)
        site.clock.advance(600)
        assert await asks(peer, "east", "3") == "east"
        assert (await peer.online())["ok"]
        thing = site.store.device("line-1", "sn-1").thing
        assert (thing.environment, thing.ou, thing.home_ou) == ("east", "acme/backup", "acme")


async def test_a_device_that_does_not_arrive_there_belongs_where_it_was(tmp_path):
    async with running(tmp_path, world=two_places(**POLICY)) as site:
        peer = await in_service(site)
        old = peer.credential_id
        site.clock.advance(590)
        await asks(peer, "east", "1")
        site.clock.advance(61)
        assert await asks(peer, "east", "2") == "east"
        device = site.store.device("line-1", "sn-1")
        assert device.thing.environment == "prod"
        assert {one.credential_id: one.state for one in device.credentials}[old] is CredentialState.CONFIRMED
        peer.at, peer.credential_id, peer.n = "prod", old, 10
        assert (await peer.online())["ok"]


async def test_without_a_policy_a_device_is_sent_home_each_time(tmp_path):
    async with running(tmp_path, world=two_places()) as site:
        peer = await in_service(site)
        for session in "123":
            site.clock.advance(3600)
            assert await asks(peer, "east", session) == "prod"


async def test_a_link_that_is_down_for_the_whole_time_is_evidence_at_the_own_door(tmp_path):
    async with running(tmp_path, world=two_places(**POLICY)) as site:
        peer = await in_service(site)
        site.pipeline.link_state("prod", connected=False)
        site.clock.advance(599)
        assert await asks(peer, "prod", "1") == "prod"
        site.pipeline.link_state("prod", connected=False)
        site.clock.advance(2)
        assert await asks(peer, "prod", "2") == "east"


async def test_a_link_that_came_back_is_no_evidence(tmp_path):
    async with running(tmp_path, world=two_places(**POLICY)) as site:
        peer = await in_service(site)
        site.pipeline.link_state("prod", connected=False)
        site.clock.advance(700)
        site.pipeline.link_state("prod", connected=True)
        assert await asks(peer, "prod", "1") == "prod"
