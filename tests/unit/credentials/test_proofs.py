"""Proofs of devices and of the service, for HMAC keys and public keys."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from device_sdk.wire import keys
from service.credentials import proofs
from service.credentials.proofs import Unproven
from service.domain.device import KeyAlgorithm, PublicKey
from service.domain.group import KeyKind
from service.domain.group_secrets import MAX_SECRETS
from service.errors import Secret
from tests.support.pipeline_site import group, registered

MESSAGE = b"canonical bytes"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
SERVICE = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def verify_claimant(*args):
    return proofs.verify_claimant(*args, now=NOW)


def spki(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def p256_signature(key, message=MESSAGE) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def pss_signature(key, message=MESSAGE) -> bytes:
    return key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


ED = ed25519.Ed25519PrivateKey.from_private_bytes(b"d" * 32)
EC = ec.derive_private_key(12345678901234567890, ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
PUBLIC = group(key_kind=KeyKind.PUBLIC_KEY)
HOLDER = registered(
    key=None,
    public_keys=(
        PublicKey(0, KeyAlgorithm.ED25519, spki(ED)),
        PublicKey(3, KeyAlgorithm.ECDSA_P256, spki(EC)),
        PublicKey(7, KeyAlgorithm.RSA_PSS, spki(RSA)),
    ),
)


@pytest.mark.parametrize(
    ("index", "sign"),
    [(0, ED.sign), (3, lambda m: p256_signature(EC, m)), (7, lambda m: pss_signature(RSA, m))],
    ids=["ed25519", "p256", "rsa-pss"],
)
def test_a_signature_of_the_registered_key_proves_and_a_changed_bit_does_not(index, sign):
    good = sign(MESSAGE)
    prover = verify_claimant(PUBLIC, HOLDER, "sn-1", index, SERVICE, MESSAGE, good)
    SERVICE.public_key().verify(prover.prove(b"grant"), b"grant")
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], good + b"\0", bytes(len(good))):
        with pytest.raises(Unproven):
            verify_claimant(PUBLIC, HOLDER, "sn-1", index, SERVICE, MESSAGE, bad)
    with pytest.raises(Unproven):
        verify_claimant(PUBLIC, HOLDER, "sn-1", index, SERVICE, MESSAGE + b".", good)


def test_the_algorithm_is_the_registered_one_not_the_messages():
    with pytest.raises(Unproven):
        verify_claimant(PUBLIC, HOLDER, "sn-1", 0, SERVICE, MESSAGE, p256_signature(EC))


def test_a_key_index_that_is_not_registered_proves_nothing():
    with pytest.raises(Unproven):
        verify_claimant(PUBLIC, HOLDER, "sn-1", 1, SERVICE, MESSAGE, ED.sign(MESSAGE))


def test_a_der_signature_is_not_taken_for_r_and_s():
    with pytest.raises(Unproven):
        verify_claimant(PUBLIC, HOLDER, "sn-1", 3, SERVICE, MESSAGE, EC.sign(MESSAGE, ec.ECDSA(hashes.SHA256())))


def test_an_individual_key_proves_and_makes_the_services_proof():
    device = registered()
    proof = proofs.hmac_sha256(device.key.reveal(), MESSAGE)
    prover = verify_claimant(group(), device, "sn-1", 0, SERVICE, MESSAGE, proof)
    assert prover.prove(b"grant") == keys.hmac_sha256(device.key.reveal(), b"grant")


@pytest.mark.parametrize("kind", [KeyKind.DERIVED, KeyKind.GROUP])
def test_a_derived_key_needs_no_row(kind):
    one = group(key_kind=kind, secret=Secret(b"s" * 32))
    key = keys.derive_key(b"s" * 32, "sn-9")
    verify_claimant(one, None, "sn-9", 0, SERVICE, MESSAGE, keys.hmac_sha256(key, MESSAGE))
    with pytest.raises(Unproven):
        verify_claimant(one, None, "sn-8", 0, SERVICE, MESSAGE, keys.hmac_sha256(key, MESSAGE))


def test_a_public_key_device_is_not_proven_by_an_hmac_under_the_dummy_key():
    for key in (bytes(32), b""):
        proof = keys.hmac_sha256(key, MESSAGE)
        for who in ((PUBLIC, HOLDER), (group(), None), (None, None)):
            with pytest.raises(Unproven):
                verify_claimant(*who, "sn-1", 0, SERVICE, MESSAGE, proof)


def test_a_device_without_a_key_proves_nothing():
    with pytest.raises(Unproven):
        verify_claimant(
            group(), registered(key=None), "sn-1", 0, SERVICE, MESSAGE, keys.hmac_sha256(bytes(32), MESSAGE)
        )


WHO = {
    "a wrong proof": (group(), registered()),
    "an unknown serial": (group(), None),
    "an unknown group": (None, None),
    "a derived group": (group(key_kind=KeyKind.DERIVED, secret=Secret(b"s" * 32)), None),
    "a public-key device": (PUBLIC, HOLDER),
    "a device without a key": (group(), registered(key=None)),
}


@pytest.mark.parametrize("who", WHO.values(), ids=WHO)
def test_every_unproven_claimant_costs_the_same_number_of_hmacs(who, monkeypatch):
    calls = []
    real = proofs.hmac_sha256
    monkeypatch.setattr(proofs, "hmac_sha256", lambda key, data: calls.append(1) or real(key, data))
    with pytest.raises(Unproven):
        verify_claimant(*who, "sn-1", 0, SERVICE, MESSAGE, b"x" * 32)
    assert len(calls) == 2 * MAX_SECRETS
