"""The key file and the sealer, through their public doors."""

import json

import pytest

from service.credentials.keyfile import KeyFile, KeyFileError, SealError, kid_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


def test_a_created_file_loads_as_the_same_keys_and_only_its_owner_may_read_it(path):
    made = KeyFile.create(path)
    assert KeyFile.load(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert "***" in repr(made)


def test_an_existing_file_is_not_replaced(path):
    KeyFile.create(path)
    with pytest.raises(KeyFileError, match="exists"):
        KeyFile.create(path)


def test_a_file_that_others_may_read_is_refused(path):
    KeyFile.create(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="read by others"):
        KeyFile.load(path)


@pytest.mark.parametrize(
    "raw", [bytes(32), b"\xff" * 32, bytes(range(32)), b"changeme" * 4, b"secret".ljust(32, b"\0")], ids=repr
)
def test_a_known_key_is_refused(path, raw):
    with pytest.raises(KeyFileError, match="known"):
        KeyFile.create(path, random_bytes=lambda n: raw[:n])
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seal": 1}', "\x00", '{"seal":{"current":"x","keys":[]}}'])
def test_a_damaged_file_is_refused(path, text):
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileError):
        KeyFile.load(path)


def test_a_missing_file_says_what_to_do(path):
    with pytest.raises(KeyFileError, match="firstlight init"):
        KeyFile.load(path)


def test_a_key_under_a_foreign_id_is_refused(path):
    KeyFile.create(path)
    data = json.loads(path.read_text())
    (kid,) = data["seal"]["keys"]
    data["seal"] = {"current": "00000000", "keys": {"00000000": data["seal"]["keys"][kid]}}
    path.write_text(json.dumps(data))
    with pytest.raises(KeyFileError, match="id"):
        KeyFile.load(path)


def test_a_sealed_value_opens_only_at_its_own_place(path):
    sealer = KeyFile.create(path).sealer()
    sealed = sealer.seal(b"device key", b"device.key.1")
    assert b"device key" not in sealed
    assert sealer.open(sealed, b"device.key.1") == b"device key"
    with pytest.raises(SealError):
        sealer.open(sealed, b"device.key.2")


def test_sealing_twice_gives_different_bytes(path):
    sealer = KeyFile.create(path).sealer()
    assert sealer.seal(b"x", b"a") != sealer.seal(b"x", b"a")


@pytest.mark.parametrize("damage", [b"", b"short", b"\xff" * 60])
def test_foreign_bytes_do_not_open(path, damage):
    with pytest.raises(SealError):
        KeyFile.create(path).sealer().open(damage, b"a")


def test_after_a_rotation_old_values_open_and_new_ones_use_the_new_key(path):
    old = KeyFile.create(path)
    sealed = old.sealer().seal(b"v", b"a")
    old.rotate().write(path)
    new = KeyFile.load(path)
    assert new.sealer().open(sealed, b"a") == b"v"
    assert kid_of(new.sealer().seal(b"v", b"a")) == new.seal_current != old.seal_current
    assert new.nonce_previous == old.nonce_current
    assert new.service_key == old.service_key
    with pytest.raises(SealError):
        new.retire_seal_keys().sealer().open(sealed, b"a")


def test_writing_leaves_no_other_file_behind(path):
    KeyFile.create(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
