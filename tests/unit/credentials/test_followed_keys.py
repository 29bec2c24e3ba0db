"""A process that runs while keys are rotated reads what is sealed under the new key, whatever it knew before."""

from __future__ import annotations

import os

import pytest

from service.credentials.followed_keys import FollowedKeys
from service.credentials.keyfile import KeyFile, SealError

AAD = b"device.key_sealed:1"


@pytest.fixture
def path(tmp_path):
    KeyFile.create(tmp_path / "keys.json")
    return tmp_path / "keys.json"


@pytest.fixture
def followed(path):
    return FollowedKeys(path, KeyFile.load(path))


def rotated(path):
    made = KeyFile.load(path).rotate()
    made.write(path)
    return made


def test_a_value_under_a_key_that_was_not_known_opens_at_once(path, followed):
    before = followed.seal(b"old", AAD)
    new = rotated(path)
    assert followed.open(new.sealer().seal(b"secret", AAD), AAD) == b"secret"
    assert followed.open(before, AAD) == b"old"
    assert followed.seal(b"x", AAD).startswith(new.seal_current.encode())
    assert followed.keys.nonce_keys() == new.nonce_keys()


def test_the_file_is_taken_over_once(path, followed):
    assert not followed.look()
    rotated(path)
    assert followed.look()
    assert not followed.look()


def test_a_key_that_left_the_file_still_opens_what_somebody_is_reading(path, followed):
    before = followed.seal(b"old", AAD)
    rotated(path).retire_seal_keys().write(path)
    assert followed.look()
    assert followed.open(before, AAD) == b"old"


@pytest.mark.parametrize("what", ["damaged", "missing", "open to others"])
def test_a_file_that_cannot_be_read_changes_nothing_until_it_can(path, followed, what, caplog):
    new = rotated(path)
    text = path.read_text()
    if what == "missing":
        path.unlink()
    elif what == "damaged":
        path.write_text(text[:100])
    else:
        path.chmod(0o644)
    value = new.sealer().seal(b"secret", AAD)
    assert not followed.look()
    assert not followed.look()
    assert len([one for one in caplog.records if "not taken over" in one.message]) == 1
    with pytest.raises(SealError):
        followed.open(value, AAD)
    path.unlink(missing_ok=True)
    new.write(path)
    assert followed.open(value, AAD) == b"secret"


def test_another_service_key_or_label_key_is_for_the_next_start(path, followed):
    KeyFile.load(path).announce_service_key().use_next_service_key().rotate().write(path)
    assert not followed.look()
    assert followed.keys.seal_current != KeyFile.load(path).seal_current


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_root_has_rotated_is_still_the_service_s(path):
    os.chown(path, 12345, 12346)
    rotated(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 12346, 0o600)
