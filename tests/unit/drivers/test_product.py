"""What `firstlight-device` does with settings, and the two commands that a product may bring."""

from __future__ import annotations

import json
import sys

import pytest

from device_sdk.core.ports import SettingsError
from device_sdk.drivers import product as of_product
from device_sdk.drivers.product import CommandProduct

VERSION = {"version_id": "0" * 32, "name": "2.0", "seq": 2, "image_id": "0" * 64, "size": 1}


def made(folder, *, settings=None, defer=None):
    return CommandProduct(folder, settings_command=settings, defer_command=defer)


def script(folder, text):
    path = folder / "command.py"
    path.write_text(text)
    return f"{sys.executable} {path}"


def test_settings_lie_in_a_file_and_the_newest_take_the_place_of_all(tmp_path):
    product = made(tmp_path)
    product.apply_settings({"interval": 30, "token": b"\x01\xff", "list": [1, {"a": None}]})
    path = tmp_path / "settings.json"
    assert json.loads(path.read_text()) == {"interval": 30, "token": "01ff", "list": [1, {"a": None}]}
    assert path.stat().st_mode & 0o777 == 0o600
    product.apply_settings({})
    assert json.loads(path.read_text()) == {}


def test_the_settings_command_gets_the_file_and_may_refuse(tmp_path):
    command = script(tmp_path, "import json, sys; sys.exit('bad' in json.load(open(sys.argv[1])))")
    product = made(tmp_path, settings=command)
    product.apply_settings({"good": 1})
    with pytest.raises(SettingsError) as refused:
        product.apply_settings({"bad": 1})
    assert refused.value.cause == "settings_command"


def test_a_command_that_is_not_there_refuses_settings_and_never_an_update(tmp_path):
    product = made(tmp_path, settings="/nowhere/at-all", defer="/nowhere/at-all")
    with pytest.raises(SettingsError):
        product.apply_settings({})
    assert product.defer(VERSION) is None


def test_network_settings_are_tried(tmp_path):
    product = made(tmp_path)
    assert product.needs_trial({}, {"network": {"apn": "x"}})
    assert not product.needs_trial({"network": 1}, {"network": 1, "interval": 5})


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("print('600 battery is low'); sys.exit(75)", (600, "battery is low")),
        ("sys.exit(75)", (of_product.DEFER_S, "deferred")),
        ("print('soon'); sys.exit(75)", (of_product.DEFER_S, "deferred")),
        ("sys.exit(0)", None),
        ("sys.exit(1)", None),
        ("sys.exit(0 if sys.argv[1] == '2.0' else 75)", None),
    ],
)
def test_the_defer_command_says_for_how_long_and_why(tmp_path, says, expected):
    assert made(tmp_path, defer=script(tmp_path, f"import sys; {says}")).defer(VERSION) == expected
