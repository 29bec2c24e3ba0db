"""The folder broker_config says what the code does."""

from __future__ import annotations

import configparser

import pytest

from tests.support.render_example import EXAMPLE, example

UNITS = ("firstlight", "firstlight-bootstrap", "firstlight-mosquitto", "firstlight-warehouse")


@pytest.mark.parametrize("name", example())
def test_the_example_is_what_is_rendered(name: str) -> None:
    assert (EXAMPLE / name).read_text() == example()[name], "run python -m tests.support.render_example"


@pytest.mark.parametrize("name", UNITS)
def test_each_unit_runs_as_one_user_and_restarts(name: str) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(EXAMPLE.parent / f"{name}.service")
    assert unit["Service"]["User"] == "firstlight"
    assert unit["Service"]["Restart"] == "always"
    assert ("broker render" in unit["Service"].get("ExecStartPre", "")) is (name != "firstlight")
