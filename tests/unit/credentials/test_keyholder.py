"""Our own key for exchanged files and the one that follows it: no moment without a pair, nothing unread that was for us."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from service.credentials import cms, keyholder
from service.credentials.cms import CmsError, Signature

NOW = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)
TEXT = b'{"an": "answer"}'


@cache
def ready() -> list[rsa.RSAPrivateKey]:
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(4)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a key in it. Keys are made once for all tests: that is what takes long."""
    keys = iter(ready())
    monkeypatch.setattr(rsa, "generate_private_key", lambda **_: next(keys))
    keyholder.create(tmp_path, "firstlight", NOW)
    return tmp_path


def reads(folder: Path, envelope: bytes) -> bool:
    """Whether our keys open it; it is signed by the key in use."""
    us = keyholder.load(folder)
    signature = Signature(us.key.sign(envelope, padding.PKCS1v15(), hashes.SHA256()), ".sig")
    try:
        return cms.open_signed(envelope, signature, us.certificate, us, NOW) == TEXT
    except CmsError as error:
        return error.cause != "cms_unreadable"


def sealed(to: x509.Certificate) -> bytes:
    return cms.seal(TEXT, [to])


def places(folder: Path) -> list[str]:
    return [one.place for one in keyholder.pairs(folder)]


def test_what_is_for_the_next_or_an_earlier_key_is_read_until_that_one_is_retired(folder: Path) -> None:
    first = keyholder.load(folder).certificate
    second = keyholder.make_next(folder, "firstlight", NOW).certificate
    assert keyholder.make_next(folder, "firstlight", NOW).certificate == second
    assert keyholder.load(folder).certificate == first  # still signed with
    assert reads(folder, sealed(first))
    assert reads(folder, sealed(second))
    assert keyholder.rotate(folder, "firstlight", NOW) == (keyholder.key_id_of(second), keyholder.key_id_of(first))
    assert keyholder.load(folder).certificate == second
    assert places(folder) == ["in use", "earlier"]
    assert reads(folder, sealed(first))
    keyholder.rotate(folder, "firstlight", NOW)  # without a next one it is made
    assert places(folder) == ["in use", "earlier", "earlier"]
    assert reads(folder, sealed(first))
    assert reads(folder, sealed(second))
    keyholder.retire(folder, keyholder.key_id_of(first))
    assert not reads(folder, sealed(first))
    assert reads(folder, sealed(second))
    assert sorted(path.suffix for path in folder.iterdir()) == [".key", ".key", ".pem", ".pem"]
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}


def test_what_an_earlier_key_of_ours_has_signed_is_believed_where_it_is_named(folder: Path) -> None:
    first = keyholder.load(folder)
    envelope = sealed(first.certificate)
    signature = Signature(cms.sign(envelope, first), ".p7s")
    keyholder.rotate(folder, "firstlight", NOW)
    us = keyholder.load(folder)
    with pytest.raises(CmsError, match="expected signer"):
        cms.open_signed(envelope, signature, us.certificate, us, NOW)
    everyone = [one.certificate for one in us.every]
    assert cms.open_signed(envelope, signature, everyone[0], us, NOW, or_by=everyone[1:]) == TEXT


def cut_off(step: int) -> Callable[[Path, Path], Path]:
    """Renaming files, until that one."""
    real, done = Path.rename, []

    def rename(path: Path, target: Path) -> Path:
        if len(done) == step:
            raise KeyboardInterrupt
        done.append(target)
        return real(path, target)

    return rename


def test_a_rotation_that_is_cut_off_anywhere_leaves_a_pair_and_is_done_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = keyholder.load(folder).certificate
    keys = ready()
    for step in range(20):
        cut = tmp_path_factory.mktemp("cut")
        shutil.copytree(folder, cut, dirs_exist_ok=True)
        made = iter(keys[1:])
        monkeypatch.setattr(rsa, "generate_private_key", lambda made=made, **_: next(made))
        with monkeypatch.context() as patched:
            renamed = cut_off(step)
            patched.setattr(Path, "rename", renamed)
            patched.setattr(Path, "replace", renamed)
            try:
                keyholder.rotate(cut, "firstlight", NOW)
                break
            except KeyboardInterrupt:
                pass
        assert reads(cut, sealed(first)), step
        if keyholder.load(cut).certificate == first:
            keyholder.rotate(cut, "firstlight", NOW)
        keyholder.make_next(cut, "firstlight", NOW)  # finishes what was cut off
        in_use = (cut / "own.pem").read_text()
        assert cms.load_certificate(in_use) == keyholder.load(cut).certificate != first
        assert reads(cut, sealed(first)), step
    assert step == 6  # two files of the next one, two of the one before, and two renames


def test_only_a_key_of_before_is_retired(folder: Path) -> None:
    in_use = keyholder.key_id_of(keyholder.load(folder).certificate)
    following = keyholder.key_id_of(keyholder.make_next(folder, "firstlight", NOW).certificate)
    for key_id in (in_use, following, "0" * 16, "../own"):
        with pytest.raises(CmsError, match="no key of before"):
            keyholder.retire(folder, key_id)
    assert places(folder) == ["in use", "next"]


def test_no_key_may_be_open_to_others(folder: Path) -> None:
    keyholder.rotate(folder, "firstlight", NOW)
    (earlier,) = [one.key_id for one in keyholder.pairs(folder) if one.place == "earlier"]
    (folder / f"own.{earlier}.key").chmod(0o640)
    with pytest.raises(CmsError, match=f"own.{earlier}.key can be read by others"):
        keyholder.load(folder)
