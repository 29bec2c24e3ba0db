"""Devices that nobody registered: quota, pattern and quarantine of their group."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from device_sdk.wire import keys
from service.domain import self_registration
from service.domain.device import DeviceState
from service.domain.group import KeyKind
from service.errors import Secret, ServiceError
from tests.support.pipeline_site import Peer, catalogue, group, running

SECRET = b"the group's secret, 32 bytes long"[:32]


def open_group(**fields):
    return group(key_kind=KeyKind.DERIVED, secret=Secret(SECRET), self_registration=True, **fields)


def newcomer(site, serial):
    return Peer(site, serial, key=keys.derive_key(SECRET, serial))


def site_of(folder, **fields):
    return running(folder, devices=(), world=catalogue(open_group(**fields)))


async def test_a_burned_device_comes_in_by_itself(tmp_path):
    async with site_of(tmp_path) as site:
        peer = newcomer(site, "TH-1")
        assert (await peer.activate())["ok"]
        assert (await peer.online())["ok"]
        assert [one.kind for one in site.store.events] == ["registered", "activated", "confirmed"]
        assert site.store.device("line-1", "TH-1").state is DeviceState.CONFIRMED


async def test_the_quota_holds_also_within_one_batch(tmp_path):
    async with site_of(tmp_path, self_quota=3) as site:
        replies = await asyncio.gather(*(newcomer(site, f"TH-{n}").activate() for n in range(5)))
        assert [reply.get("code") for reply in replies].count("NOT_ALLOCATED") == 2
        assert len(site.store.devices) == 3
        assert site.store.counters["self_quota_used"] == 2
        assert site.store.self_registered == {"line-1": 3}


async def test_a_registered_device_needs_no_quota_and_takes_none(tmp_path):
    async with site_of(tmp_path, self_quota=1) as site:
        first = newcomer(site, "TH-1")
        assert (await first.activate())["ok"]
        first.boot_count += 1
        assert (await first.activate())["ok"]
        assert site.store.self_registered == {"line-1": 1}


async def test_a_raised_quota_lets_the_next_one_in(tmp_path):
    async with site_of(tmp_path, self_quota=0) as site:
        peer = newcomer(site, "TH-1")
        refused = await peer.activate()
        assert refused["code"] == "NOT_ALLOCATED"
        assert 300 <= refused["retry_after_s"] <= 900
        site.set_catalogue(catalogue(open_group(self_quota=1)))
        assert (await peer.activate())["ok"]


async def test_a_serial_that_does_not_fit_waits_in_quarantine(tmp_path):
    async with site_of(tmp_path, serial_pattern="TH-[0-9]*", quarantine_ou="acme/quarantine") as site:
        good, odd = newcomer(site, "TH-1"), newcomer(site, "XX-1")
        assert (await good.activate())["ok"]
        assert (await odd.activate())["ok"]
        assert (good.grant["ou"], odd.grant["ou"]) == ("acme", "acme/quarantine")
        assert [(one.kind, one.ou) for one in site.store.events if one.serial == "XX-1"] == [
            ("registered", "acme/quarantine"), ("activated", "acme/quarantine"), ("quarantined", "acme/quarantine"),
        ]  # fmt: skip


async def test_without_a_quarantine_such_a_serial_is_refused(tmp_path):
    async with site_of(tmp_path, serial_pattern="TH-[0-9]*") as site:
        assert (await newcomer(site, "XX-1").activate())["code"] == "NOT_ALLOCATED"
        assert site.store.devices == {}
        assert site.store.counters["serial_not_allowed"] == 1


async def test_who_proves_nothing_learns_nothing_of_the_quota(tmp_path):
    async with site_of(tmp_path, self_quota=0) as site:
        assert (await Peer(site, "TH-1", key=bytes(32)).activate())["code"] == "REFUSED"


@pytest.mark.parametrize(
    ("pattern", "serial", "fits"),
    [
        ("TH-*", "TH-1", True),
        ("TH-*", "th-1", False),
        ("TH-?", "TH-12", False),
        ("TH-* SN-[0-9][0-9]", "SN-07", True),
        ("TH-* SN-[0-9][0-9]", "SN-7", False),
        ("", "TH-1", False),
    ],
)
def test_a_pattern_is_one_of_a_shell(pattern, serial, fits):
    assert self_registration.matches(pattern, serial) is fits


def test_no_pattern_takes_long():
    assert not self_registration.matches("*a" * 60 + "b", "a" * 128)


def test_the_last_place_of_a_quota_is_one():
    of = replace(open_group(), self_quota=2)
    assert self_registration.quarantine_of(of, "TH-1", 1) is None
    with pytest.raises(ServiceError):
        self_registration.quarantine_of(of, "TH-1", 2)
