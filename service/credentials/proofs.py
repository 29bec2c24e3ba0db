"""Verify what a device proves and make what the service proves: HMAC keys and public keys behind one face.

Owns constant-time comparison and the algorithms of key kind `public_key`; the bytes that are proven come from
device_sdk.wire.keys. Verify functions raise Unproven, they never return a bool. Pure; no I/O.
Source: docs/protocol.md, sections 1 and 4; RFC 2104, RFC 8032, FIPS 186-5 (ECDSA), RFC 8017 (RSA-PSS).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from device_sdk.wire import keys
from service.domain import group_secrets
from service.domain.device import Device, KeyAlgorithm, PublicKey
from service.domain.group import Group, KeyKind
from service.errors import Secret

HMAC_BYTES = 32
# What a proof is checked against when there is nobody to check it against: the same work, never a match.
_DUMMY_KEY = Secret(bytes(HMAC_BYTES))
_DUMMY_PUBLIC = ed25519.Ed25519PublicKey.from_public_bytes(
    bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")  # RFC 8032, test 1
)


class Unproven(Exception):  # noqa: N818 - the protocol's word
    """The proof does not hold. `args[0]` is the true cause, for the log only."""


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """The standard library's HMAC, in the form that the wire package takes."""
    return hmac.digest(key, data, "sha256")


@dataclass(frozen=True, slots=True)
class HmacProver:
    """Both directions under a device key K. `generation`: of the group's secret that K is made from, None for others."""

    key: Secret
    generation: int | None = None

    def verify(self, message: bytes, proof: bytes) -> None:
        if not hmac.compare_digest(hmac_sha256(self.key.reveal(), message), proof):
            raise Unproven("wrong proof")

    def prove(self, message: bytes) -> bytes:
        return hmac_sha256(self.key.reveal(), message)

    def api_key(self, nonce: bytes, server_nonce: bytes, thing_id: str, credential_id: str) -> Secret:
        """The 64 hex characters, as ASCII bytes."""
        return Secret(
            keys.api_key(self.key.reveal(), nonce, server_nonce, thing_id, credential_id, hmac_sha256).encode("ascii")
        )

    def rekeyed(self, nonce: bytes, server_nonce: bytes, thing_id: str, credential_id: str) -> HmacProver:
        """With the key K' that takes K's place after a transfer of ownership."""
        return HmacProver(
            Secret(keys.rekey(self.key.reveal(), nonce, server_nonce, thing_id, credential_id, hmac_sha256))
        )


@dataclass(frozen=True, slots=True)
class SignatureProver:
    """A device's registered public key one way, the service key the other."""

    public_key: PublicKey
    service_key: ed25519.Ed25519PrivateKey

    def verify(self, message: bytes, proof: bytes) -> None:
        verify_signature(self.public_key, message, proof)

    def prove(self, message: bytes) -> bytes:
        return self.service_key.sign(message)


Prover = HmacProver | SignatureProver


def device_key(group: Group, device: Device) -> Secret | None:
    """K of a known device, or None where there is none. A key of its own comes before that of its group."""
    if device.key is not None:
        return device.key
    shared = group_secrets.secret_for(group, device.secret_generation)
    return None if shared is None else _derived(shared, device.serial)


def prover_of(group: Group, device: Device, service_key: ed25519.Ed25519PrivateKey, key_index: int = 0) -> Prover:
    """Who speaks for a device that is known. Raises Unproven when it has no such key."""
    if group.key_kind is KeyKind.PUBLIC_KEY:
        return SignatureProver(_public_key(device.public_keys, key_index), service_key)
    key = device_key(group, device)
    if key is None:
        raise Unproven("no device key is registered")
    return HmacProver(key)


def signer_of(group: Group, device: Device, service_key: ed25519.Ed25519PrivateKey) -> Prover:
    """What proves documents of the service to a device; the index of its public key does not matter here."""
    if group.key_kind is KeyKind.PUBLIC_KEY:
        return SignatureProver(device.public_keys[0], service_key)
    return prover_of(group, device, service_key)


def verify_claimant(
    group: Group | None,
    device: Device | None,
    serial: str,
    key_index: int,
    service_key: ed25519.Ed25519PrivateKey,
    message: bytes,
    proof: bytes,
    *,
    now: datetime,
    vouched: bool = False,
) -> Prover:
    """Check a proof against whoever is claimed, known or not, at the same cost. Raises Unproven.

    A proof of 32 bytes always takes the same number of HMACs, any other one signature check. `vouched`: it comes over
    the device's confirmed credential.
    """
    # 1. Which work is done follows from the proof alone, so time tells nothing of who exists.
    if len(proof) == HMAC_BYTES:
        prover = _verify_hmac(group, device, serial, message, proof)
        # A secret of the group proves whom it may still prove.
        if group is not None and prover.generation is not None:
            cause = group_secrets.refusal(group, device, prover.generation, now, vouched=vouched)
            if cause is not None:
                raise Unproven(cause)
        return prover
    public_key = None
    # 2. A signature counts only where the group has public keys and this device has that index.
    if group is not None and group.key_kind is KeyKind.PUBLIC_KEY and device is not None:
        public_key = next((key for key in device.public_keys if key.index == key_index), None)
    if public_key is None:
        _verify_nobody(message, proof)
        raise Unproven(_absence(group, device))
    # 3. The algorithm is the registered key's, never one that the message names.
    verify_signature(public_key, message, proof)
    return SignatureProver(public_key, service_key)


def verify_signature(public_key: PublicKey, message: bytes, signature: bytes) -> None:
    """Ed25519 (64 bytes), ECDSA P-256 with SHA-256 (64 bytes, r then s) or RSA-PSS with SHA-256. Raises Unproven."""
    try:
        key = load_der_public_key(public_key.spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unproven("the registered public key cannot be read") from error
    try:
        if public_key.algorithm is KeyAlgorithm.ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif public_key.algorithm is KeyAlgorithm.ECDSA_P256 and isinstance(key, ec.EllipticCurvePublicKey):
            _verify_p256(key, signature, message)
        elif public_key.algorithm is KeyAlgorithm.RSA_PSS and isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.AUTO)
            key.verify(signature, message, pss, hashes.SHA256())
        else:
            raise Unproven("the registered public key is of another kind than its algorithm")
    except InvalidSignature as error:
        raise Unproven("wrong signature") from error


def _verify_hmac(group: Group | None, device: Device | None, serial: str, message: bytes, proof: bytes) -> HmacProver:
    """Every secret of the group is tried, and dummies up to their number: the work is the same for everybody."""
    tried = _candidates(group, device)
    found: HmacProver | None = None
    for place in range(group_secrets.MAX_SECRETS):
        generation, secret, own = tried[place] if place < len(tried) else (None, _DUMMY_KEY, None)
        derived = _derived(secret, serial)
        key = own if own is not None else derived
        fits = hmac.compare_digest(hmac_sha256(key.reveal(), message), proof)
        if fits and place < len(tried):
            found = HmacProver(key, generation)
    if found is None:
        raise Unproven("wrong proof" if tried else _absence(group, device))
    return found


def _candidates(group: Group | None, device: Device | None) -> list[tuple[int | None, Secret, Secret | None]]:
    """(generation, secret of the group, key of one's own) of what may have made this proof."""
    if group is None or group.key_kind is KeyKind.PUBLIC_KEY:
        return []
    # A key of its own comes before that of its group: it changed hands.
    if device is not None and device.key is not None:
        return [(None, _DUMMY_KEY, device.key)]
    return [(generation, secret, None) for generation, secret in group_secrets.all_of(group)]


def _derived(secret: Secret, serial: str) -> Secret:
    return Secret(keys.derive_key(secret.reveal(), serial, hmac_sha256))


def _verify_nobody(message: bytes, proof: bytes) -> None:
    try:
        _DUMMY_PUBLIC.verify(proof, message)
    except InvalidSignature:
        return


def _absence(group: Group | None, device: Device | None) -> str:
    if group is None:
        return "unknown group"
    return "unknown serial" if device is None else "no such key"


def _public_key(found: Sequence[PublicKey], index: int) -> PublicKey:
    for key in found:
        if key.index == index:
            return key
    raise Unproven("no public key of that index is registered")


def _verify_p256(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> None:
    if len(signature) != 64 or not isinstance(key.curve, ec.SECP256R1):
        raise Unproven("an ECDSA signature is 64 bytes over P-256")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
