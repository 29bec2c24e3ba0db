"""Changing a group's policies: what may change, within which bounds, and that the running service hears of it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from service.domain import desired
from service.domain.changes import Changes
from service.domain.device import Firmware
from service.domain.group import Group, KeyKind, Reactivation
from service.operations import devices, groups
from service.storage.store import SqlStore
from tests.support.commands import seed
from tests.support.refusals import refused
from tests.support.releases import add, sign
from tests.support.storage import DERIVED, GROUP, PRODUCT

FAILOVER = {"failover_environment": "backup", "failover_ou": "acme/backup", "failover_after_s": 300}


async def test_policies_change_and_the_group_stays_who_it_is(database):
    store = SqlStore(database, {})
    before = (await store.catalogue()).groups[DERIVED.group_id]
    wanted = {
        "self_registration": True,
        "self_quota": 10,
        "serial_pattern": "TH-*",
        "quarantine_ou": "acme/q",
        **FAILOVER,
    }
    await groups.change(database, DERIVED.group_id, wanted)
    after = (await store.catalogue()).groups[DERIVED.group_id]
    assert {name: getattr(after, name) for name in wanted} == wanted
    assert (after.secret, after.key_kind, after.product_id) == (before.secret, before.key_kind, before.product_id)
    await groups.change(database, DERIVED.group_id, {"self_quota": None, "hook": "https://example.org/hook"})
    found = (await groups.show(database, DERIVED.group_id)).group
    assert (found.self_quota, found.serial_pattern, found.hook) == (None, "TH-*", "https://example.org/hook")


async def test_a_change_that_changes_nothing_bothers_nobody(database):
    store = SqlStore(database, {})
    before = (await store.catalogue()).rev
    await groups.change(database, GROUP.group_id, {"default_ou": GROUP.default_ou})
    assert (await store.catalogue()).rev == before


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, "group_change_illegal"),
        ({"secret": None}, "group_change_illegal"),
        ({"key_kind": KeyKind.GROUP}, "group_change_illegal"),
        ({"self_registration": True}, "self_registration_illegal"),
        ({"self_quota": -1}, "self_quota_illegal"),
        ({"self_quota": 10_000_001}, "self_quota_illegal"),
        ({"serial_pattern": ""}, "serial_pattern_illegal"),
        ({"serial_pattern": "  "}, "serial_pattern_illegal"),
        ({"serial_pattern": "x" * 201}, "serial_pattern_illegal"),
        ({"quarantine_ou": "a//b"}, "ou_illegal"),
        ({"hook": "ftp://x"}, "hook_illegal"),
        ({"hook": "python:"}, "hook_illegal"),
        ({"hook": "https://a b"}, "hook_illegal"),
        ({"failover_after_s": 300}, "failover_incomplete"),
        ({"failover_environment": "backup"}, "failover_incomplete"),
        ({**FAILOVER, "failover_after_s": 299}, "failover_illegal"),
        ({"credential_life_s": 3599}, "credential_life_illegal"),
        ({"default_environment": "a/b"}, "environment_illegal"),
        ({"template_settings": {"": 1}}, "settings_illegal"),
        ({"template_settings": {"a": None}}, "settings_illegal"),
        ({"template_settings": {"a": 1.5}}, "settings_illegal"),
        ({"template_settings": {"a": "x" * 4096}}, "settings_illegal"),
    ],
)
async def test_a_wrong_change_changes_nothing(database, changes, cause):
    before = (await groups.show(database, GROUP.group_id)).group
    assert await refused(groups.change(database, GROUP.group_id, changes)) == ("BAD_REQUEST", cause)
    assert (await groups.show(database, GROUP.group_id)).group == before


async def test_a_group_of_one_shared_key_keeps_its_operator(database):
    shared = Group("shared", PRODUCT.product_id, KeyKind.GROUP, reactivation=Reactivation.OPERATOR)
    await groups.create(database, shared, random_bytes=os.urandom)
    found = await refused(groups.change(database, "shared", {"reactivation": Reactivation.OPEN}))
    assert found == ("BAD_REQUEST", "group_needs_operator")


async def test_an_unknown_group_is_not_changed(database):
    assert await refused(groups.change(database, "nowhere", {"self_quota": 1})) == ("NOT_FOUND", "group_unknown")


@pytest.mark.usefixtures("trusted")
async def test_a_group_s_target_is_that_of_its_devices_until_it_is_cleared(database, images, image, key, commands):
    old = await add(database, images, image, sign(image, key), target=True)
    image.write_bytes(b"next")
    new = await add(database, images, image, sign(image, key, name="2.1", seq=3), name="2.1")
    await seed(database, "sn-1")

    async def wanted():
        device = await devices.show(database, "sn-1")
        return desired.wanted_version(device, await SqlStore(database, {}).catalogue())

    assert await wanted() == old.version
    for name in ("2.1", new.version.version_id):
        await groups.change(database, GROUP.group_id, {"target_version_id": name})
        assert await wanted() == new.version
        assert (await groups.show(database, GROUP.group_id)).target == "2.1"
    assert await refused(groups.change(database, GROUP.group_id, {"target_version_id": "9"})) == (
        "NOT_FOUND",
        "version_unknown",
    )
    await groups.change(database, GROUP.group_id, {"target_version_id": None})
    assert await wanted() == old.version
    async with SqlStore(database, {}).batch() as batch:
        before = await devices.show(database, "sn-1")
        await batch.save(Changes(devices=((before, replace(before, firmware=Firmware(confirmed_seq=4))),)))
    lower = groups.change(database, GROUP.group_id, {"target_version_id": "2.1"})
    assert await refused(lower) == ("CONFLICT", "target_seq_lower")
