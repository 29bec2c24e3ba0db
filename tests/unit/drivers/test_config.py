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
        ("topic_root", ""),
        ("topic_root", "a//b"),
        ("topic_root", "a/#"),
        ("topic_root", 1),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path, field, value):
    with pytest.raises(ConfigError, match=field.removesuffix("_file")):
        parse_config({**GOOD, field: value}, tmp_path)


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
