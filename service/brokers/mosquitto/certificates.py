"""What Mosquitto needs of the environment's CA: a server certificate and the list of revoked device certificates.

Owns those two forms. The CA itself and device certificates belong to credentials/authority.py. Times are arguments.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATED = timedelta(minutes=5)  # a device's clock may be behind
SERVER_LIFE = timedelta(days=397)
CRL_LIFE = timedelta(days=3650)  # OpenSSL refuses every client once a CRL is out of date; render makes a new one


@dataclass(frozen=True, slots=True)
class Issuer:
    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey


def load_issuer(ca_dir: Path) -> Issuer:
    """`ca.pem` and `ca.key` of one environment. Raises OSError or ValueError."""
    certificate = x509.load_pem_x509_certificate((ca_dir / "ca.pem").read_bytes())
    private_key = serialization.load_pem_private_key((ca_dir / "ca.key").read_bytes(), None)
    if not isinstance(private_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{ca_dir / 'ca.key'} is not an EC key")
    return Issuer(certificate, private_key)


def server_certificate(issuer: Issuer, hostnames: Collection[str], now: datetime) -> tuple[bytes, bytes]:
    """(certificate, private key), both PEM, for these DNS names and IP addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    first = next(iter(hostnames))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, first[:64])]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + SERVER_LIFE)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in hostnames]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.private_key.public_key()), critical=False
        )
        .sign(issuer.private_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def still_serves(certificate_pem: bytes, issuer: Issuer, hostnames: Collection[str], now: datetime) -> bool:
    """Whether a server certificate is of this CA, has these names and a third of its life left."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        certificate.verify_directly_issued_by(issuer.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False  # whatever is wrong with it, a new one is made
    wanted = {_general_name(name) for name in hostnames}
    return wanted == set(names) and certificate.not_valid_after_utc - now > SERVER_LIFE / 3


def revocation_list(issuer: Issuer, serials: Iterable[int], now: datetime) -> bytes:
    """The CRL over these certificate serial numbers, PEM."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - BACKDATED)
        .next_update(now + CRL_LIFE)
    )
    for serial in sorted(set(serials)):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - BACKDATED).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(issuer: Issuer) -> bytes:
    return issuer.certificate.public_bytes(serialization.Encoding.PEM)


def revoked_serials(crl_pem: bytes) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl(crl_pem)}


def read_list(crl_pem: bytes, issuer: Issuer) -> tuple[set[int], datetime]:
    """(serial numbers, when it runs out) of a CRL of this CA. Raises ValueError that says what is wrong with it."""
    try:
        crl = x509.load_pem_x509_crl(crl_pem)
        signed = crl.is_signature_valid(issuer.certificate.public_key())  # type: ignore[arg-type]  # ours are EC keys
        ends_at = crl.next_update_utc
        serials = {entry.serial_number for entry in crl}
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ValueError("was damaged") from error
    if not signed or ends_at is None:
        raise ValueError("was not signed by this CA")
    return serials, ends_at


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
