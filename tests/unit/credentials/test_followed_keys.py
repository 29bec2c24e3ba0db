"""A process that runs while keys are rotated reads what is sealed under the new key, whatever it knew before."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from service.credentials.followed_keys import FollowedKeys
from service.credentials.keyfile import KeyFile, SealError

AAD = b"device.key_sealed:1"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    KeyFile.create(tmp_path / "keys.json")
    return tmp_path / "keys.json"


@pytest.fixture
def followed(path):
    return FollowedKeys(path)


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


def test_the_steps_of_an_exchange_are_taken_over(path, followed):
    announced = KeyFile.load(path).announce_service_key()
    announced.write(path)
    assert followed.look()
    assert followed.keys.told_service_keys() == announced.told_service_keys()
    used = announced.use_next_service_key()
    used.write(path)
    assert followed.look()
    assert followed.keys.service_public_key() == used.service_public_key()
    labels = used.rotate_labels(NOW + timedelta(days=1), NOW)
    labels.write(path)
    assert followed.look()
    assert (followed.label_key, followed.label_keys[1:]) == (labels.label_key(), (used.label_key(),))


def test_a_key_file_that_does_not_follow_from_ours_is_for_the_next_start(path, followed):
    KeyFile.load(path).announce_service_key().use_next_service_key().rotate().write(path)
    assert not followed.look()
    assert followed.keys.seal_current != KeyFile.load(path).seal_current


def test_a_file_that_changes_while_it_is_read_first_is_seen_by_the_first_look(path, monkeypatch):
    load = KeyFile.load
    new = load(path).rotate()

    def read_then_changed(read):
        found = load(read)
        new.write(path)
        return found

    monkeypatch.setattr(KeyFile, "load", staticmethod(read_then_changed))
    followed = FollowedKeys(path)
    monkeypatch.setattr(KeyFile, "load", staticmethod(load))
    assert followed.look()
    assert followed.keys.seal_current == new.seal_current


def test_a_file_that_root_has_rotated_is_still_the_service_s(path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    else:  # who is not root may at least give a file to himself
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    given, fchown = [], os.fchown
    monkeypatch.setattr(os, "fchown", lambda file, *to: given.append(to) or fchown(file, *to))
    before = path.stat()
    rotated(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (before.st_uid, before.st_gid, 0o600)
    assert given == [(before.st_uid, before.st_gid)]
