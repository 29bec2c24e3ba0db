"""Our own key for files from and to other platforms: what they encrypt to, and what we sign with.

Owns the files of keys (mode 0600) and certificates in one folder. A certificate is signed by itself: the other side pins
it, as we pin theirs.

    own.key own.pem               in use: we sign with it
    own.next.key own.next.pem     made, and given to the other side; read with, not yet signed with
    own.ID.key own.ID.pem         used before; read with until it is retired

Each step writes whole files and renames them; cut off anywhere, `load` finds a pair, and the step is done again.
"""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass, replace
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
from service.whole_files import flush_folder, write_whole

RSA_BITS = 3072
LIFE = timedelta(days=365 * 10)
BACKDATE = timedelta(minutes=5)  # the other side's clock may be behind
OWN, NEXT = "own", "own.next"
_EARLIER = re.compile(r"own\.([0-9a-f]{16})\.key\Z")


@dataclass(frozen=True, slots=True)
class Pair:
    """One key as it is shown. `place`: in use, next, earlier."""

    key_id: str
    place: str
    certificate: x509.Certificate


def key_id_of(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()[:16]


def create(folder: Path, name: str, now: datetime) -> Keyholder:
    """Make key and certificate. Raises CmsError where there are some already."""
    folder.mkdir(parents=True, exist_ok=True)
    if _key_path(folder, OWN).exists():
        raise CmsError("keyholder_exists", "there is a key already; files are on their way that need it")
    return _make(folder, OWN, name, now)


def make_next(folder: Path, name: str, now: datetime) -> Keyholder:
    """The pair that comes after the one in use; the same one until it is used. Raises CmsError."""
    _finish(folder)
    load(folder)
    if _key_path(folder, NEXT).exists():
        return _pair(folder, NEXT)
    return _make(folder, NEXT, name, now)


def rotate(folder: Path, name: str, now: datetime) -> tuple[str, str]:
    """Use the next pair (made now where there is none) and keep the one before for reading: ids of both. Raises CmsError."""
    make_next(folder, name, now)
    before = _pair(folder, OWN)
    kept = f"{OWN}.{key_id_of(before.certificate)}"
    write_whole(folder / f"{kept}.pem", _pem(before.certificate), mode=0o644)
    write_whole(folder / f"{kept}.key", before.key_path.read_bytes())
    after = key_id_of(_pair(folder, NEXT).certificate)
    _key_path(folder, NEXT).rename(_key_path(folder, OWN))
    # Cut off here, the key in use belongs to the next certificate: `load` says so, and the next step goes on.
    _finish(folder)
    return after, key_id_of(before.certificate)


def retire(folder: Path, key_id: str) -> None:
    """Delete a key that was used before: what is encrypted to it can be read no more. Raises CmsError."""
    if key_id not in {one.key_id for one in pairs(folder) if one.place == "earlier"}:
        raise CmsError("keyholder_unknown", f"no key of before {key_id[:32]!r}")
    _key_path(folder, f"{OWN}.{key_id}").unlink()
    (folder / f"{OWN}.{key_id}.pem").unlink(missing_ok=True)
    flush_folder(folder)


def pairs(folder: Path) -> list[Pair]:
    """The one in use, the next, and those of before. Raises CmsError."""
    us = load(folder)
    found = [Pair(key_id_of(us.certificate), "in use", us.certificate)]
    for one in us.others:
        place = "next" if one.key_path == _key_path(folder, NEXT) else "earlier"
        found.append(Pair(key_id_of(one.certificate), place, one.certificate))
    return found


def load(folder: Path) -> Keyholder:
    """The pair in use, with the others. Raises CmsError: missing, unreadable, open to others, not belonging together."""
    us = _pair(folder, OWN)
    names = sorted(path.name.removesuffix(".key") for path in folder.glob("own.*.key") if _EARLIER.match(path.name))
    names = [*([NEXT] if _key_path(folder, NEXT).exists() else []), *names]
    others = [_pair(folder, name) for name in names]
    return replace(us, others=tuple(one for one in others if one.certificate != us.certificate))


def _pair(folder: Path, name: str) -> Keyholder:
    path = _key_path(folder, name)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise CmsError("keyholder_open", f"{path.name} can be read by others; chmod 600 if nobody has")
        # Our own file: checking that its primes are primes takes 0.1 s each time, and its certificate is compared below.
        key = load_pem_private_key(path.read_bytes(), password=None, unsafe_skip_rsa_key_validation=True)
        certificate = _certificate(folder, name)
        if name == OWN and not _fits(key, certificate) and (folder / f"{NEXT}.pem").exists():
            certificate = _certificate(folder, NEXT)  # a rotation was cut off between its two renames
    except FileNotFoundError as error:
        raise CmsError(
            "keyholder_missing", "there is no key for files yet; `firstlight enrolment certificate` makes it"
        ) from error
    except (OSError, ValueError) as error:
        raise CmsError("keyholder_unreadable", "the key for files cannot be read") from error
    if not isinstance(key, rsa.RSAPrivateKey) or not _fits(key, certificate):
        raise CmsError("keyholder_unreadable", f"{path.name} does not belong to its certificate")
    return Keyholder(certificate, key, path)


def _certificate(folder: Path, name: str) -> x509.Certificate:
    return load_certificate((folder / f"{name}.pem").read_text(encoding="ascii"))


def _fits(key: object, certificate: x509.Certificate) -> bool:
    return isinstance(key, rsa.RSAPrivateKey) and key.public_key() == certificate.public_key()


def _finish(folder: Path) -> None:
    """The second rename of a rotation, if the first one was made."""
    following = folder / f"{NEXT}.pem"
    if following.exists() and not _key_path(folder, NEXT).exists():
        if _pair(folder, OWN).certificate == _certificate(folder, NEXT):
            following.rename(folder / f"{OWN}.pem")
        flush_folder(folder)


def _make(folder: Path, place: str, name: str, now: datetime) -> Keyholder:
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
    # The certificate first: a key without one would stand in the way of a second try.
    write_whole(folder / f"{place}.pem", _pem(certificate), mode=0o644)
    write_whole(folder / f"{place}.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Keyholder(certificate, key, _key_path(folder, place))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.key"
