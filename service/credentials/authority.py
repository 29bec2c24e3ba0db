"""One environment's certificate authority: device certificates for CSRs. Brokers' own certificates and lists: brokers/mosquitto.

Owns the CA's key and what a certificate of ours looks like. Must not decide who gets one: handlers have checked the
proof before. Files: `<directory>/ca.key` (mode 0600) and `ca.pem`. Source: RFC 5280, RFC 2986; docs/protocol.md 4.2.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.errors import Secret
from service.whole_files import write_whole

BACKDATE = timedelta(minutes=5)  # a device's clock may be behind
DEVICE_LIFE = timedelta(days=365)
CA_LIFE = timedelta(days=365 * 20)
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192  # a larger one costs the verifier too much
SERIAL_BYTES = 20

_DIGITAL_SIGNATURE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_NOT_A_CA = x509.BasicConstraints(ca=False, path_length=None)
_CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


# What cryptography raises for bytes that are no CSR, or one with a key or signature that it does not know.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class AuthorityError(Exception):
    """The CA's files are missing, damaged or open to others."""


class CsrError(ValueError):
    """A CSR that is refused. `cause` names the counter, the text says what is wrong; neither holds its content."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Issued:
    """A device certificate. `serial` is lower-case hex without leading zeros, as `certificate_serial` is stored."""

    pem: str
    serial: str
    spki_sha256: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Csr:
    """A CSR that could be read; nothing of it is checked yet."""

    der: bytes
    request: x509.CertificateSigningRequest
    public: CertificatePublicKeyTypes
    spki_sha256: bytes


@dataclass(frozen=True, slots=True)
class Order:
    """A certificate for a device that has proved itself. `serial` is 20 random bytes."""

    environment: str
    csr: Csr
    credential_id: str
    now: datetime
    serial: bytes


Signed = Issued | CsrError


def read_csr(der: bytes) -> Csr:
    """Read a CSR once, for the look-up of its key and for signing. Raises CsrError."""
    try:
        request = x509.load_der_x509_csr(der)
        public = request.public_key()
        return Csr(der, request, public, _spki_sha256(public))
    except _UNREADABLE as error:
        raise CsrError("csr_malformed", "the CSR cannot be read") from error


class Authority:
    """Signs for one environment. Pure but for `create` and `load`: time and serial numbers are arguments."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        self.ca_pem = _pem(certificate)

    @classmethod
    def create(cls, directory: Path, environment: str, now: datetime, *, serial: bytes | None = None) -> Authority:
        """Make a P-256 CA that lives 20 years. Raises AuthorityError when there is one already.

        Key, then certificate, each whole: cut off in between, the next call gives that key its certificate.
        """
        key_path, certificate_path = directory / "ca.key", directory / "ca.pem"
        if certificate_path.exists():
            raise AuthorityError(f"there is a CA for {environment} already; it is not replaced")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not key_path.exists():
            write_whole(key_path, _key_pem(ec.generate_private_key(ec.SECP256R1())))
        key = _load_key(key_path)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Firstlight CA {environment}"[:64])])
        certificate = (
            _builder(name, name, key.public_key(), _serial(serial or os.urandom(SERIAL_BYTES)), now, CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_CA_USAGE, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_whole(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        return cls(key, certificate)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Read the files of `create`. Raises AuthorityError."""
        try:
            key = _load_key(directory / "ca.key")
            return cls._of(key, (directory / "ca.pem").read_text("ascii"))
        except (OSError, ValueError) as error:
            raise AuthorityError("the CA's files are missing or damaged") from error

    @classmethod
    def from_pem(cls, key_pem: bytes, ca_pem: str) -> Authority:
        """Raises AuthorityError, and what cryptography raises for what is no key or certificate."""
        return cls._of(serialization.load_pem_private_key(key_pem, password=None), ca_pem)

    @classmethod
    def _of(cls, key: object, ca_pem: str) -> Authority:
        certificate = x509.load_pem_x509_certificate(ca_pem.encode("ascii"))
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityError("ca.key and ca.pem do not belong together")
        return cls(key, certificate)

    def key_pem(self) -> Secret:
        """For a process of our own that signs in its place."""
        return Secret(_key_pem(self._key))

    def sign_csr(
        self, csr: Csr, credential_id: str, now: datetime, serial: bytes, life: timedelta = DEVICE_LIFE
    ) -> Issued:
        """The certificate for a device's CSR, with CN = credential_id. `serial` is 20 random bytes. Raises CsrError."""
        # 1. It could be read. Its subject and its extensions are never looked at.
        public = csr.public
        # 2. The key is of a kind and size that is good enough; before any arithmetic with it.
        if not _is_good_key(public):
            raise CsrError("csr_key_type", "the CSR's key must be ECDSA P-256 or P-384, Ed25519 or RSA of 2048 bits")
        # 3. Whoever sent it holds the private key.
        try:
            valid = csr.request.is_signature_valid
        except _UNREADABLE as error:
            raise CsrError("csr_signature", "the CSR's signature is of an unknown kind") from error
        if not valid:
            raise CsrError("csr_signature", "the CSR's signature is wrong")
        # 4. The subject is ours, the extensions are fixed.
        number = _serial(serial)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, credential_id)])
        certificate = (
            _builder(subject, self._certificate.subject, public, number, now, life)
            .add_extension(_NOT_A_CA, critical=True)
            .add_extension(_DIGITAL_SIGNATURE, critical=True)
            .add_extension(_CLIENT, critical=False)
            .add_extension(self._key_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(_pem(certificate), f"{number:x}", csr.spki_sha256, certificate.not_valid_after_utc)


def _is_good_key(public: object) -> bool:
    if isinstance(public, ec.EllipticCurvePublicKey):
        return isinstance(public.curve, (ec.SECP256R1, ec.SECP384R1))
    if isinstance(public, rsa.RSAPublicKey):
        return MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS
    return isinstance(public, ed25519.Ed25519PublicKey)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: CertificatePublicKeyTypes,
    number: int,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(number)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
    )


def _serial(raw: bytes) -> int:
    """159 random bits, never zero. Source: RFC 5280, 4.1.2.2."""
    return (int.from_bytes(raw, "big") >> 1) | 1


def _spki_sha256(public: object) -> bytes:
    spki: bytes = public.public_bytes(  # type: ignore[attr-defined]  # every public key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises AuthorityError, OSError."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise AuthorityError("ca.key can be read by others; chmod 600 if nobody has, else make a new CA")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError("the CA's files are missing or damaged") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError("ca.key is not an EC key")
    return key
