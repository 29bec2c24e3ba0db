"""`stage` and keys that change: an exchanged group secret, a transfer of ownership, a certificate."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from device_sdk.wire import codes, keys
from service.credentials.authority import Authority
from service.domain.credential import CredentialKind, CredentialState
from service.domain.warehouse import Step
from service.errors import Secret
from service.mqtt.port import Role
from tests.support.certificates import a_csr
from tests.support.fake_link import START
from tests.support.pipeline_site import Peer, catalogue, credentials, running
from tests.support.staged_peer import SECRET, VALUES, StagedPeer, handed_over, step_of
from tests.unit.pipeline.test_group_secrets import NEW, OLD, exchange, exchanged, first_group, stored
from tests.unit.pipeline.test_warehouse import shake


def burned(site, secret):
    return StagedPeer(site, key=keys.derive_key(secret, "sn-1"))


@pytest.mark.parametrize(("secret", "generation"), [(OLD, 1), (NEW, 2)])
async def test_a_unit_is_staged_with_either_secret_and_its_items_are_sealed_under_the_one_it_proved(
    tmp_path, secret, generation
):
    world = catalogue(exchanged(grace=timedelta(days=90)))
    async with running(tmp_path, world=world, devices=[handed_over(key=None)]) as site:
        peer = burned(site, secret)
        assert (await peer.stage())["ok"]  # grant and manifest are checked with its key
        assert stored(site).secret_generation == generation
        assert peer.opened("licence", "1.2", await peer.bytes_of("licence")) == SECRET
        await peer.all_work()
        assert (await peer.staged())["ok"]
        peer.boot_count += 1
        assert (await peer.online())["ok"]
        assert (await shake(peer))["values"] == VALUES


@pytest.mark.parametrize("retired", [False, True])
async def test_a_secret_that_is_exchanged_while_a_unit_is_staged_changes_nothing_for_it(tmp_path, retired):
    async with running(tmp_path, world=catalogue(first_group()), devices=[handed_over(key=None)]) as site:
        peer = burned(site, OLD)
        await peer.stage()
        sealed = await peer.bytes_of("licence")
        exchange(site, retired=retired)
        assert await peer.bytes_of("licence") == sealed
        assert peer.opened("licence", "1.2", sealed) == SECRET
        await peer.all_work()
        assert (await peer.staged())["ok"]
        assert (await peer.online())["ok"]
        # In service it is asked to leave that secret, as every device is.
        assert (await shake(peer))["values"] == VALUES


async def test_a_retired_secret_opens_the_door_of_the_warehouse_no_more(tmp_path):
    async with running(tmp_path, world=catalogue(exchanged(retired=True)), devices=[handed_over(key=None)]) as site:
        assert (await burned(site, OLD).stage())["code"] == codes.REFUSED
        assert (await burned(site, NEW).stage())["ok"]


async def test_a_unit_that_changes_hands_opens_its_items_with_the_key_it_proved_until_it_is_online(tmp_path):
    async with running(tmp_path, devices=[replace(handed_over(), rekey=True)]) as site:
        peer = StagedPeer(site)
        before = peer.key
        assert (await peer.stage())["ok"]
        assert peer.grant["rekey"] is True
        assert peer.opened("licence", "1.2", await peer.bytes_of("licence")) == SECRET
        await peer.all_work()
        assert (await peer.staged())["ok"]
        assert peer.opened("licence", "1.2", await peer.bytes_of("licence")) == SECRET  # out of box, not online
        assert stored(site).key == Secret(before)
        (row,) = stored(site).credentials
        peer.boot_count += 1
        peer.key = keys.rekey(before, row.nonce, row.server_nonce, peer.grant["thing_id"], peer.credential_id)
        reply = await peer.online()
        assert peer.document(reply["desired"])  # the mac is one of the new key
        assert stored(site).key == Secret(peer.key)
        assert (await shake(peer))["values"] == VALUES


@asynccontextmanager
async def with_certificates(folder):
    """A unit on the shelf: staged by a certificate request, out of its box."""
    authority = Authority.create(folder / "ca", "prod", START)
    world = catalogue(kinds=(CredentialKind.X509,), tls=True)
    async with running(folder, devices=[handed_over()], world=world, authorities={"prod": authority}) as site:
        peer = StagedPeer(site)
        assert (await peer.stage(csr=a_csr()))["ok"]
        await peer.all_work()
        assert (await peer.staged())["ok"]
        peer.boot_count += 1
        yield site, peer


async def test_a_unit_that_asks_for_a_certificate_is_staged_with_one_and_both_end_together(tmp_path):
    async with with_certificates(tmp_path) as (site, peer):
        assert peer.grant["kind"] == "x509"
        certificate = x509.load_pem_x509_certificate(peer.grant["certificate"].encode())
        (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert name.value == peer.credential_id
        (row,) = credentials(site)
        assert row.expires_at == row.certificate_expires_at == certificate.not_valid_after_utc
        site.clock.advance(timedelta(days=364).total_seconds())
        assert (await peer.online())["ok"]
        assert (await shake(peer))["values"] == VALUES
        assert step_of(site) is Step.AT_SITE


async def test_a_unit_whose_certificate_ran_out_on_the_shelf_comes_in_by_the_ordinary_door(tmp_path):
    async with with_certificates(tmp_path) as (site, peer):
        site.clock.advance(timedelta(days=366).total_seconds())
        assert (await peer.online())["code"] == codes.CONFLICT
        peer.at_role, peer.n = Role.BOOTSTRAP, 0
        assert (await Peer.activate(peer, csr=a_csr()))["ok"]
        assert (await peer.online())["ok"]
        assert (await shake(peer))["values"] == VALUES
        assert step_of(site) is Step.AT_SITE
        states = [one.state for one in credentials(site)]
        assert states == [CredentialState.DROPPED, CredentialState.CONFIRMED]
