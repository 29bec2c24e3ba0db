"""The core's crypto on the `cryptography` package: Ed25519 checks, sealed secrets and P-256 certificate requests.

Owns no key: the private key of a request is handed to the core, which keeps it in the device's credential record.
"""

from __future__ import annotations

import hmac

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from device_sdk.core.ports import Crypto, WrongSignatureError

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096  # a proof has at most 512 bytes
SigningKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | RSAPrivateKey


class SigningKeyError(ValueError):
    """The private key cannot be used; the message says nothing of the key itself."""


def load_signing_key(pem: bytes) -> SigningKey:
    """A private key (PEM, unencrypted): Ed25519, ECDSA P-256 or RSA of 2,048 to 4,096 bits. Raises SigningKeyError."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SigningKeyError("not an unencrypted PEM private key") from None
    if (
        isinstance(key, Ed25519PrivateKey)
        or (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1))
        or (isinstance(key, RSAPrivateKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS)
    ):
        return key
    raise SigningKeyError("Ed25519, ECDSA P-256 or RSA of 2048 to 4096 bits is needed")


class FullCrypto(Crypto):
    """Verifies release signatures; asks for certificates when `x509_credentials`; signs when given `signing_key`."""

    def __init__(self, *, x509_credentials: bool = False, signing_key: SigningKey | None = None) -> None:
        self._x509_credentials = x509_credentials
        self._signing_key = signing_key

    def hmac_sha256(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, "sha256")

    def verify_ed25519(self, public_key: bytes, message: bytes, signature: bytes) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise WrongSignatureError from error

    def aes_gcm_open(self, key: bytes, nonce: bytes, sealed: bytes) -> bytes:
        try:
            return AESGCM(key).decrypt(nonce, sealed, None)
        except InvalidTag as error:
            raise ValueError("it was not sealed with this key") from error

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

    def owns_certificate(self, certificate: str, csr: bytes) -> bool:
        form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        try:
            leaf = x509.load_pem_x509_certificate(certificate.encode()).public_key()
            asked = x509.load_der_x509_csr(csr).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            return False
        return leaf.public_bytes(*form) == asked.public_bytes(*form)

    def sign(self, message: bytes) -> bytes | None:
        """By Ed25519, by ECDSA with SHA-256 as r then s of 32 bytes each, or by RSA-PSS with SHA-256."""
        key = self._signing_key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        if isinstance(key, RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            return key.sign(message, pss, hashes.SHA256())
        return None if key is None else key.sign(message)
