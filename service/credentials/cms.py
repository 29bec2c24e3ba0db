"""Files between billing platforms: encrypted CMS envelopes with a detached signature over the encrypted bytes.

Owns their form: EnvelopedData with AES-256-CBC for RSA recipients, DER, binary; beside it a signature as detached CMS
SignedData (`.p7s`) or as the bare bytes that `openssl dgst -sha256 -sign` writes (`.sig`). CBC has no integrity of its
own (of all single flipped bytes some decrypt to other text), so there is one way in, and it is in this order:

    1. size   2. signature by the one pinned certificate   3. decryption   4. size of what came out

What the library cannot read (BER, OAEP, other ciphers) goes through openssl.py, after the signature held. Blocks for up
to seconds on 64 MiB; callers run it in a thread. Source: RFC 5652, sections 5 and 6; RFC 8017; docs/partners/enrolment.md.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from service.credentials import openssl

MAX_BYTES = 64 * 1024 * 1024  # of a file, encrypted or not
MAX_SIGNATURE_BYTES = 64 * 1024  # a signature, with the certificates that some put beside it
MIN_RSA_BITS = 2048
_OVERHEAD = 64 * 1024  # envelope around 64 MiB of text: a few hundred bytes for each recipient
SIGNATURE_SUFFIXES = (".p7s", ".sig")


class CmsError(Exception):
    """A file that is refused. `cause` names the counter; the text says what is wrong and holds nothing of it."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Keyholder:
    """Whom files are for: ours. `key_path` is the private key's file (PEM, mode 0600), for the openssl program.

    `others`: further keys of ours that files are read with (of before, and the next), not signed with.
    """

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    key_path: Path
    others: tuple[Keyholder, ...] = ()

    @property
    def every(self) -> tuple[Keyholder, ...]:
        return (self, *self.others)


@dataclass(frozen=True, slots=True)
class Signature:
    """A detached signature as it was found: `suffix` is .p7s (CMS, DER) or .sig (bare)."""

    data: bytes
    suffix: str


def seal(data: bytes, recipients: Sequence[x509.Certificate]) -> bytes:
    """An envelope that each of the recipients can open. Raises CmsError."""
    if len(data) > MAX_BYTES:
        raise CmsError("cms_too_large", f"a file has at most {MAX_BYTES} bytes")
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(data).set_content_encryption_algorithm(algorithms.AES256)
    for certificate in recipients:
        check_recipient(certificate)
        builder = builder.add_recipient(certificate)
    return builder.encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])


def sign(envelope: bytes, signer: Keyholder) -> bytes:
    """A detached CMS signature (.p7s) over the encrypted bytes."""
    options = [
        pkcs7.PKCS7Options.DetachedSignature,
        pkcs7.PKCS7Options.Binary,
        pkcs7.PKCS7Options.NoCapabilities,
    ]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(envelope)
    return builder.add_signer(signer.certificate, signer.key, hashes.SHA256()).sign(Encoding.DER, options)


def open_signed(
    envelope: bytes,
    signature: Signature,
    signer: x509.Certificate,
    ours: Keyholder,
    now: datetime,
    *,
    or_by: Sequence[x509.Certificate] = (),
) -> bytes:
    """What the envelope holds, if that one signer (or one of `or_by`) has signed exactly these bytes. Raises CmsError."""
    # 1. Before anything is looked into.
    if len(envelope) > MAX_BYTES + _OVERHEAD or len(signature.data) > MAX_SIGNATURE_BYTES:
        raise CmsError("cms_too_large", f"a file has at most {MAX_BYTES} bytes")
    # 2. Who made it. Nothing is decrypted, and no program sees a byte of the envelope's inside, unless this holds.
    _verify_one_of(envelope, signature, (signer, *or_by), now)
    # 3. For us?
    data = _decrypt(envelope, ours)
    # 4. An envelope does not compress, but a program did this.
    if len(data) > MAX_BYTES:
        raise CmsError("cms_too_large", f"a file has at most {MAX_BYTES} bytes")
    return data


def _verify_one_of(envelope: bytes, signature: Signature, signers: Sequence[x509.Certificate], now: datetime) -> None:
    for signer in signers[:-1]:
        try:
            return verify(envelope, signature, signer, now)
        except CmsError:
            continue
    return verify(envelope, signature, signers[-1], now)


def verify(envelope: bytes, signature: Signature, signer: x509.Certificate, now: datetime) -> None:
    """Raise CmsError unless this certificate, valid now, has signed exactly these bytes.

    Certificates within the signature count for nothing.
    """
    check_signer(signer, now)
    if signature.suffix == ".sig":
        _verify_bare(envelope, signature.data, signer)
    elif signature.suffix == ".p7s":
        _verify_cms(envelope, signature.data, signer)
    else:
        raise CmsError("signature_unknown", "a signature is a .p7s or a .sig file")


def load_certificate(pem: str) -> x509.Certificate:
    """Raises CmsError."""
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except (ValueError, UnicodeEncodeError) as error:
        raise CmsError("certificate_unreadable", "that is no certificate in PEM") from error


def check_recipient(certificate: x509.Certificate) -> None:
    """Raise CmsError unless files can be encrypted to it: RSA of at least 2048 bits."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < MIN_RSA_BITS:
        raise CmsError("recipient_key", f"files are encrypted to RSA keys of at least {MIN_RSA_BITS} bits")


def check_signer(certificate: x509.Certificate, now: datetime) -> None:
    """Raise CmsError unless what it signed may be believed now."""
    key = certificate.public_key()
    strong = isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)) or (
        isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS
    )
    if not strong:
        raise CmsError("signer_key", "a signer's key is RSA of at least 2048 bits, ECDSA or Ed25519")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise CmsError("signer_expired", "the signer's certificate is not valid now")


def _verify_bare(envelope: bytes, signature: bytes, signer: x509.Certificate) -> None:
    key = signer.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, envelope, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, envelope, ec.ECDSA(hashes.SHA256()))
        else:
            assert isinstance(key, ed25519.Ed25519PublicKey)
            key.verify(signature, envelope)
    except InvalidSignature as error:
        raise _wrong_signature() from error


def _verify_cms(envelope: bytes, signature: bytes, signer: x509.Certificate) -> None:
    """By the program: the library makes such signatures but does not check them."""
    with tempfile.TemporaryDirectory(prefix="firstlight-cms-") as name:  # mode 0700
        folder = Path(name)
        content, found, pinned = folder / "content", folder / "signature", folder / "signer.pem"
        content.write_bytes(envelope)
        found.write_bytes(signature)
        pinned.write_bytes(signer.public_bytes(Encoding.PEM))
        try:
            openssl.run(
                [
                    "cms", "-verify", "-binary", "-inform", "DER", "-in", found, "-content", content,
                    # Only this certificate is looked at for the key, whatever the signature brings along.
                    "-certfile", pinned, "-nointern", "-noverify", "-out", "/dev/null",
                ],
                max_bytes=0,
            )  # fmt: skip
        except openssl.ProgramError as error:
            raise _wrong_signature() from error


def _wrong_signature() -> CmsError:
    return CmsError("signature_wrong", "the signature is not of this file, or not by the expected signer")


def _decrypt(envelope: bytes, ours: Keyholder) -> bytes:
    """By whichever of our keys it is for. The library first: a wrong key costs it nothing."""
    for one in ours.every:
        with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
            return pkcs7.pkcs7_decrypt_der(envelope, one.certificate, one.key, [])
    for one in ours.others:
        with contextlib.suppress(CmsError):
            return _decrypt_by_program(envelope, one)
    return _decrypt_by_program(envelope, ours)


def _decrypt_by_program(envelope: bytes, ours: Keyholder) -> bytes:
    with tempfile.TemporaryDirectory(prefix="firstlight-cms-") as name:
        folder = Path(name)
        found, certificate = folder / "envelope", folder / "ours.pem"
        found.write_bytes(envelope)
        certificate.write_bytes(ours.certificate.public_bytes(Encoding.PEM))
        try:
            return openssl.run(
                [
                    "cms", "-decrypt", "-binary", "-inform", "DER", "-in", found,
                    "-recip", certificate, "-inkey", ours.key_path,
                ],
                max_bytes=MAX_BYTES + 1,
            )  # fmt: skip
        except openssl.ProgramError as error:
            raise CmsError("cms_unreadable", "the file is not encrypted for us, or is damaged") from error
