"""The folder broker_config says what the code does."""

from __future__ import annotations

import configparser

import pytest
import yaml

from service.cli import config_text
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


def test_in_the_compose_file_no_part_lives_in_the_namespaces_of_one_that_is_started_again() -> None:
    parts = yaml.safe_load((EXAMPLE.parents[1] / "docker" / "compose.yaml").read_text())["services"]
    working = {name: one for name, one in parts.items() if name != "namespaces"}
    assert set(working) == {"mosquitto", "bootstrap", "service"}
    for one in working.values():
        assert (one["network_mode"], one["pid"]) == ("service:namespaces", "service:namespaces")
        assert "namespaces" in one["depends_on"]
        assert "ports" not in one
    assert parts["namespaces"]["entrypoint"] == ["sleep", "infinity"]
    ports = {int(one.split(":")[0]) for one in parts["namespaces"]["ports"]}
    assert ports == {config_text.API_KEY_PORT, config_text.BOOTSTRAP_PORT, config_text.X509_PORT}
