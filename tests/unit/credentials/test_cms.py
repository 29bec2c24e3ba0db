"""CMS files: made and read by us, made and read by the openssl program, and changed on their way."""

from __future__ import annotations

import contextlib
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from service.credentials import cms, keyholder, openssl
from service.credentials.cms import CmsError, Keyholder, Signature
from tests.support.billing import Platform

NOW = datetime.now(UTC) + timedelta(hours=1)  # the program dates what it makes itself
TEXT = b'{"recordCount": 1}\r\n\x00\xff binary\n'


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Keyholder:
    return keyholder.create(tmp_path_factory.mktemp("ours"), "firstlight", datetime.now(UTC))


@pytest.fixture(scope="module")
def partner(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return Platform(tmp_path_factory.mktemp("partner"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return Platform(tmp_path_factory.mktemp("stranger"), "stranger")


def pem(ours: Keyholder) -> str:
    return ours.certificate.public_bytes(Encoding.PEM).decode()


def opened(envelope: bytes, signature: bytes, signer: Platform, ours: Keyholder, suffix: str = ".sig") -> bytes:
    return cms.open_signed(envelope, Signature(signature, suffix), cms.load_certificate(signer.pem), ours, NOW)


def cause(envelope: bytes, signature: bytes, signer: Platform, ours: Keyholder, suffix: str = ".sig") -> str:
    with pytest.raises(CmsError) as refused:
        opened(envelope, signature, signer, ours, suffix)
    return refused.value.cause


def test_openssl_opens_what_we_sealed_and_checks_what_we_signed(ours: Keyholder, partner: Platform) -> None:
    envelope = cms.seal(TEXT, [cms.load_certificate(partner.pem)])
    assert TEXT not in envelope
    assert partner.open(envelope) == TEXT
    partner.verify(envelope, cms.sign(envelope, ours), pem(ours))
    with pytest.raises(subprocess.CalledProcessError):
        partner.verify(envelope[:-1] + b"\x00", cms.sign(envelope, ours), pem(ours))


def test_an_envelope_for_two_recipients_opens_for_both(ours: Keyholder, partner: Platform, stranger: Platform) -> None:
    envelope = cms.seal(TEXT, [cms.load_certificate(one.pem) for one in (partner, stranger)])
    assert partner.open(envelope) == stranger.open(envelope) == TEXT


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-aes-128-cbc",),
        ("-aes256", "-stream"),  # BER of indefinite length: the program reads it
        ("-aes256", "-keyopt", "rsa_padding_mode:oaep"),
        ("-des3",),
        ("-aes-256-gcm",),  # AuthEnvelopedData
    ],
)
def test_we_open_what_openssl_sealed_and_signed(ours: Keyholder, partner: Platform, options: tuple[str, ...]) -> None:
    envelope = partner.seal(TEXT, pem(ours), *options)
    assert opened(envelope, partner.sign(envelope), partner, ours, ".p7s") == TEXT
    assert opened(envelope, partner.sign_bare(envelope), partner, ours) == TEXT


@pytest.mark.parametrize("kind", ["P-256", "ed25519"])
def test_signers_with_other_keys_than_rsa_are_believed(ours: Keyholder, tmp_path: Path, kind: str) -> None:
    signer = Platform(tmp_path, kind=kind)
    envelope = cms.seal(TEXT, [ours.certificate])
    signature = signer.sign_bare(envelope)
    assert opened(envelope, signature, signer, ours) == TEXT
    assert cause(envelope + b"\x00", signature, signer, ours) == "signature_wrong"


def test_every_flipped_byte_of_a_file_is_refused_before_anything_is_decrypted(
    ours: Keyholder, partner: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    envelope = cms.seal(TEXT, [ours.certificate])
    signature = partner.sign_bare(envelope)
    assert opened(envelope, signature, partner, ours) == TEXT
    monkeypatch.setattr(cms, "_decrypt", lambda *_: pytest.fail("decrypted"))
    for flip in (0x01, 0x80, 0xFF):
        for at in range(len(envelope)):
            changed = bytearray(envelope)
            changed[at] ^= flip
            assert cause(bytes(changed), signature, partner, ours) == "signature_wrong", (at, flip)
        for at in range(len(signature)):
            changed = bytearray(signature)
            changed[at] ^= flip
            assert cause(envelope, bytes(changed), partner, ours) == "signature_wrong", (at, flip)


def test_without_the_signature_some_flipped_bytes_would_have_given_other_text(ours: Keyholder) -> None:
    # Why the signature comes first. A flip in the block before the last text block changes that text, bit by bit.
    envelope = bytearray(cms.seal(TEXT, [ours.certificate]))
    other = 0
    for at in range(len(envelope) - 64, len(envelope)):
        envelope[at] ^= 1
        with contextlib.suppress(CmsError):
            other += cms._decrypt(bytes(envelope), ours) != TEXT
        envelope[at] ^= 1
    assert other > 0


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.long)])
def test_flipped_bytes_under_a_cms_signature_are_refused(ours: Keyholder, partner: Platform, step: int) -> None:
    envelope = cms.seal(TEXT, [ours.certificate])
    signature = partner.sign(envelope)
    for at in range(0, len(envelope), step):
        changed = bytearray(envelope)
        changed[at] ^= 0x01
        assert cause(bytes(changed), signature, partner, ours, ".p7s") == "signature_wrong", at


def test_half_a_file_an_empty_one_and_a_longer_one_are_refused(ours: Keyholder, partner: Platform) -> None:
    envelope = cms.seal(TEXT, [ours.certificate])
    for suffix, signature in ((".sig", partner.sign_bare(envelope)), (".p7s", partner.sign(envelope))):
        for changed in (envelope[: len(envelope) // 2], b"", envelope + b"\x00"):
            assert cause(changed, signature, partner, ours, suffix) == "signature_wrong"
        for bad in (b"", signature[: len(signature) // 2], b"\x30\x80\x00\x00"):
            assert cause(envelope, bad, partner, ours, suffix) == "signature_wrong"


def test_only_the_pinned_signer_is_believed(ours: Keyholder, partner: Platform, stranger: Platform) -> None:
    envelope = cms.seal(TEXT, [ours.certificate])
    assert cause(envelope, stranger.sign_bare(envelope), partner, ours) == "signature_wrong"
    assert (
        cause(envelope, stranger.sign(envelope), partner, ours, ".p7s") == "signature_wrong"
    )  # brings its certificate
    assert cause(envelope, partner.sign(envelope), partner, ours, ".txt") == "signature_unknown"


def test_a_list_of_certificates_without_a_signer_is_no_signature(
    ours: Keyholder, partner: Platform, tmp_path: Path
) -> None:
    bag = tmp_path / "bag.der"
    subprocess.run(
        ["openssl", "crl2pkcs7", "-nocrl", "-certfile", partner.certificate, "-outform", "DER", "-out", bag],
        check=True, capture_output=True,
    )  # fmt: skip
    envelope = cms.seal(TEXT, [ours.certificate])
    assert cause(envelope, bag.read_bytes(), partner, ours, ".p7s") == "signature_wrong"


def test_what_was_sealed_for_another_stays_shut(ours: Keyholder, partner: Platform, stranger: Platform) -> None:
    envelope = partner.seal(TEXT, stranger.pem)
    assert cause(envelope, partner.sign_bare(envelope), partner, ours) == "cms_unreadable"


def test_text_that_is_signed_but_not_encrypted_is_refused(ours: Keyholder, partner: Platform) -> None:
    assert cause(TEXT, partner.sign_bare(TEXT), partner, ours) == "cms_unreadable"


def test_a_signer_counts_while_his_certificate_is_valid(ours: Keyholder, partner: Platform) -> None:
    envelope = cms.seal(TEXT, [ours.certificate])
    signature, signer = Signature(partner.sign_bare(envelope), ".sig"), cms.load_certificate(partner.pem)
    for when in (NOW - timedelta(days=1), NOW + timedelta(days=31)):
        with pytest.raises(CmsError) as refused:
            cms.open_signed(envelope, signature, signer, ours, when)
        assert refused.value.cause == "signer_expired"


def test_weak_and_foreign_kinds_of_keys_are_refused(ours: Keyholder, tmp_path: Path) -> None:
    weak = Platform(tmp_path, "weak", kind="rsa:1024")
    with pytest.raises(CmsError, match="2048"):
        cms.seal(TEXT, [cms.load_certificate(weak.pem)])
    curve = Platform(tmp_path, "curve", kind="P-256")
    with pytest.raises(CmsError, match="RSA"):
        cms.seal(TEXT, [cms.load_certificate(curve.pem)])
    envelope = cms.seal(TEXT, [ours.certificate])
    assert cause(envelope, weak.sign_bare(envelope), weak, ours) == "signer_key"
    with pytest.raises(CmsError):
        cms.load_certificate("no certificate")


def test_files_above_the_bound_are_not_looked_into(
    ours: Keyholder, partner: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cms, "MAX_BYTES", 1000)
    monkeypatch.setattr(cms, "_OVERHEAD", 1000)
    assert len(cms.seal(bytes(1000), [ours.certificate])) > 1000
    with pytest.raises(CmsError):
        cms.seal(bytes(1001), [ours.certificate])
    monkeypatch.setattr(cms, "verify", lambda *_: pytest.fail("looked into it"))
    assert cause(bytes(2001), b"", partner, ours) == "cms_too_large"
    assert cause(bytes(10), bytes(cms.MAX_SIGNATURE_BYTES + 1), partner, ours) == "cms_too_large"


def test_sixty_four_mib_are_made_and_read(ours: Keyholder, partner: Platform) -> None:
    data = bytes(cms.MAX_BYTES)
    envelope = cms.seal(data, [ours.certificate])
    assert opened(envelope, partner.sign_bare(envelope), partner, ours) == data


def test_the_program_is_bounded_in_time_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "openssl"
    monkeypatch.setattr(openssl, "PLACES", f"{tmp_path}:/usr/bin:/bin")
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(openssl.ProgramError, match="ended"):
        openssl.run(["x"], max_bytes=10, timeout_s=0.05)
    program.write_text("#!/bin/sh\nexec cat /dev/zero\n")
    with pytest.raises(openssl.ProgramError, match="more than"):
        openssl.run(["x"], max_bytes=100_000)
    program.write_text("#!/bin/sh\necho line one >&2; echo reason >&2; exit 3\n")
    with pytest.raises(openssl.ProgramError, match="reason"):
        openssl.run(["x"], max_bytes=10)
    program.write_text('#!/bin/sh\necho "$HOME$FIRSTLIGHT_X$*"\n')
    monkeypatch.setenv("FIRSTLIGHT_X", "secret")
    assert openssl.run(["a b", "$(id)"], max_bytes=100) == b"/dev/nulla b $(id)\n"
    monkeypatch.setattr(openssl, "PLACES", str(tmp_path / "nowhere"))
    with pytest.raises(openssl.ProgramError, match="not installed"):
        openssl.run(["x"], max_bytes=10)


def test_no_secret_stands_in_the_program_s_arguments(
    ours: Keyholder, partner: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = openssl.run

    def watched(arguments, **bounds):
        seen.extend(map(str, arguments))
        return real(arguments, **bounds)

    monkeypatch.setattr(openssl, "run", watched)
    envelope = partner.seal(TEXT, pem(ours), "-des3")
    opened(envelope, partner.sign(envelope), partner, ours, ".p7s")
    assert str(ours.key_path) in seen
    assert not any("PRIVATE" in word or "\n" in word or "pass" in word for word in seen)


def test_our_own_key_is_made_once_and_must_be_private(tmp_path: Path) -> None:
    made = keyholder.create(tmp_path, "firstlight", NOW)
    assert made.key_path.stat().st_mode & 0o777 == 0o600
    assert keyholder.load(tmp_path).certificate == made.certificate
    with pytest.raises(CmsError, match="already"):
        keyholder.create(tmp_path, "firstlight", NOW)
    assert keyholder.load(tmp_path).certificate == made.certificate
    made.key_path.chmod(0o640)
    with pytest.raises(CmsError, match="others"):
        keyholder.load(tmp_path)
    with pytest.raises(CmsError, match="firstlight enrolment certificate"):
        keyholder.load(tmp_path / "nowhere")
