"""A retired device is told to wipe its credentials; one that is never heard of again loses them all the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import codes, topics
from service.domain import retirement
from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.device import DeviceState
from service.domain.group import Reactivation
from service.errors import ServiceError
from tests.support.pipeline_site import Peer, catalogue, group, registered, running


def device_of(site):
    return site.store.device("line-1", "sn-1")


async def in_service(site):
    peer = Peer(site)
    assert (await peer.activate())["ok"]
    assert (await peer.online())["ok"]
    return peer


async def retire(site, **asked):
    """What an operator's `retire` saves."""
    async with site.store.batch() as batch:
        before = device_of(site)
        after, events = retirement.retire(before, site.clock.now, **asked)
        await batch.save(Changes(devices=((before, after),), events=events))
    await tick(site)


async def tick(site):
    await site.pipeline.ticker.tick()
    await site.settle()


def states(site):
    return [one.state for one in device_of(site).credentials]


async def test_a_connected_device_is_told_the_operator_s_reason_and_its_credential_goes_when_it_has_heard(tmp_path):
    async with running(tmp_path, world=catalogue(target=None)) as site:
        peer = await in_service(site)
        await retire(site, reason="sold to acme", command_id="c1")
        pushed = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "desired")))
        doc = peer.document(pushed["desired"])
        assert doc == {"rev": doc["rev"], "retired": {"reason": "sold to acme"}}
        assert states(site) == [CredentialState.CONFIRMED]
        assert (await peer.report(desired_rev=doc["rev"]))["ok"]
        assert states(site) == [CredentialState.DROPPED]
        assert device_of(site).retire_deadline_at is None
        await site.pipeline.revoker.revoke_all()
        assert not site.gate.logins
        assert site.counted("retirement_heard") == 1
        assert [one.kind for one in site.store.events][-1] == "retired"


async def test_a_device_whose_last_word_is_lost_does_not_keep_its_credential(tmp_path):
    async with running(tmp_path, world=catalogue(target=None)) as site:
        peer = await in_service(site)
        await retire(site, deadline=timedelta(hours=1))
        site.clock.advance(3599)
        await tick(site)
        assert states(site) == [CredentialState.CONFIRMED]
        site.clock.advance(1)
        await tick(site)
        assert states(site) == [CredentialState.DROPPED]
        await site.pipeline.revoker.revoke_all()
        assert not site.gate.logins
        assert [one.kind for one in site.store.events][-1] == "retirement_unheard"
        await tick(site)
        assert site.counted("retirement_unheard") == 1
        again = Peer(site)
        again.session, again.nonce = "5" * 32, b"n" * 16
        assert (await again.activate())["code"] == codes.RETIRED
        assert peer.credential_id == device_of(site).credentials[0].credential_id


async def test_what_waits_beside_the_credential_in_use_is_dropped_at_once(tmp_path):
    async with running(tmp_path, world=catalogue(group(reactivation=Reactivation.HOLD), target=None)) as site:
        await in_service(site)
        again = Peer(site)
        again.session, again.nonce, again.boot_count = "5" * 32, b"n" * 16, 2
        assert (await again.activate())["ok"]
        await retire(site)
        assert states(site) == [CredentialState.CONFIRMED, CredentialState.DROPPED]


def test_who_never_spoke_has_nothing_to_wait_for_and_a_second_word_changes_nothing():
    before = registered()
    after, events = retirement.retire(before, before.registered_at, reason="broken", command_id="c1")
    assert (after.state, after.retire_deadline_at, after.retired_reason) == (DeviceState.RETIRED, None, "broken")
    assert [(one.kind, one.command_id, one.data) for one in events] == [("retired", "c1", {"reason": "broken"})]
    assert retirement.retire(after, before.registered_at, reason="another") == (after, ())
    with pytest.raises(ServiceError, match="replaced cannot become retired"):
        retirement.retire(replace(before, state=DeviceState.REPLACED), before.registered_at)


def test_a_transfer_that_was_open_is_told_to_have_failed():
    before = replace(registered(), rekey=True, rekey_command_id="c0")
    after, events = retirement.retire(before, before.registered_at, command_id="c1")
    assert (after.rekey, after.rekey_command_id) == (False, None)
    assert [(one.kind, one.command_id) for one in events] == [("transfer_failed", "c0"), ("retired", "c1")]
    assert events[0].data == {"cause": "retired"}
