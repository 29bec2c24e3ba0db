"""First power-up: what the device accepts as an activation, and what it does with anything else."""

from __future__ import annotations

import itertools

import pytest

from device_sdk.core.actions import Connect, Publish
from device_sdk.core.client import Client
from device_sdk.core.identity import Endpoint, Policy
from device_sdk.core.ports import Crypto, WrongSignatureError
from device_sdk.wire import ids, keys, topics
from device_sdk.wire.packer import packb, unpackb
from tests.support.machine import Machine
from tests.support.peer import SERIAL, K, Peer
from tests.support.rig import Rig


def online(rig):
    return lambda: rig.client.status.state == "online"


def changed(payload, **fields):
    values = unpackb(payload)
    values.update(fields)
    return packb(values)


def test_a_device_activates_and_logs_in_with_a_key_that_never_crossed_the_wire():
    rig = Rig()
    rig.run(online(rig))
    bootstrap, operational = rig.peer.connects
    assert bootstrap.username is None
    assert ids.is_hex_id(bootstrap.client_id)
    assert bootstrap.subscribe == [topics.down_filter("b", bootstrap.client_id)]
    assert operational.client_id == operational.username
    assert operational.password == rig.peer.credentials[operational.client_id]["password"]
    assert operational.subscribe == [topics.down_filter("c", operational.client_id)]
    (request,) = rig.peer.said("activate")
    assert unpackb(request["claim"])["boot_count"] == 1
    assert operational.password.encode() not in request["claim"] + rig.peer.said("online")[0]["id"].encode()


def test_no_repr_shows_a_secret():
    rig = Rig()
    rig.run(online(rig))
    shown = repr([rig.peer.connects, rig.identity, rig.notes, rig.client.status])
    assert rig.peer.connects[1].password not in shown
    assert str(K) not in shown


def test_the_client_id_of_each_attempt_is_new():
    rig = Rig()
    rig.peer.refuse["activate"] = {"code": "REFUSED", "retry_after_s": 40}
    rig.run(lambda: len(rig.peer.connects) == 3)
    assert len({c.client_id for c in rig.peer.connects}) == 3


def test_garbage_and_foreign_messages_change_nothing():
    rig = Rig()
    rig.run(lambda: rig.peer.said("hello") != [])
    owner = rig.owner
    for payload in (b"", b"\xc1", b"{}", b"\x80", packb([1]), packb({"id": "1"}), bytes(20000), packb({"ok": False})):
        for verb in ("hello", "activate", "chunk", "desired", "nonsense"):
            rig.deliver(topics.down("b", owner, verb), payload)
    for topic in ("", "pv1", topics.down("b", "0" * 32, "hello"), topics.up("b", owner, "hello"), "pv1/b/x/dn/hello"):
        rig.deliver(topic, packb({"id": "1", "ok": True, "server_nonce": bytes(16)}))
    assert rig.client.counters["garbage"] > 0
    assert rig.client.counters["foreign_topic"] == 5
    rig.run(online(rig))


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (lambda p: changed(p, server_proof=bytes(32)), "wrong_server_proof"),
        (lambda p: changed(p, grant=unpackb(p)["grant"] + b"\xc0"), "wrong_server_proof"),
        (lambda p: changed(p, grant="text"), "grant"),
        (lambda p: b"\xff\xff", "type not allowed"),
    ],
    ids=["wrong server_proof", "another grant", "a grant that is text", "garbage"],
)
def test_a_reply_that_does_not_prove_itself_is_no_reply(fault, cause):
    rig = Rig()
    rig.peer.mangle = lambda verb, p: [fault(p)] if verb == "activate" else [p]
    rig.run(lambda: len(rig.peer.connects) >= 3)
    assert {c.username for c in rig.peer.connects} == {None}
    assert rig.machine.flash.get("next-a") is None
    assert any(cause in note[2] for note in rig.notes if note[1] == "garbage")
    rig.peer.mangle = None
    rig.run(online(rig))


def test_a_forged_reply_before_the_true_one_does_no_harm():
    rig = Rig()
    rig.peer.mangle = lambda verb, p: [changed(p, server_proof=bytes(32)), p] if verb == "activate" else [p]
    rig.run(online(rig))
    assert len(rig.peer.said("activate")) == 1


def test_a_plain_endpoint_is_refused_by_a_device_that_was_not_built_for_it():
    rig = Rig(allow_plain=False)
    rig.run_for(120)
    assert {c.username for c in rig.peer.connects} == {None}
    assert ("warning", "garbage", "activate: plain_endpoint") in rig.notes
    rig.peer.plain = False
    rig.run(online(rig))
    assert rig.peer.connects[-1].tls is True


def test_an_expired_nonce_means_hello_again_in_the_same_session_three_times():
    rig = Rig()
    rig.peer.refuse["activate"] = {"code": "NONCE_EXPIRED"}
    rig.run(lambda: len(rig.peer.said("activate")) == 4)
    assert len(rig.peer.connects) == 1
    assert len({r["nonce"] for r in rig.peer.said("hello")}) == 4
    start = rig.now
    rig.run(lambda: len(rig.peer.said("activate")) == 5)
    assert len(rig.peer.connects) == 2
    assert rig.now - start > 0.5


@pytest.mark.parametrize(
    ("refusal", "low", "high"),
    [
        ({"code": "REFUSED", "retry_after_s": 60}, 60, 62),
        ({"code": "NOT_ALLOCATED", "retry_after_s": 900}, 900, 902),
        ({"code": "BLOCKED", "retry_after_s": 10**9}, 24 * 3600, 24 * 3600 + 2),
        ({"code": "INTERNAL"}, 0.75 * 3600, 1.25 * 3600 + 2),
        ({"code": "REFUSED", "retry_after_s": "soon"}, 0.75 * 3600, 1.25 * 3600 + 2),
        ({"code": "REFUSED", "retry_after_s": True}, 0.75 * 3600, 1.25 * 3600 + 2),
    ],
    ids=str,
)
def test_a_refusal_is_advice_that_is_honoured_up_to_a_day(refusal, low, high):
    rig = Rig()
    rig.peer.refuse["activate"] = refusal
    rig.run(lambda: len(rig.peer.said("activate")) == 1)
    start = rig.now
    rig.run(lambda: len(rig.peer.said("activate")) == 2, max_s=2 * 24 * 3600)
    assert low <= rig.now - start <= high
    assert rig.client.status.cause == refusal["code"].lower()
    rig.peer.refuse = {}
    rig.run(online(rig), max_s=3 * 24 * 3600)


def test_refusals_without_a_time_are_asked_again_after_one_hour_doubling_to_a_day():
    rig = Rig()
    rig.peer.refuse["hello"] = {"code": "INTERNAL"}
    times = []
    for count in range(1, 9):
        rig.run(lambda count=count: len(rig.peer.said("hello")) == count, max_s=2 * 24 * 3600)
        times.append(rig.now)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    for wait, nominal in zip(waits, [1, 2, 4, 8, 16, 24, 24], strict=True):
        assert 0.75 * nominal * 3600 <= wait <= min(1.25 * nominal, 24) * 3600 + 2


def test_a_throttled_request_is_the_same_request_after_that_time():
    rig = Rig()
    rig.peer.refuse["activate"] = {"code": "THROTTLED", "retry_after_s": 3}
    rig.run(lambda: len(rig.peer.said("activate")) == 1)
    start = rig.now
    rig.peer.refuse = {}
    rig.run(online(rig))
    first, second = rig.peer.said("activate")
    assert first == second
    assert len(rig.peer.connects) == 2
    assert rig.now - start >= 3


def test_an_unanswered_request_is_repeated_with_the_same_bytes_then_the_device_reconnects():
    rig = Rig()
    rig.peer.mangle = lambda verb, p: []
    rig.run(lambda: len(rig.peer.connects) == 2)
    hellos = rig.peer.said("hello")
    assert len(hellos) == 4
    assert hellos.count(hellos[0]) == 4
    # 2 s, 3 s, 4.5 s and 6.75 s, each +-25 %, and the first back-off
    assert 0.75 * 16.25 <= rig.now - 1000 <= 1.25 * 16.25 + 2


def test_a_lost_activate_reply_is_asked_for_again_and_gives_the_same_credential():
    rig = Rig()
    lost = [2]

    def lose(verb, payload):
        if verb == "activate" and lost[0]:
            lost[0] -= 1
            return []
        return [payload]

    rig.peer.mangle = lose
    rig.run(online(rig))
    assert len(rig.peer.credentials) == 1
    assert len(rig.peer.said("activate")) == 3


def test_a_connection_that_never_opens_is_given_up_and_tried_again():
    rig = Rig()
    rig._later = lambda event: None
    rig.boot()
    rig.run_for(31)
    del rig._later
    assert rig.client.counters["connect_timeout"] == 1
    rig.run(online(rig))


class WithCertificates(Crypto):
    def make_csr(self):
        return b"csr", "-----PRIVATE-----"


def grant_certificates(rig, certificate="-----CERTIFICATE-----"):
    """Have the service grant a certificate instead of an API key."""
    answer = rig.peer._activate

    def with_certificate(session, request, out):
        reply = answer(session, request, out)
        values = unpackb(reply["grant"])
        values["kind"] = "x509"
        values["certificate"] = certificate
        values["ca"] = "-----CA-----"
        claim = request["claim"]
        assert unpackb(claim)["csr"] == b"csr"
        grant = packb(values)
        proof = keys.activated_proof(K, session, request["server_nonce"], claim, grant)
        return {"grant": grant, "server_proof": proof}

    rig.peer._activate = with_certificate
    rig.peer.admit = rig.peer.connects.append


def test_a_certificate_is_used_with_the_key_that_was_made_for_it():
    rig = Rig(crypto=WithCertificates())
    grant_certificates(rig)
    rig.run(online(rig))
    connect = rig.peer.connects[-1]
    assert (connect.certificate_pem, connect.private_key_pem) == ("-----CERTIFICATE-----", "-----PRIVATE-----")
    assert (connect.username, connect.password, connect.ca_pem) == (None, None, "-----CA-----")
    assert "PRIVATE" not in repr(connect)


class ReadsCertificates(WithCertificates):
    def owns_certificate(self, certificate, csr):
        assert csr == b"csr"
        return certificate == "-----OWN-----"


def test_a_certificate_for_another_key_is_ignored_and_one_for_its_own_is_used():
    rig = Rig(crypto=ReadsCertificates())
    grant_certificates(rig, "-----OF ANOTHER-----")
    rig.run(lambda: ("warning", "garbage", "activate: foreign_certificate") in rig.notes)
    assert not any(b"OF ANOTHER" in data for data in rig.machine.flash.values())
    assert rig.client.status.place == "bootstrap"
    rig = Rig(crypto=ReadsCertificates())
    grant_certificates(rig, "-----OWN-----")
    rig.run(online(rig))
    assert rig.peer.connects[-1].certificate_pem == "-----OWN-----"


def test_a_new_claim_after_an_expired_nonce_asks_for_a_certificate_with_a_new_key():
    """The key of the one before may be that of a credential that was dropped: it is not certified again."""

    class Numbered(Crypto):
        made = 0

        def make_csr(self):
            self.made += 1
            return b"csr %d" % self.made, "-----PRIVATE-----"

    rig = Rig(crypto=Numbered())
    rig.peer.refuse["activate"] = {"code": "NONCE_EXPIRED"}
    rig.run(lambda: len(rig.peer.said("activate")) >= 2)
    claims = [unpackb(request["claim"])["csr"] for request in rig.peer.said("activate")]
    assert claims[:2] == [b"csr 1", b"csr 2"]


class Signing(Crypto):
    """A public-key device in miniature: "signatures" are HMACs under two keys."""

    def sign(self, message):
        return keys.hmac_sha256(b"device", message)

    def verify_ed25519(self, public_key, message, signature):
        if keys.hmac_sha256(public_key, message) != signature:
            raise WrongSignatureError

    def make_csr(self):
        return b"csr", None


def test_a_public_key_device_signs_and_believes_only_its_service_keys():
    rig = Rig(crypto=Signing(), key=None, key_index=3, service_keys=(b"service",))
    rig.boot()
    rig.run(lambda: rig.peer.said("hello") != [])
    session = rig.owner
    server_nonce = bytes(16)
    sent = []
    rig.peer.handle = lambda topic, payload: sent.append(unpackb(payload)) or []
    reply = {"id": rig.peer.said("hello")[0]["id"], "ok": True, "server_nonce": server_nonce}
    rig.deliver(topics.down("b", session, "hello"), packb(reply))
    (activate,) = sent
    claim = activate["claim"]
    assert unpackb(claim)["key_index"] == 3
    assert activate["proof"] == keys.hmac_sha256(b"device", keys.activate_message(session, server_nonce, claim))
    grant = packb(
        {
            "thing_id": "0" * 32,
            "name": "x",
            "ou": "x",
            "environment": "x",
            "credential_id": ids.credential_id(session, server_nonce, claim),
            "kind": "x509",
            "certificate": "PEM",
            "endpoint": {"host": "ops", "port": 1, "tls": True},
            "time": 1,
        }
    )
    message = keys.activated_message(session, server_nonce, claim, grant)
    for key, connects in ((b"other", 1), (b"service", 2)):
        fields = {"id": activate["id"], "ok": True, "grant": grant, "server_proof": keys.hmac_sha256(key, message)}
        rig.deliver(topics.down("b", session, "activate"), packb(fields))
        assert len(rig.peer.connects) == connects


def test_a_device_without_an_endpoint_cannot_be_made():
    with pytest.raises(ValueError, match="bootstrap"):
        Rig(bootstrap=[])


def test_a_retired_device_wipes_its_credentials_and_comes_back_by_bootstrap_after_a_restart():
    rig = Rig()
    rig.run(online(rig))
    password = rig.peer.connects[-1].password
    rig.peer.want(retired={"reason": "sold"})
    rig.push()
    assert rig.client.status.state == "retired"
    assert rig.peer.said("report")[-1]["desired_rev"] == 1
    assert not any(password.encode() in data for data in rig.machine.flash.values())
    assert rig.client.wake_at is None
    count = len(rig.peer.connects)
    rig.peer.refuse["activate"] = {"code": "RETIRED"}
    rig.boot()
    rig.run_for(3600)
    assert {c.username for c in rig.peer.connects[count:]} == {None}


def test_a_retired_that_is_not_authenticated_is_ignored():
    rig = Rig()
    rig.run(online(rig))
    rig.peer.key = bytes(32)
    rig.peer.want(retired={"reason": "sold"})
    rig.push()
    rig.run(lambda: rig.peer.causes() != [])
    assert rig.client.status.state == "online"
    assert rig.peer.causes() == ["mac"]


def test_the_core_draws_actions_only_once_and_takes_calls_in_any_order():
    machine, peer = Machine(), Peer()
    rig = Rig(peer, machine)
    client = Client(rig.identity, Policy(), machine, machine, Crypto(), rig.random_bytes)
    client.tick(1.0)
    client.connected(1.0)
    client.disconnected(1.0)
    client.received("x", b"", 1.0)
    assert client.actions() == []
    assert client.wake_at is None
    client.start(1.0)
    assert [type(a) for a in client.actions()] == [Connect]
    assert client.actions() == []
    client.connected(2.0)
    client.connected(2.0)
    assert [type(a) for a in client.actions()] == [Publish]


def test_every_factory_endpoint_is_tried():
    rig = Rig(bootstrap=[Endpoint("one", 1, False), Endpoint("two", 2, True, "CA")])
    rig.peer.up = False
    rig.run(lambda: {c.host for c in rig.peer.connects} == {"one", "two"})
    assert rig.peer.connects[-1].ca_pem == "CA"
    assert SERIAL not in repr(rig.peer.connects)
