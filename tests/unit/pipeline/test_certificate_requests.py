"""Activation with a certificate request: what is signed, and what is refused."""

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from device_sdk.wire import codes
from service.credentials.authority import Authority
from service.domain.credential import CredentialKind
from service.pipeline.bounds import Bounds
from tests.support.certificates import a_csr
from tests.support.fake_link import START
from tests.support.pipeline_site import Peer, catalogue, credentials, registered, running

X509_ONLY = (CredentialKind.X509,)
BOTH = (CredentialKind.API_KEY, CredentialKind.X509)


async def test_a_csr_gets_a_certificate_named_after_the_credential(tmp_path):
    authority = Authority.create(tmp_path / "ca", "prod", START)
    world = catalogue(kinds=BOTH, tls=True)
    async with running(tmp_path, world=world, authorities={"prod": authority}) as site:
        peer = Peer(site)
        assert (await peer.activate(csr=a_csr()))["ok"]
        certificate = x509.load_pem_x509_certificate(peer.grant["certificate"].encode())
        assert certificate.subject.rfc4514_string() == f"CN={peer.credential_id}"
        assert peer.grant["kind"] == "x509"
        assert peer.grant["ca"] == "CA"
        login = site.gate.logins[peer.credential_id]
        assert (login.api_key, login.certificate_serial) == (None, credentials(site)[0].certificate_serial)


async def test_a_csr_is_needed_where_only_certificates_exist_and_ignored_where_none_do(tmp_path):
    authority = Authority.create(tmp_path / "ca", "prod", START)
    async with running(tmp_path, world=catalogue(kinds=X509_ONLY), authorities={"prod": authority}) as site:
        reply = await Peer(site).activate()
        assert reply["code"] == codes.BAD_REQUEST
        assert site.counted("csr_missing") == 1
    async with running(tmp_path) as site:
        peer = Peer(site)
        await peer.activate(csr=a_csr())
        assert peer.grant["kind"] == "api_key"


async def test_a_key_of_a_csr_is_used_once(tmp_path):
    authority = Authority.create(tmp_path / "ca", "prod", START)
    key = ec.generate_private_key(ec.SECP256R1())
    devices = [registered("sn-1"), registered("sn-2")]
    async with running(tmp_path, devices=devices, world=catalogue(kinds=BOTH), authorities={"prod": authority}) as site:
        one, two = Peer(site, "sn-1"), Peer(site, "sn-2")
        replies = await asyncio.gather(one.activate(csr=a_csr(key)), two.activate(csr=a_csr(key)))
        assert sorted(reply["ok"] for reply in replies) == [False, True]
        assert site.counted("csr_key_in_use") == 1


@pytest.mark.parametrize("bad", [b"\x30\x00", b"nonsense", a_csr()[:-3]])
async def test_a_bad_csr_is_a_bad_request_and_makes_nothing(tmp_path, bad):
    authority = Authority.create(tmp_path / "ca", "prod", START)
    async with running(tmp_path, world=catalogue(kinds=BOTH), authorities={"prod": authority}) as site:
        reply = await Peer(site).activate(csr=bad)
        assert reply["code"] == codes.BAD_REQUEST
        assert not credentials(site)
        assert site.counted("csr_malformed") == 1


async def test_many_in_one_batch_are_signed_together_and_each_gets_its_own(tmp_path):
    """One with a wrong signature and one that asks twice among them; an activation counts once for its rate."""
    authority = Authority.create(tmp_path / "ca", "prod", START)
    serials = [f"sn-{number}" for number in range(7)]
    wrong = bytearray(a_csr())
    wrong[-1] ^= 1
    csrs = {serial: a_csr() for serial in serials} | {"sn-2": bytes(wrong)}
    async with running(
        tmp_path, devices=map(registered, serials), world=catalogue(kinds=BOTH), authorities={"prod": authority},
        bounds=Bounds(serial_burst=2.0),
    ) as site:  # fmt: skip
        peers = {serial: Peer(site, serial) for serial in serials}
        nonces = {serial: await peer.hello() for serial, peer in peers.items()}
        bodies = {serial: one.activate_body(nonces[serial], csr=csrs[serial]) for serial, one in peers.items()}
        twice = [peers[serial].ask("b", "activate", bodies[serial]) for serial in [*serials, "sn-5"]]
        commits = site.store.commits
        replies = await asyncio.gather(*twice)
        assert site.store.commits == commits + 1
        assert [reply["code"] for reply in replies if not reply["ok"]] == [codes.BAD_REQUEST]
        assert site.counted("csr_signature") == 1
        assert [len(credentials(site, serial)) for serial in serials] == [1, 1, 0, 1, 1, 1, 1]
        assert replies[5]["grant"] == replies[7]["grant"]
        for serial, reply in zip(serials, replies, strict=False):
            if reply["ok"]:
                grant = peers[serial].unpack(peers[serial].raw(reply["grant"]))
                certificate = x509.load_pem_x509_certificate(grant["certificate"].encode())
                assert certificate.subject.rfc4514_string() == f"CN={grant['credential_id']}"
                assert certificate.public_key() == x509.load_der_x509_csr(csrs[serial]).public_key()
