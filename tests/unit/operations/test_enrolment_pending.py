"""Files that lie there and can be read only with a key that somebody is about to retire."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from service.credentials import cms, keyholder
from service.credentials.cms import Keyholder
from service.operations.enrolment import folders, pending
from tests.support.commands import Clock

NOW = Clock()()


@cache
def ready() -> list[rsa.RSAPrivateKey]:
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3)]


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Keyholder, Keyholder, Keyholder]:
    """(the one of before, the one in use, a platform's own)."""
    keys = iter(ready())
    monkeypatch.setattr(rsa, "generate_private_key", lambda **_: next(keys))
    before = keyholder.create(tmp_path, "firstlight", NOW)
    keyholder.rotate(tmp_path, "firstlight", NOW)
    return before, keyholder.load(tmp_path), keyholder.create(tmp_path / "platform", "billing", NOW)


def sealed_for(*recipients: Keyholder) -> bytes:
    return cms.seal(b"{}", [one.certificate for one in recipients])


def needing(root: Path, before: Keyholder, now: Keyholder) -> list[str]:
    return pending.needing(root, before.certificate, [now.certificate])


def put(root: Path, where: str, envelope: bytes, signer: Keyholder) -> None:
    folders.put(root, *where.split("/"), "a.p7m", envelope, cms.sign(envelope, signer))


@pytest.mark.parametrize("where", ["inbox/billing", "outbox/dep", "work/load/billing"])
def test_a_file_that_is_encrypted_to_the_key_needs_it(tmp_path, ours, where) -> None:
    before, now, platform = ours
    root, _, folder = where.rpartition("/")
    folders.put(tmp_path, root, folder, "a.p7m", sealed_for(before), b"")
    assert needing(tmp_path, before, now) == [f"{where}/a.p7m"]
    put(tmp_path, "inbox/other", sealed_for(now), platform)
    assert needing(tmp_path, before, now) == [f"{where}/a.p7m"]


def test_a_file_for_both_keys_or_for_a_platform_does_not_need_it(tmp_path, ours) -> None:
    before, now, platform = ours
    put(tmp_path, "inbox/billing", sealed_for(before, now), platform)
    put(tmp_path, "outbox/billing", sealed_for(platform), before)  # whose certificate of ours is the platform's care
    (tmp_path / "inbox/billing/notes.txt").write_text("nothing")
    (tmp_path / "inbox/billing/link.p7m").symlink_to(tmp_path / "own.pem")
    assert needing(tmp_path, before, now) == []


def test_a_file_that_the_key_has_signed_for_ourselves_needs_it(tmp_path, ours) -> None:
    before, now, _ = ours
    put(tmp_path, "outbox/dep", sealed_for(now), before)
    put(tmp_path, "inbox/dep", sealed_for(now), now)
    assert needing(tmp_path, before, now) == ["outbox/dep/a.p7m"]


def test_what_openssl_has_made_is_found_too(tmp_path, ours) -> None:
    before, now, _ = ours
    plain, to, out = tmp_path / "plain", tmp_path / "to.pem", tmp_path / "inbox/billing/a.part"
    plain.write_bytes(b"x" * 100_000)
    to.write_bytes(before.certificate.public_bytes(Encoding.PEM))
    out.parent.mkdir(parents=True)
    words = ["openssl", "cms", "-encrypt", "-binary", "-aes256", "-outform", "DER", "-stream"]
    subprocess.run([*words, "-in", plain, "-out", out, to], check=True)
    assert needing(tmp_path, before, now) == ["inbox/billing/a.part"]
