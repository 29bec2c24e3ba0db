"""Two devices under one serial are noticed, and by policy nothing new is let in until an operator looks."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import codes
from service.domain import clone
from service.domain.changes import Changes
from service.domain.group import ClonePolicy, Reactivation
from service.operations.verbs import unfreeze
from tests.support.pipeline_site import Peer, catalogue, group, running

FREEZE = catalogue(group(clone_policy=ClonePolicy.FREEZE))
HOLD_FREEZE = catalogue(group(clone_policy=ClonePolicy.FREEZE, reactivation=Reactivation.HOLD))


def device_of(site):
    return site.store.device("line-1", "sn-1")


def kinds(site):
    return [one.kind for one in site.store.events if one.kind in ("clone_suspected", "frozen")]


async def a_try(site, boot_count):
    """One activation by whichever of the two, and its use."""
    peer = Peer(site)
    mark = f"{boot_count} {len(device_of(site).credentials)}".encode()
    peer.session = hashlib.sha256(mark).hexdigest()[:32]
    peer.nonce, peer.boot_count = hashlib.sha256(mark).digest()[:16], boot_count
    reply = await peer.activate()
    return peer, reply, reply["ok"] and (await peer.online())["ok"]


async def test_two_devices_in_turn_are_suspected_and_frozen(tmp_path):
    async with running(tmp_path, world=FREEZE) as site:
        for boot_count in (50, 3, 51, 4, 52):
            last, _, done = await a_try(site, boot_count)
            assert done
        assert kinds(site) == []
        assert (await a_try(site, 5))[1]["code"] == codes.BLOCKED
        assert kinds(site) == ["clone_suspected", "frozen"]
        assert (await a_try(site, 53))[1]["code"] == codes.BLOCKED
        assert kinds(site) == ["clone_suspected", "frozen"]
        assert (await last.online())["ok"]  # what is confirmed works on


async def test_without_the_policy_it_is_only_told(tmp_path):
    async with running(tmp_path) as site:
        for boot_count in (50, 3, 51, 4, 52, 5, 53):
            assert (await a_try(site, boot_count))[2]
        assert kinds(site) == ["clone_suspected"]
        assert not device_of(site).frozen


async def test_a_wiped_device_that_counts_from_the_start_is_no_clone(tmp_path):
    async with running(tmp_path, world=FREEZE) as site:
        for boot_count in (50, 1, 2, 3, 4, 5, 6):
            assert (await a_try(site, boot_count))[2]
        assert (kinds(site), device_of(site).clone_signs) == ([], 1)


async def test_signs_are_forgotten_after_a_quiet_day(tmp_path):
    async with running(tmp_path, world=FREEZE) as site:
        for boot_count in (50, 3, 51, 4, 52, 5, 53, 6):
            assert (await a_try(site, boot_count))[2]
            site.clock.advance((clone.WINDOW + timedelta(seconds=1)).total_seconds())
        assert kinds(site) == []


async def test_two_devices_with_one_copied_credential_are_suspected(tmp_path):
    async with running(tmp_path, world=FREEZE) as site:
        peer, _, _ = await a_try(site, 9)
        for count in range(clone.ENOUGH):
            assert kinds(site) == []
            assert count == device_of(site).clone_signs
            reply = await peer.online(boot_count=2)
            assert reply["code"] == codes.CONFLICT
        assert kinds(site) == ["clone_suspected", "frozen"]


async def test_two_devices_that_take_each_other_s_counter_over_are_suspected(tmp_path):
    async with running(tmp_path, world=FREEZE) as site:
        peer, _, _ = await a_try(site, 9)
        for boot_count in range(10, 10 + clone.ENOUGH):
            assert kinds(site) == []
            assert (await peer.online(boot_count=boot_count, n=1, id="first-1"))["ok"]
            assert (await peer.online(boot_count=boot_count, n=2, id="first-2"))["ok"]
            for _ in range(2):  # a sign once
                refused = await peer.online(boot_count=boot_count, n=1, id="second-1")
                assert refused["state"] == {"boot_count": boot_count, "n": 2}
            assert (await peer.online(boot_count=boot_count, n=3, id="second-2"))["ok"]
        assert kinds(site) == ["clone_suspected", "frozen"]


async def test_a_late_duplicate_of_a_boot_s_first_request_is_no_sign(tmp_path):
    async with running(tmp_path, world=FREEZE) as site:
        peer, _, _ = await a_try(site, 9)
        for boot_count in range(10, 10 + clone.ENOUGH):
            for n in (1, 2, 1):
                await peer.online(boot_count=boot_count, n=n, id=f"{boot_count}-{n}")
        assert (kinds(site), device_of(site).clone_signs) == ([], 0)


async def test_the_old_credential_heard_while_a_new_one_waits_is_enough(tmp_path):
    async with running(tmp_path, world=HOLD_FREEZE) as site:
        old, _, _ = await a_try(site, 1)
        new, reply, done = await a_try(site, 2)
        assert (reply["ok"], done) == (True, False)
        assert (await old.report())["ok"]
        assert kinds(site) == ["clone_suspected", "frozen"]
        site.clock.advance(3600)
        assert (await new.online())["code"] == codes.CONFLICT
        assert (await old.online())["ok"]


@pytest.mark.parametrize("boot_count", [6, 60])
async def test_an_unfrozen_serial_comes_in_again(tmp_path, boot_count):
    async with running(tmp_path, world=FREEZE) as site:
        for one in (50, 3, 51, 4, 52, 5):
            await a_try(site, one)
        async with site.store.batch() as batch:
            before = device_of(site)
            await batch.save(Changes(devices=((before, replace(before, frozen=False, clone_signs=0, clone_at=None)),)))
        assert (await a_try(site, boot_count))[2]


async def test_signs_that_were_taken_back_count_no_more(tmp_path):
    async with running(tmp_path, world=FREEZE) as site:
        for one in (50, 3, 51, 4):  # two signs
            assert (await a_try(site, one))[2]
        async with site.store.batch() as batch:
            before = device_of(site)
            applied = unfreeze.apply(before, unfreeze.Arguments(), None)
            await batch.save(Changes(devices=((before, applied.device),)))
        for one in (60, 5, 61, 6):
            assert (await a_try(site, one))[2]
        assert (kinds(site), device_of(site).clone_signs) == ([], 2)
