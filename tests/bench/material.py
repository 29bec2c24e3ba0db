"""What one bench device needs for its activation, worked out before the clock starts.

Owns keys, requests, a certificate request and proofs by the wire package; no state, no sockets. Devices are of key kind
`derived`, so that only the group's secret has to be shared with the service.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from device_sdk.wire import ids
from device_sdk.wire.canon import canon

CONFIRM = ("online", {"n": 1, "boot_count": 1, "desired_rev": 0, "caps": []})


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def make_csr() -> bytes:
    """A CSR (DER) for a fresh P-256 key, which the bench forgets: nothing of it logs in."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = request.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


@dataclass(slots=True)
class Material:
    key: bytes
    session: str
    nonce: bytes
    claim: bytes
    hello: bytes  # the encoded request

    @classmethod
    def make(cls, group_id: str, group_secret: bytes, serial: str, *, csr: bytes | None = None) -> "Material":
        key, nonce = mac(group_secret, serial.encode()), secrets.token_bytes(16)
        session = mac(key, canon("pv1 session", serial, 1, secrets.token_bytes(16)))[:16].hex()
        who = {"group_id": group_id, "serial": serial, "nonce": nonce}
        claim = {**who, "boot_count": 1, "firmware": {"name": "1.0"}, "caps": []}
        if csr is not None:
            claim["csr"] = csr
        return cls(key, session, nonce, msgpack.packb(claim), msgpack.packb({"id": "1", **who}))

    def activate(self, server_nonce: bytes) -> bytes:
        """The encoded request."""
        proof = mac(self.key, canon("pv1 activate", self.session, server_nonce, self.claim))
        return msgpack.packb({"id": "2", "claim": self.claim, "server_nonce": server_nonce, "proof": proof})

    def proven(self, server_nonce: bytes, reply: dict) -> bool:
        """Whether `server_proof` fits the grant of this reply."""
        items = self.session, server_nonce, hashlib.sha256(self.claim).digest(), reply["grant"]
        return hmac.compare_digest(mac(self.key, canon("pv1 activated", *items)), reply["server_proof"])

    def credential_id(self, server_nonce: bytes) -> str:
        return ids.credential_id(self.session, server_nonce, self.claim)

    def api_key(self, server_nonce: bytes, thing_id: str, credential_id: str) -> str:
        prk = mac(self.nonce + server_nonce, self.key)
        return mac(prk, canon("pv1 api-key", thing_id, credential_id) + b"\x01").hex()
