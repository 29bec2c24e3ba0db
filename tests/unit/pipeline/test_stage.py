"""`stage` through the pipeline: who gets a manifest in the warehouse, once, and nowhere else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import codes, keys, limits, packer, topics
from service.domain import manifest, staging
from service.domain.catalogue import STAGED_LIFE
from service.domain.credential import CredentialState
from service.domain.device import DeviceState
from service.domain.group import KeyKind
from service.domain.warehouse import Step
from service.handlers import stage
from service.mqtt.port import Role
from tests.support.fake_link import START
from tests.support.pipeline_site import Peer, catalogue, credentials, group, registered, running
from tests.support.staged_peer import BUILD, StagedPeer, build, change_unit, handed_over, item, step_of


async def test_a_unit_gets_a_credential_for_later_and_its_manifest_in_the_order_of_installation(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        assert (await peer.stage())["ok"]
        assert peer.manifest["manifest_id"] == BUILD.manifest_id
        assert [one["name"] for one in peer.manifest["items"]] == ["licence", "ca", "app"]
        assert peer.manifest["settings"] == {"values": {"network": {"ssid": "hall"}}}
        (row,) = credentials(site)
        assert (row.state, row.expires_at - START) == (CredentialState.PENDING, STAGED_LIFE)
        assert peer.credential_id in site.gate.logins
        assert step_of(site) is Step.STAGED
        assert [one.kind for one in site.store.events] == ["activated", "staged"]


async def test_a_warehouse_may_say_how_long_its_credentials_wait(tmp_path):
    world = catalogue()
    world = replace(world, environments={"prod": replace(world.environments["prod"], staged_life=timedelta(days=30))})
    async with running(tmp_path, devices=[handed_over()], world=world) as site:
        assert (await StagedPeer(site).stage())["ok"]
        (row,) = credentials(site)
        assert row.expires_at - START == timedelta(days=30)


async def test_nothing_of_a_secret_or_of_the_settings_for_later_is_in_the_manifest(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        reply = await StagedPeer(site).stage()
        doc = reply["manifest"]["doc"]
        for secret in (b"licence key", b"salt-and-sea", b"T1"):
            assert secret not in doc


async def test_json_devices_are_staged_as_well(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site, encoding="json")
        assert (await peer.stage())["ok"]
        assert len(peer.manifest["items"]) == 3


@pytest.mark.parametrize("role", [Role.BOOTSTRAP, Role.OPERATIONAL])
async def test_stage_anywhere_else_is_not_in_the_warehouse_and_changes_nothing(tmp_path, role):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = Peer(site)
        await peer.activate()
        before = site.store.device("line-1", "sn-1")
        staged = StagedPeer(site)
        staged.at_role = role
        staged.credential_id = peer.credential_id
        space = "b" if role is Role.BOOTSTRAP else "c"
        reply = await staged.ask(space, "stage", staged.stage_body(await staged.hello()))
        assert reply["code"] == codes.NOT_IN_WAREHOUSE
        assert site.store.device("line-1", "sn-1") == before
        assert site.counted("not_in_warehouse") == 1


async def test_a_topic_of_the_warehouse_on_another_link_is_nobodys(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        body = peer.pack({"id": "1", **peer.stage_body(await peer.hello())})
        for link in (site.boot, site.op):
            link.send(topics.up("b", peer.session, "stage", "warehouse/pv1"), body)
        await site.settle()
        assert site.counted("foreign_topic") == 2
        assert step_of(site) is Step.RECEIVED


async def test_the_warehouse_knows_no_activate(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        reply = await peer.ask("b", "activate", peer.activate_body(await peer.hello()))
        assert reply["code"] == codes.UNKNOWN_VERB


async def test_the_proof_of_an_activate_is_none_for_a_stage_nor_the_other_way_round(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        reply = await peer.ask("b", "stage", peer.activate_body(await peer.hello()))
        assert reply["code"] == codes.REFUSED
        ordinary = StagedPeer(site)
        ordinary.at_role = Role.BOOTSTRAP
        reply = await ordinary.ask("b", "activate", ordinary.stage_body(await ordinary.hello()))
        assert reply["code"] == codes.REFUSED


async def test_a_device_that_was_not_handed_over_waits_and_one_without_proof_learns_nothing(tmp_path):
    async with running(tmp_path, devices=[registered(), handed_over("sn-2")]) as site:
        assert (await StagedPeer(site).stage())["code"] == codes.NOT_ALLOCATED
        assert site.counted("not_handed_over") == 1
        for serial in ("sn-1", "sn-2", "sn-none"):
            assert (await StagedPeer(site, serial, key=bytes(32)).stage())["code"] == codes.REFUSED
        assert credentials(site) == ()


async def test_a_unit_without_a_manifest_waits_and_the_operator_sees_why(tmp_path):
    async with running(tmp_path, devices=[handed_over(offered=None)]) as site:
        peer = StagedPeer(site)
        assert (await peer.stage())["code"] == codes.NOT_ALLOCATED
        assert site.store.device("line-1", "sn-1").unit.equipment.cause == "its device type has no manifest yet"
        change_unit(site, offered=BUILD)
        assert (await peer.stage())["ok"]
        assert site.store.device("line-1", "sn-1").unit.equipment.cause is None


async def test_the_same_bytes_again_get_the_same_grant_and_nothing_new(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        body = peer.pack({"id": "9", **peer.stage_body(await peer.hello())})
        first = peer.unpack(await peer.ask_raw("b", "stage", body))
        again = peer.unpack(await peer.ask_raw("b", "stage", body))
        assert {**first, "trace": ""} == {**again, "trace": ""}
        assert len(credentials(site)) == 1


async def test_as_long_as_the_credential_was_not_used_a_further_stage_replaces_it(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        ids = []
        for boot in range(1, 7):
            peer.boot_count = boot
            assert (await peer.stage())["ok"]
            ids.append(peer.credential_id)
        assert len(set(ids)) == 6
        states = [one.state for one in credentials(site)]
        assert states == [CredentialState.DROPPED] * 5 + [CredentialState.PENDING]
        assert site.store.device("line-1", "sn-1").unit.equipment.stage_credential_id == ids[-1]


@pytest.mark.parametrize("use", ["report", "fetch", "item"])
async def test_once_it_was_used_a_unit_is_already_staged_until_an_operator_says_restage(tmp_path, use):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        if use == "report":
            assert (await peer.report())["ok"]
        elif use == "item":
            await peer.bytes_of("ca")
        else:
            body = {"image": bytes.fromhex(BUILD.items[2].sha256)[:8], "stream": 0, "chunk_size": 1024, "first": 0}
            site.op.send(topics.up("c", peer.credential_id, "fetch"), peer.pack({"id": "f", "count": 1, **body}))
            await site.op.next(topics.down("c", peer.credential_id, "chunk"))
        peer.boot_count += 1
        assert (await peer.stage())["code"] == codes.ALREADY_STAGED
        assert len(credentials(site)) == 1
        restaged = staging.warehouse.restage(site.store.device("line-1", "sn-1").unit.equipment, START)
        change_unit(
            site,
            items={},
            **{name: getattr(restaged, name) for name in ("step", "staged_at", "stage_credential_id", "manifest_id")},
        )
        assert (await peer.stage())["ok"]


async def test_a_unit_that_has_left_the_warehouse_is_already_staged(tmp_path):
    async with running(tmp_path, devices=[handed_over(step=Step.SHIPPED, staged_at=START)]) as site:
        assert (await StagedPeer(site).stage())["code"] == codes.ALREADY_STAGED


async def test_a_blocked_unit_is_told_so(tmp_path):
    async with running(tmp_path, devices=[replace(handed_over(), state=DeviceState.BLOCKED)]) as site:
        assert (await StagedPeer(site).stage())["code"] == codes.BLOCKED


async def test_secrets_cannot_be_sealed_for_a_device_without_a_key(tmp_path):
    world = group(key_kind=KeyKind.PUBLIC_KEY)
    refusal = stage._WAREHOUSE.judge(handed_over(), world)
    assert refusal is not None
    assert refusal.refusal.code == codes.BAD_REQUEST
    assert refusal.device.unit.equipment.cause == refusal.refusal.public
    assert stage._WAREHOUSE.judge(handed_over(offered=build(item("a", b"a"))), world) is None


async def test_the_groups_hook_is_not_asked_and_a_lower_boot_count_is_no_clone(tmp_path):
    devices = [replace(handed_over(), boot_count=50)]
    async with running(tmp_path, devices=devices, world=catalogue(group(hook="https://hook.example"))) as site:
        assert (await StagedPeer(site).stage())["ok"]
        assert site.counted("clone_suspected") == 0


async def test_a_unit_whose_flash_was_erased_for_a_second_life_is_no_clone_of_itself_later_either(tmp_path):
    async with running(tmp_path, devices=[replace(handed_over(), boot_count=50)]) as site:
        peer = StagedPeer(site)
        assert (await peer.stage())["ok"]
        await peer.all_work()
        assert (await peer.staged())["ok"]
        peer.boot_count += 1
        assert (await peer.online())["ok"]
        peer.at_role, peer.boot_count = Role.BOOTSTRAP, 3
        assert (await Peer.activate(peer))["ok"]
        assert site.store.device("line-1", "sn-1").clone_signs == 0


async def test_a_manifest_that_fills_its_bound_fits_the_reply(tmp_path):
    many = [item(f"item-{n:02}-" + "x" * 8, b"c") for n in range(limits.MAX_ITEMS)]
    full = build(*many)
    assert len(packer.packb(manifest.document(full, {}))) > limits.MAX_MANIFEST_BYTES * 0.8
    world = catalogue(tls=True)
    world = replace(world, environments={"prod": replace(world.environments["prod"], ca_pem="C" * 5000)})
    async with running(tmp_path, devices=[handed_over(offered=full)], world=world) as site:
        assert (await StagedPeer(site).stage())["ok"]
        assert (await StagedPeer(site, encoding="json").stage(boot_count=2))["code"] == codes.TOO_LARGE


async def test_thirty_units_are_staged_in_one_go(tmp_path):
    devices = [handed_over(f"sn-{n}") for n in range(30)]
    async with running(tmp_path, devices=devices) as site:
        peers = [StagedPeer(site, f"sn-{n}") for n in range(30)]
        replies = await asyncio.gather(*(peer.stage() for peer in peers))
        assert all(reply["ok"] for reply in replies)
        assert len({peer.credential_id for peer in peers}) == 30


async def test_the_credential_lapses_after_its_life_and_the_unit_may_be_staged_anew(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await peer.stage()
        site.clock.advance(timedelta(days=731).total_seconds())
        peer.boot_count = 2
        assert (await peer.stage())["ok"]
        assert [one.state for one in credentials(site)] == [CredentialState.DROPPED, CredentialState.PENDING]


def test_every_word_that_is_proven_is_another():
    args = ("s" * 32, b"n" * 16, b"claim")
    assert keys.stage_message(*args) != keys.activate_message(*args)
    assert keys.stage_granted_message(*args, b"g") != keys.activated_message(*args, b"g")
    signed = [
        message("t", "c", b"doc") for message in (keys.manifest_message, keys.handshake_message, keys.desired_message)
    ]
    assert len(set(signed)) == 3
