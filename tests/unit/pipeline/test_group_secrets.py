"""A group whose secret was exchanged: whom each secret still proves, and how devices leave it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import codes, keys
from service import logins
from service.domain.device import DeviceState
from service.domain.group import KeyKind, OldSecret, Reactivation
from service.domain.group_secrets import MAX_SECRETS
from service.errors import Secret
from tests.support.fake_link import START
from tests.support.pipeline_site import Peer, catalogue, group, registered, running

OLD, NEW = b"old secret of the group, 32 bytes"[:32], b"new secret of the group, 32 bytes"[:32]
GRACE = timedelta(days=90)


def first_group(**fields):
    return group(**{"key_kind": KeyKind.DERIVED, "secret": Secret(OLD), **fields})


def exchanged(*, grace=timedelta(0), retired=False, at=START, **fields):
    """The group after its secret was exchanged at that time."""
    old = OldSecret(1, Secret(OLD), at, at + grace, at if retired else None)
    return first_group(secret=Secret(NEW), secret_generation=2, old_secrets=(old,), **fields)


def burned(site, secret, serial="sn-1"):
    return Peer(site, serial, key=keys.derive_key(secret, serial))


def unproven(**fields):
    return registered(**{"key": None, **fields})


def again(peer, number=5):
    """The same device at the bootstrap broker, with nothing left but its key."""
    peer.session, peer.nonce, peer.n = str(number) * 32, bytes([number]) * 16, 0
    peer.boot_count += 1
    return peer


async def in_service(peer):
    assert (await peer.activate())["ok"]
    assert (await peer.online())["ok"]
    return peer


def exchange(site, **fields):
    site.set_catalogue(replace(site.store.catalogue, groups={"line-1": exchanged(at=site.clock.wall(), **fields)}))


def stored(site, serial="sn-1"):
    return site.store.device("line-1", serial)


CASES = {
    # (registered before the exchange, grace, retired, by which secret): let in, or the cause
    ("known", 0, False, NEW): None,
    ("known", 0, False, OLD): None,
    ("known", 0, True, NEW): None,
    ("known", 0, True, OLD): "refused_group_secret_retired",
    ("later", 0, False, NEW): None,
    ("later", 0, False, OLD): "refused_group_secret_superseded",
    ("later", 90, False, OLD): None,
    ("later", 90, True, OLD): "refused_group_secret_retired",
    ("nobody", 0, False, NEW): None,
    ("nobody", 0, False, OLD): "refused_group_secret_superseded",
    ("nobody", 90, False, OLD): None,
    ("nobody", 90, True, OLD): "refused_group_secret_retired",
}


@pytest.mark.parametrize("kind", [KeyKind.DERIVED, KeyKind.GROUP])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]} {case[2]} {case[3][:3].decode()}")
async def test_each_secret_lets_in_whom_it_may(tmp_path, case, kind):
    who, days, retired, secret = case
    policy = Reactivation.OPERATOR if kind is KeyKind.GROUP else Reactivation.OPEN
    one = exchanged(
        grace=timedelta(days=days), retired=retired, self_registration=True, key_kind=kind, reactivation=policy
    )
    at = {"known": START - timedelta(days=1), "later": START + timedelta(seconds=1)}
    devices = [] if who == "nobody" else [unproven(registered_at=at[who])]
    async with running(tmp_path, world=catalogue(one), devices=devices) as site:
        site.clock.advance(3600)
        reply = await burned(site, secret).activate()
        cause = CASES[case]
        if cause is None:
            assert reply["ok"]
            assert stored(site).secret_generation == (2 if secret is NEW else 1)
        else:
            assert reply["code"] == codes.REFUSED
            assert site.counted(cause) == 1
            assert not devices or stored(site).credentials == ()


async def test_a_refusal_for_an_exchanged_secret_says_no_more_than_a_wrong_proof(tmp_path):
    async with running(tmp_path, world=catalogue(exchanged(retired=True)), devices=[unproven()]) as site:
        retired = await burned(site, OLD).activate()
        wrong = await again(burned(site, b"another")).activate()
        assert {**retired, "id": 0, "trace": 0, "retry_after_s": 0} == {
            **wrong,
            "id": 0,
            "trace": 0,
            "retry_after_s": 0,
        }


async def test_the_end_of_the_grace_shuts_out_newcomers_and_keeps_the_known(tmp_path):
    async with running(tmp_path, world=catalogue(exchanged(grace=GRACE, self_registration=True)), devices=[]) as site:
        site.clock.advance(GRACE.total_seconds() - 1)
        assert (await burned(site, OLD, "in-time").activate())["ok"]
        site.clock.advance(1)
        late = await burned(site, OLD, "late").activate()
        assert late["code"] == codes.REFUSED
        assert (await again(burned(site, OLD, "in-time")).activate())["ok"]


async def test_a_device_goes_on_with_the_secret_that_it_has_proven_and_no_other_opens_it(tmp_path):
    async with running(tmp_path, world=catalogue(first_group()), devices=[unproven()]) as site:
        peer = await in_service(burned(site, OLD))
        exchange(site, grace=GRACE)
        assert peer.document((await peer.online())["desired"])  # its mac is made with the old one
        thief = again(burned(site, NEW), 6)
        assert (await thief.activate())["code"] == codes.REFUSED
        assert site.counted("refused_other_group_secret") == 1
        assert (await again(peer).activate())["ok"]
        assert stored(site).secret_generation == 1


async def test_the_logins_of_devices_are_derived_again_from_the_secret_of_each(tmp_path):
    devices = [unproven(), unproven(serial="sn-2")]
    async with running(tmp_path, world=catalogue(first_group()), devices=devices) as site:
        first = await in_service(burned(site, OLD))
        exchange(site)
        second = await in_service(burned(site, NEW, "sn-2"))
        for peer in (first, second):
            device = stored(site, peer.serial)
            (row,) = device.credentials
            login = logins.login_of(site.store.catalogue, device, row, site.keys.service_private_key())
            assert login.api_key == site.gate.logins[row.credential_id].api_key


async def renew(peer):
    """Over the connection that it has; gives the grant, under the key that it had."""
    peer.nonce = bytes(16)
    server_nonce = await peer.hello("c")
    reply = await peer.ask("c", "activate", peer.activate_body(server_nonce, "c"))
    assert reply["ok"], reply
    peer.grant = peer.unpack(peer.raw(reply["grant"]))
    peer.credential_id, peer.n = peer.grant["credential_id"], 0
    if peer.grant.get("rekey"):
        peer.key = keys.rekey(peer.key, peer.nonce, server_nonce, peer.grant["thing_id"], peer.credential_id)


@pytest.mark.parametrize("retired", [False, True])
async def test_a_connected_device_takes_a_key_of_its_own_which_the_secret_does_not_give_away(tmp_path, retired):
    async with running(tmp_path, world=catalogue(first_group()), devices=[unproven()]) as site:
        peer = await in_service(burned(site, OLD))
        assert "credential" not in peer.document((await peer.online())["desired"])
        exchange(site, retired=retired)
        assert peer.document((await peer.online())["desired"])["credential"]["renew"] > 0
        await renew(peer)
        assert peer.grant["rekey"] is True
        reply = await peer.online()
        assert reply["ok"]
        assert "credential" not in peer.document(reply["desired"])
        assert stored(site).key.reveal() == peer.key
        assert (await again(burned(site, OLD), 6).activate())["code"] == codes.REFUSED
        assert (await again(burned(site, NEW), 7).activate())["code"] == codes.REFUSED
        # Retired or not, it is known by its own key, and comes back.
        assert (await again(peer, 8).activate())["ok"]


async def test_who_only_knows_the_old_secret_gets_no_new_key_for_it(tmp_path):
    async with running(tmp_path, world=catalogue(first_group()), devices=[unproven()]) as site:
        await in_service(burned(site, OLD))
        exchange(site, grace=GRACE)
        thief = again(burned(site, OLD), 6)
        assert (await thief.activate())["ok"]
        assert "rekey" not in thief.grant


async def test_a_device_without_a_secret_to_leave_is_not_asked(tmp_path):
    async with running(tmp_path, world=catalogue(exchanged()), devices=[unproven()]) as site:
        peer = await in_service(burned(site, NEW))
        assert "credential" not in peer.document((await peer.online())["desired"])


async def test_a_device_of_a_retired_secret_stays_connected_and_is_refused_at_the_bootstrap_broker(tmp_path):
    async with running(tmp_path, world=catalogue(first_group()), devices=[unproven()]) as site:
        peer = await in_service(burned(site, OLD))
        exchange(site, retired=True)
        assert (await peer.online())["ok"]
        assert (await again(burned(site, OLD), 6).activate())["code"] == codes.REFUSED
        assert site.counted("refused_group_secret_retired") == 1
        assert (await peer.online())["ok"]


@pytest.mark.parametrize("state", [DeviceState.REGISTERED, DeviceState.ACTIVATED])
async def test_a_device_out_of_service_comes_back_with_the_newest_when_its_own_was_retired(tmp_path, state):
    async with running(tmp_path, world=catalogue(first_group()), devices=[unproven()]) as site:
        assert (await burned(site, OLD).activate())["ok"]
        if state is DeviceState.REGISTERED:
            site.store.add(unproven(secret_generation=1))
        exchange(site, grace=GRACE)
        assert (await again(burned(site, NEW), 6).activate())["code"] == codes.REFUSED
        exchange(site, retired=True)
        peer = again(burned(site, NEW), 7)
        assert (await peer.activate())["ok"]
        assert stored(site).secret_generation == 2
        dropped = [one.drop_cause for one in stored(site).credentials if one.drop_cause]
        assert dropped == (["group_secret_changed"] if state is DeviceState.ACTIVATED else [])
        assert (await peer.online())["ok"]


async def test_a_device_in_service_is_not_taken_over_with_the_newest_when_its_own_was_retired(tmp_path):
    async with running(tmp_path, world=catalogue(first_group()), devices=[unproven()]) as site:
        await in_service(burned(site, OLD))
        exchange(site, retired=True)
        assert (await again(burned(site, NEW), 6).activate())["code"] == codes.REFUSED
        assert stored(site).secret_generation == 1


async def test_every_secret_that_is_kept_is_tried(tmp_path):
    secrets = [bytes([n]) * 31 + b"x" for n in range(1, MAX_SECRETS + 1)]
    old = tuple(OldSecret(n, Secret(one), START, START + GRACE) for n, one in enumerate(secrets[:-1], 1))
    one = first_group(secret=Secret(secrets[-1]), secret_generation=MAX_SECRETS, old_secrets=old)
    devices = [unproven(serial=f"sn-{n}") for n in range(1, MAX_SECRETS + 1)]
    async with running(tmp_path, world=catalogue(one), devices=devices) as site:
        for n, secret in enumerate(secrets, 1):
            await in_service(burned(site, secret, f"sn-{n}"))
            assert stored(site, f"sn-{n}").secret_generation == n
