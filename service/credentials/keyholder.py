"""Our own key for files from and to other platforms: what they encrypt to, and what we sign with.

Owns the two files `own.key` (mode 0600) and `own.pem` in one folder. The certificate is signed by itself: the other
side pins it, as we pin theirs. Pure but for `create` and `load`.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from service.credentials.cms import CmsError, Keyholder, load_certificate

RSA_BITS = 3072
LIFE = timedelta(days=365 * 10)
BACKDATE = timedelta(minutes=5)  # the other side's clock may be behind


def create(folder: Path, name: str, now: datetime) -> Keyholder:
    """Make key and certificate. Raises CmsError where there are some already."""
    folder.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + LIFE)
        .sign(key, hashes.SHA256())
    )
    try:
        handle = os.open(_key_path(folder), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CmsError("keyholder_exists", "there is a key already; files are on their way that need it") from error
    # The certificate first: a key without one would stand in the way of a second try.
    (folder / "own.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    with os.fdopen(handle, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
    return Keyholder(certificate, key, _key_path(folder))


def load(folder: Path) -> Keyholder:
    """Raises CmsError: missing, unreadable, open to others, or not belonging together."""
    path = _key_path(folder)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise CmsError("keyholder_open", f"{path.name} can be read by others; chmod 600 if nobody has")
        # Our own file: checking that its primes are primes takes 0.1 s each time, and its certificate is compared below.
        key = load_pem_private_key(path.read_bytes(), password=None, unsafe_skip_rsa_key_validation=True)
        certificate = load_certificate((folder / "own.pem").read_text(encoding="ascii"))
    except FileNotFoundError as error:
        raise CmsError(
            "keyholder_missing", "there is no key for files yet; `firstlight enrolment certificate` makes it"
        ) from error
    except (OSError, ValueError) as error:
        raise CmsError("keyholder_unreadable", "the key for files cannot be read") from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
        raise CmsError("keyholder_unreadable", "the key for files does not belong to its certificate")
    return Keyholder(certificate, key, path)


def _key_path(folder: Path) -> Path:
    return folder / "own.key"
