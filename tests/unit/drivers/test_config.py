"""The device's configuration file: what is wrong is named, a key never shows."""

import base64
import json

import pytest

from device_sdk.drivers.config import ConfigError, parse_config, read_config

KEY = bytes(range(32))
GOOD = {
    "group_id": "factory-a",
    "serial": "sn-1",
    "key": base64.b64encode(KEY).decode(),
    "bootstrap": [{"host": "127.0.0.1", "port": 8883}],
    "release_keys": [base64.urlsafe_b64encode(b"\xff" * 32).decode().rstrip("=")],
    "product": "thermometer",
    "hardware": "rev1",
    "firmware": {"name": "1.0"},
}


def test_a_complete_file_is_read(tmp_path):
    path = tmp_path / "device.json"
    path.write_text(json.dumps(GOOD))
    config = read_config(path)
    assert (config.group_id, config.serial, config.key) == ("factory-a", "sn-1", KEY)
    assert config.bootstrap[0].tls is True
    assert config.release_keys == (b"\xff" * 32,)
    assert config.state_dir == tmp_path / "state"
    identity = config.identity(allow_plain=False)
    assert (identity.factory_name, identity.allow_plain) == ("1.0", False)


def test_keys_and_authorities_may_stand_in_files_beside_it(tmp_path):
    (tmp_path / "device.key").write_text(GOOD["key"] + "\n")
    (tmp_path / "device.key").chmod(0o600)
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----")
    value = {**GOOD, "key_file": "device.key", "bootstrap": [{"host": "h", "port": 1, "ca": "ca.pem"}]}
    del value["key"]
    config = parse_config(value, tmp_path)
    assert config.key == KEY
    assert config.bootstrap[0].ca_pem == "-----BEGIN CERTIFICATE-----"


def test_a_key_file_that_others_may_read_is_refused(tmp_path):
    (tmp_path / "device.key").write_text(GOOD["key"])
    (tmp_path / "device.key").chmod(0o644)
    value = {name: item for name, item in GOOD.items() if name != "key"} | {"key_file": "device.key"}
    with pytest.raises(ConfigError, match="others may read"):
        parse_config(value, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("group_id", ""),
        ("group_id", "a/b"),
        ("group_id", 7),
        ("serial", "x" * 129),
        ("serial", None),
        ("key", "AAAA"),
        ("key", "not base64!"),
        ("key", 5),
        ("key_file", "also.key"),
        ("bootstrap", []),
        ("bootstrap", "host"),
        ("bootstrap", ["host"]),
        ("bootstrap", [{"host": "h", "port": 0}]),
        ("bootstrap", [{"host": "h", "port": True}]),
        ("bootstrap", [{"host": "", "port": 1}]),
        ("bootstrap", [{"host": "h", "port": 1, "tls": "no"}]),
        ("bootstrap", [{"host": "h", "port": 1, "ca": "missing.pem"}]),
        ("bootstrap", [{"host": "h", "port": 1}] * 9),
        ("release_keys", ["AAAA"]),
        ("release_keys", [3]),
        ("release_keys", "x"),
        ("product", ""),
        ("hardware", None),
        ("firmware", "1.0"),
        ("firmware", {"seq": -1}),
        ("x509", "yes"),
        ("key_index", 8),
        ("key_index", "0"),
        ("service_keys", ["AAAA"]),
        ("group_secret", "also a key"),
        ("topic_root", ""),
        ("topic_root", "a//b"),
        ("topic_root", "a/#"),
        ("topic_root", 1),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path, field, value):
    with pytest.raises(ConfigError, match=field.removesuffix("_file")):
        parse_config({**GOOD, field: value}, tmp_path)


WITHOUT_KEY = {name: item for name, item in GOOD.items() if name != "key"}
SERVICE_KEY = base64.b64encode(b"\xee" * 32).decode()


def test_the_secret_of_a_group_gives_the_key_of_the_serial(tmp_path):
    # The vector of docs/protocol.md.
    secret = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
    value = {**WITHOUT_KEY, "serial": "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "group_secret": secret}
    config = parse_config(value, tmp_path)
    assert config.key == base64.b64decode("Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=")
    (tmp_path / "secret").write_text(secret + "\n")
    (tmp_path / "secret").chmod(0o600)
    in_file = {name: item for name, item in value.items() if name != "group_secret"} | {"group_secret_file": "secret"}
    assert parse_config(in_file, tmp_path).key == config.key
    assert secret not in repr(config)


def test_a_group_secret_that_no_service_would_take_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="group_secret"):
        parse_config({**WITHOUT_KEY, "group_secret": "AAAA"}, tmp_path)


def test_a_private_key_stands_in_place_of_the_key_and_asks_for_a_certificate(tmp_path):
    (tmp_path / "device.pem").write_text("a private key")
    (tmp_path / "device.pem").chmod(0o600)
    value = {**WITHOUT_KEY, "private_key_file": "device.pem", "service_keys": [SERVICE_KEY], "key_index": 3}
    config = parse_config(value, tmp_path)
    assert (config.key, config.private_key_pem, config.x509) == (None, b"a private key", True)
    identity = config.identity(allow_plain=False)
    assert (identity.key, identity.key_index, identity.service_keys) == (None, 3, (b"\xee" * 32,))
    assert "a private key" not in repr(config)


def test_a_private_key_needs_to_be_kept_from_others_and_the_service_s_key_beside_it(tmp_path):
    (tmp_path / "device.pem").write_text("a private key")
    (tmp_path / "device.pem").chmod(0o600)
    with pytest.raises(ConfigError, match="service_keys"):
        parse_config({**WITHOUT_KEY, "private_key_file": "device.pem"}, tmp_path)
    (tmp_path / "device.pem").chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        parse_config({**WITHOUT_KEY, "private_key_file": "device.pem", "service_keys": [SERVICE_KEY]}, tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b" " * 300_000])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "device.json").write_bytes(content)
    with pytest.raises(ConfigError):
        read_config(tmp_path / "device.json")


def test_no_error_and_no_repr_holds_the_key(tmp_path):
    secret = "c2VjcmV0IGtleSE"
    with pytest.raises(ConfigError) as caught:
        parse_config({**GOOD, "key": secret + "!!"}, tmp_path)
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    shown = repr(parse_config(GOOD, tmp_path))
    assert GOOD["key"] not in shown
    assert repr(KEY) not in shown
