"""The core's crypto on the `cryptography` package: Ed25519 checks and P-256 certificate requests.

Owns no key: the private key of a request is handed to the core, which keeps it in the device's credential record.
"""

from __future__ import annotations

import hmac

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from device_sdk.core.ports import Crypto


class FullCrypto(Crypto):
    """Verifies release signatures; asks for certificates when `x509_credentials`; signs when given `signing_key`."""

    def __init__(self, *, x509_credentials: bool = False, signing_key: Ed25519PrivateKey | None = None) -> None:
        self._x509_credentials = x509_credentials
        self._signing_key = signing_key

    def hmac_sha256(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, "sha256")

    def verify_ed25519(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def make_csr(self) -> tuple[bytes, str | None] | None:
        """A fresh P-256 key: its request (DER) and the key (PKCS #8 PEM). The subject says nothing: the service sets it."""
        if not self._x509_credentials:
            return None
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return request.public_bytes(serialization.Encoding.DER), pem.decode("ascii")

    def sign(self, message: bytes) -> bytes | None:
        return None if self._signing_key is None else self._signing_key.sign(message)
