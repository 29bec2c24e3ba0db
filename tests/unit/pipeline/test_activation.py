"""Activation through the pipeline: every refusal, repeats, replays and limits."""

import asyncio
import hashlib
from contextlib import asynccontextmanager
from dataclasses import replace

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device_sdk.wire import codes, keys, topics
from service.credentials import proofs
from service.credentials.authority import Authority
from service.domain.credential import CredentialKind, CredentialState
from service.domain.device import DeviceState
from service.domain.group import KeyKind, Reactivation
from service.errors import Secret, ServiceError
from service.pipeline.bounds import Bounds
from tests.support.fake_link import START
from tests.support.fake_store import FakeBatch
from tests.support.pipeline_site import Peer, catalogue, group, registered, running

QUICK = Bounds(session_burst=1000, credential_burst=1000, serial_burst=1000)


def credentials(site, serial="sn-1"):
    return site.store.device("line-1", serial).credentials


async def test_the_reply_comes_only_after_the_broker_has_the_login_and_its_hash_is_that_of_the_derived_key(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        await peer.activate()
        (row,) = credentials(site)
        api_key = keys.api_key(peer.key, peer.nonce, row.server_nonce, peer.grant["thing_id"], peer.credential_id)
        login = site.gate.logins[peer.credential_id]
        assert login.api_key.reveal() == api_key.encode()
        assert row.api_key_sha256 == login.api_key_sha256 == hashlib.sha256(api_key.encode()).digest()
        assert peer.grant["endpoint"] == {"host": "broker.example", "port": 8883, "tls": False}
        assert "ca" not in peer.grant
        assert peer.grant["time"] == int(site.clock.now.timestamp())


async def test_a_repeated_activate_gets_the_same_grant_and_is_granted_again(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        nonce = await peer.hello()
        body = peer.activate_body(nonce)
        first = await peer.ask("b", "activate", body)
        commits = site.store.commits
        again = await peer.ask("b", "activate", body)
        assert (first["grant"], first["server_proof"]) == (again["grant"], again["server_proof"])
        assert site.store.commits == commits
        assert len(credentials(site)) == 1
        assert site.gate.calls == [("grant", 1), ("grant", 1)]


async def test_two_equal_activates_in_one_batch_make_one_credential(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        payload = peer.pack({"id": "x", **peer.activate_body(await peer.hello())})
        up = topics.up("b", peer.session, "activate")
        site.boot.send(up, payload)
        site.boot.send(up, payload)
        down = topics.down("b", peer.session, "activate")
        one, two = msgpack.unpackb(await site.boot.next(down)), msgpack.unpackb(await site.boot.next(down))
        assert one["grant"] == two["grant"]
        assert len(credentials(site)) == 1


async def test_things_are_numbered_one_by_one_within_a_batch(tmp_path):
    devices = [registered(f"sn-{i}") for i in range(5)]
    async with running(tmp_path, devices=devices) as site:
        peers = [Peer(site, f"sn-{i}") for i in range(5)]
        await asyncio.gather(*(peer.activate() for peer in peers))
        assert sorted(peer.grant["name"] for peer in peers) == [f"Thermometer {i}" for i in range(1, 6)]
        assert site.store.numbers == {"thermometer": 6}


async def test_a_grant_that_the_broker_does_not_confirm_is_unavailable_and_a_repeat_gets_it(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        site.gate.fail = True
        body = peer.activate_body(await peer.hello())
        reply = await peer.ask("b", "activate", body)
        assert reply["code"] == codes.UNAVAILABLE
        assert 5 <= reply["retry_after_s"] <= 15
        site.gate.fail = False
        assert (await peer.ask("b", "activate", body))["ok"]
        assert len(credentials(site)) == 1


async def test_a_dropped_credentials_activate_says_hello_again(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        await peer.ask("b", "activate", body)
        device = site.store.device("line-1", "sn-1")
        dropped = replace(device.credentials[0], state=CredentialState.DROPPED, dropped_at=START)
        site.store.add(replace(device, credentials=(dropped,)))
        assert (await peer.ask("b", "activate", body))["code"] == codes.NONCE_EXPIRED
        assert len(credentials(site)) == 1


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(0, None), (119, None), (174, None), (240, codes.NONCE_EXPIRED), (-55, None), (-200, codes.NONCE_EXPIRED)],
)
async def test_a_server_nonce_is_good_for_two_minutes_and_a_little(tmp_path, seconds, code):
    async with running(tmp_path) as site:
        peer = Peer(site)
        nonce = await peer.hello()
        site.clock.advance(seconds)
        reply = await peer.ask("b", "activate", peer.activate_body(nonce))
        assert reply.get("code") == code


NONCES = {
    "an invented one": lambda peer, site: bytes(16),
    "that of another session": lambda peer, site: nonce_for(site, "f" * 32, peer.group_id, peer.serial, peer.nonce),
    "that of another serial": lambda peer, site: nonce_for(site, peer.session, peer.group_id, "sn-2", peer.nonce),
    "that of another group": lambda peer, site: nonce_for(site, peer.session, "line-2", peer.serial, peer.nonce),
    "that of another nonce": lambda peer, site: nonce_for(site, peer.session, peer.group_id, peer.serial, bytes(16)),
}


def nonce_for(site, session, group_id, serial, nonce):
    minute = int(site.clock.now.timestamp()) // 60
    return keys.server_nonce(site.keys.nonce_current.reveal(), session, group_id, serial, nonce, minute)


@pytest.mark.parametrize("foreign", NONCES.values(), ids=NONCES)
async def test_a_foreign_server_nonce_is_refused_before_any_look_up(tmp_path, foreign):
    async with running(tmp_path) as site:
        loads = counted_loads(site)
        peer = Peer(site)
        reply = await peer.ask("b", "activate", peer.activate_body(foreign(peer, site)))
        assert reply["code"] == codes.NONCE_EXPIRED
        assert not loads


def counted_loads(site) -> list:
    loads = []

    class Counting(FakeBatch):
        async def load(self, **asked):
            loads.append({name: len(value) for name, value in asked.items()})
            return await super().load(**asked)

        async def save(self, changes):
            loads.append("save")
            await super().save(changes)

    @asynccontextmanager
    async def batch():
        counting = Counting(site.store)
        yield counting
        if counting.saved:
            site.store.devices, site.store.numbers = counting.devices, counting.numbers

    site.store.batch = batch
    return loads


async def test_a_nonce_made_under_the_previous_key_is_good(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        nonce = await peer.hello()
        site.pipeline.admission.nonce_keys = site.keys.rotate_nonce().nonce_keys()
        assert (await peer.ask("b", "activate", peer.activate_body(nonce)))["ok"]


CLAIMANTS = {
    "a wrong proof": ("sn-1", "line-1"),
    "an unknown serial": ("sn-404", "line-1"),
    "an unknown group": ("sn-1", "line-404"),
    "an unknown serial of a derived group": ("sn-404", "line-d"),
}


@pytest.mark.parametrize("size", [32, 64, 256])
async def test_the_unproven_cannot_be_told_apart(tmp_path, monkeypatch, size):
    """Same code, same fields, same queries, same HMACs."""
    world = catalogue(group(), group("line-d", key_kind=KeyKind.DERIVED, secret=Secret(b"s" * 32)))
    async with running(tmp_path, world=world, bounds=QUICK) as site:
        loads, hmacs = counted_loads(site), []
        real = proofs.hmac_sha256
        monkeypatch.setattr(proofs, "hmac_sha256", lambda key, data: hmacs.append(1) or real(key, data))
        seen = set()
        for name, (serial, group_id) in CLAIMANTS.items():
            peer = Peer(site, serial, group_id)
            body = peer.activate_body(await peer.hello())
            loads.clear()
            hmacs.clear()
            reply = await peer.ask("b", "activate", {**body, "proof": b"x" * size})
            assert 30 <= reply["retry_after_s"] <= 90, name
            seen.add((reply["code"], reply["reason"], tuple(reply), tuple(map(str, loads)), len(hmacs)))
        ((code, *_),) = seen
        assert code == codes.REFUSED
        assert [one.cause for one in site.pipeline.record.unproven][-4:] == [
            "refused_wrong_proof" if size == 32 else "refused_no_such_key",
            "refused_unknown_serial",
            "refused_unknown_group",
            "refused_wrong_proof" if size == 32 else "refused_unknown_serial",
        ]
        assert not site.store.traces


async def test_a_right_proof_under_a_wrong_session_is_refused(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        other = Peer(site)
        other.session = "e" * 32
        nonce = await other.hello()
        reply = await other.ask("b", "activate", {**body, "server_nonce": nonce})
        assert reply["code"] == codes.REFUSED


STATES = {
    DeviceState.BLOCKED: (codes.BLOCKED, True),
    DeviceState.REPLACED: (codes.REPLACED, False),
    DeviceState.RETIRED: (codes.RETIRED, False),
}


@pytest.mark.parametrize("state", STATES)
async def test_a_state_is_told_only_to_a_valid_proof(tmp_path, state):
    code, waits = STATES[state]
    async with running(tmp_path, devices=[registered(state=state)]) as site:
        reply = await Peer(site).activate()
        assert reply["code"] == code
        assert (300 <= reply["retry_after_s"] <= 900) if waits else ("retry_after_s" not in reply)
        assert not credentials(site)
        assert [one.code for one in site.store.traces] == [code]
        stranger = Peer(site, key=b"w" * 32)
        assert (await stranger.activate())["code"] == codes.REFUSED


async def test_a_device_without_a_place_is_not_allocated_until_it_has_one(tmp_path):
    world = catalogue(group(default_ou=None, default_environment=None))
    async with running(tmp_path, world=world) as site:
        peer = Peer(site)
        reply = await peer.activate()
        assert reply["code"] == codes.NOT_ALLOCATED
        assert 300 <= reply["retry_after_s"] <= 900
        site.store.add(replace(site.store.device("line-1", "sn-1"), ou="acme/own", environment="prod"))
        assert (await peer.activate())["ok"]
        assert peer.grant["ou"] == "acme/own"


async def test_an_environment_that_this_service_does_not_have_is_no_place(tmp_path):
    async with running(tmp_path, devices=[registered(ou="x", environment="mars")]) as site:
        assert (await Peer(site).activate())["code"] == codes.NOT_ALLOCATED


async def test_a_fifth_pending_credential_drops_the_oldest_and_the_broker_hears_of_it(tmp_path):
    async with running(tmp_path, bounds=QUICK) as site:
        made = []
        for number in range(5):
            peer = Peer(site)
            peer.session = f"{number:032x}"
            site.clock.advance(1)
            assert (await peer.activate())["ok"]
            made.append(peer.credential_id)
        await site.settle()
        states = {one.credential_id: one.state for one in credentials(site)}
        assert [states[one] for one in made] == [CredentialState.DROPPED] + [CredentialState.PENDING] * 4
        async with asyncio.timeout(30):
            while made[0] in site.gate.logins:
                await asyncio.sleep(0.001)
        assert site.upkeep.revoked == [made[0]]


async def test_a_pending_credential_lapses_after_the_groups_time(tmp_path):
    async with running(tmp_path, world=catalogue(group(pending_expiry_s=100))) as site:
        peer = Peer(site)
        await peer.activate()
        site.clock.advance(101)
        reply = await peer.online()
        assert reply["code"] == codes.CONFLICT
        await site.pipeline.ticker.tick()
        await site.settle()
        assert credentials(site)[0].drop_cause == "expired"
        assert site.counted("pending_expired") == 1


async def test_self_registration_makes_a_device_only_where_the_group_allows_it(tmp_path):
    secret = Secret(b"s" * 32)
    world = catalogue(
        group("open", key_kind=KeyKind.DERIVED, secret=secret, self_registration=True),
        group("shut", key_kind=KeyKind.DERIVED, secret=secret),
    )
    async with running(tmp_path, devices=[], world=world) as site:
        key = keys.derive_key(b"s" * 32, "sn-7")
        assert (await Peer(site, "sn-7", "shut", key).activate())["code"] == codes.REFUSED
        peer = Peer(site, "sn-7", "open", key)
        peer.session = "a" * 32
        assert (await peer.activate())["ok"]
        device = site.store.device("open", "sn-7")
        assert device.state is DeviceState.ACTIVATED
        assert device.key is None
        assert site.counted("self_registered") == 1


def csr(key=None) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return built.public_bytes(serialization.Encoding.DER)


X509_ONLY = (CredentialKind.X509,)
BOTH = (CredentialKind.API_KEY, CredentialKind.X509)


async def test_a_csr_gets_a_certificate_named_after_the_credential(tmp_path):
    authority = Authority.create(tmp_path / "ca", "prod", START)
    world = catalogue(kinds=BOTH, tls=True)
    async with running(tmp_path, world=world, authorities={"prod": authority}) as site:
        peer = Peer(site)
        assert (await peer.activate(csr=csr()))["ok"]
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
        await peer.activate(csr=csr())
        assert peer.grant["kind"] == "api_key"


async def test_a_key_of_a_csr_is_used_once(tmp_path):
    authority = Authority.create(tmp_path / "ca", "prod", START)
    key = ec.generate_private_key(ec.SECP256R1())
    devices = [registered("sn-1"), registered("sn-2")]
    async with running(tmp_path, devices=devices, world=catalogue(kinds=BOTH), authorities={"prod": authority}) as site:
        one, two = Peer(site, "sn-1"), Peer(site, "sn-2")
        replies = await asyncio.gather(one.activate(csr=csr(key)), two.activate(csr=csr(key)))
        assert sorted(reply["ok"] for reply in replies) == [False, True]
        assert site.counted("csr_key_in_use") == 1


@pytest.mark.parametrize("bad", [b"\x30\x00", b"nonsense", csr()[:-3]])
async def test_a_bad_csr_is_a_bad_request_and_makes_nothing(tmp_path, bad):
    authority = Authority.create(tmp_path / "ca", "prod", START)
    async with running(tmp_path, world=catalogue(kinds=BOTH), authorities={"prod": authority}) as site:
        reply = await Peer(site).activate(csr=bad)
        assert reply["code"] == codes.BAD_REQUEST
        assert not credentials(site)
        assert site.counted("csr_malformed") == 1


@pytest.mark.parametrize("where", ["enter", "load", "save", "commit"])
async def test_storage_that_fails_answers_unavailable_and_the_repeat_succeeds(tmp_path, where):
    async with running(tmp_path) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        site.store.fail_with[where] = ServiceError(codes.UNAVAILABLE, "later", cause="storage_unavailable")
        reply = await peer.ask("b", "activate", body)
        assert reply["code"] == codes.UNAVAILABLE
        assert not credentials(site)
        assert not site.gate.logins
        assert (await peer.ask("b", "activate", body))["ok"]
        assert site.counted("activated") == 1


async def test_renewal_on_its_own_topic_needs_no_hold(tmp_path):
    async with running(tmp_path, world=catalogue(group(reactivation=Reactivation.HOLD))) as site:
        peer = Peer(site)
        await peer.activate()
        await peer.online()
        first = peer.credential_id
        assert (await peer.activate("c"))["ok"]
        assert peer.credential_id != first
        peer.n = 0
        assert (await peer.online())["ok"]
        assert {one.credential_id: one.state for one in credentials(site)} == {
            first: CredentialState.DROPPED,
            peer.credential_id: CredentialState.CONFIRMED,
        }


async def test_a_serial_that_activates_too_often_is_throttled_only_after_its_proof(tmp_path):
    bounds = Bounds(session_burst=1000, serial_burst=2, serial_rate=0.001)
    async with running(tmp_path, bounds=bounds) as site:
        stranger = Peer(site, key=b"w" * 32)
        for _ in range(10):
            assert (await stranger.activate())["code"] == codes.REFUSED
        peer = Peer(site)
        peer.session = "d" * 32
        assert (await peer.activate())["ok"]
        assert (await peer.activate())["ok"]
        reply = await peer.activate()
        assert reply["code"] == codes.THROTTLED
        assert 1 <= reply["retry_after_s"] <= 5
