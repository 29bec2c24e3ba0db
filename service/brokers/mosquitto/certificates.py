"""What Mosquitto needs of the environment's CA: a server certificate and the list of revoked device certificates.

Owns those two forms. The CA itself and device certificates belong to credentials/authority.py, its exchange to
operations/ca_exchange.py. While a CA is exchanged there are two: both stand in the brokers' CA file, and each has a
list of its own, because OpenSSL refuses a certificate whose authority has none. Times are arguments.
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
NEXT, PREVIOUS = "next", "previous"  # folders of an environment's other authorities, while one is exchanged
CRL_LIFE = timedelta(days=3650)  # OpenSSL refuses every client once a CRL is out of date; render makes a new one


@dataclass(frozen=True, slots=True)
class Issuer:
    """The authority that signs. `beside`: others that are trusted too, those of them that have a key with their own list."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey
    trusted: tuple[x509.Certificate, ...] = ()  # besides its own
    beside: tuple[Issuer, ...] = ()


def load_issuer(ca_dir: Path) -> Issuer:
    """`ca.pem` and `ca.key` of one environment, and of its next and previous authority. Raises OSError or ValueError."""
    own = _load(ca_dir)
    further = x509.load_pem_x509_certificates((ca_dir / "ca.pem").read_bytes())[1:]
    kept = (_load(folder) for folder in (ca_dir / NEXT, ca_dir / PREVIOUS) if (folder / "ca.key").exists())
    beside = tuple(one for one in kept if one.certificate in further)
    return Issuer(own.certificate, own.private_key, tuple(further), beside)


def _load(folder: Path) -> Issuer:
    certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    private_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    if not isinstance(private_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder / 'ca.key'} is not an EC key")
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


def still_serves(
    certificate_pem: bytes, key_pem: bytes, issuer: Issuer, hostnames: Collection[str], now: datetime
) -> bool:
    """Whether a server certificate is of this key and this CA, has these names and a third of its life left."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, None)
        certificate.verify_directly_issued_by(issuer.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        ValueError,
        TypeError,
        InvalidSignature,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
    ):
        return False  # whatever is wrong with it, a new one is made
    # A rendering that was cut off between the two files leaves a key without its certificate.
    fits = certificate.public_key() == key.public_key()
    wanted = {_general_name(name) for name in hostnames}
    return fits and wanted == set(names) and certificate.not_valid_after_utc - now > SERVER_LIFE / 3


def revocation_list(issuer: Issuer, serials: Iterable[int], now: datetime) -> bytes:
    """The CRLs over these certificate serial numbers, PEM: the authority's own, then those of the others.

    Each holds all of them: serial numbers are random, and which authority has given one is not remembered.
    """
    wanted = sorted(set(serials))
    return b"".join(_revocation_list(one, wanted, now) for one in (issuer, *issuer.beside))


def _revocation_list(issuer: Issuer, serials: Iterable[int], now: datetime) -> bytes:
    since = now - BACKDATED
    # Given as a whole: `add_revoked_certificate` copies what is there each time, 0.9 s for 20,000.
    entries = [x509.RevokedCertificateBuilder(serial, since).build() for serial in serials]
    builder = (
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .issuer_name(issuer.certificate.subject)
        .last_update(since)
        .next_update(now + CRL_LIFE)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.private_key.public_key()), critical=False
        )
    )
    return builder.sign(issuer.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(issuer: Issuer) -> bytes:
    """Every certificate that a broker is to verify devices with."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (issuer.certificate, *issuer.trusted))


def revoked_serials(crl_pem: bytes) -> set[int]:
    return {entry.serial_number for one in _lists(crl_pem) for entry in one}


def read_list(crl_pem: bytes, issuer: Issuer) -> tuple[set[int], datetime]:
    """(serial numbers, when the first of them runs out) of the CRLs of these authorities, one each.

    Raises ValueError that says what is wrong with it; also when one authority's refuses more than another's.
    """
    try:
        found = _lists(crl_pem)
        signed = len(found) == 1 + len(issuer.beside) and all(
            crl.is_signature_valid(one.certificate.public_key())  # type: ignore[arg-type]  # ours are EC keys
            for crl, one in zip(found, (issuer, *issuer.beside), strict=True)
        )
        ends = [crl.next_update_utc for crl in found]
        serials = [{entry.serial_number for entry in crl} for crl in found]
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ValueError("was damaged") from error
    known = [at for at in ends if at is not None]
    if not signed or len(known) != len(ends) or any(one != serials[0] for one in serials):
        raise ValueError("was not signed by this CA")
    return serials[0], min(known)


def _lists(crl_pem: bytes) -> list[x509.CertificateRevocationList]:
    """Each CRL of a file. Raises ValueError: one cannot be read, or there is none."""
    end = b"-----END X509 CRL-----"
    parts = crl_pem.split(end)
    if len(parts) == 1 or parts[-1].strip():
        raise ValueError("no list, or something after it")
    return [x509.load_pem_x509_crl(one + end + b"\n") for one in parts[:-1]]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
