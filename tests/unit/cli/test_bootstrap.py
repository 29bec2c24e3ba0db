"""`environment bootstrap`: what it prints and refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from service.cli import bootstrap
from tests.unit.cli.test_nouns import installed  # noqa: F401 - a fixture


@pytest.mark.usefixtures("installed")
def test_endpoints_are_added_listed_and_removed():
    def run(*arguments, code=0):
        result = CliRunner().invoke(bootstrap.app, list(arguments))
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    assert "told of boot-2:8885" in run("add", "local", "boot-2:8885").stdout
    run("add", "local", "[::1]:8884", "--plain")  # the environment itself has no TLS
    found = json.loads(run("list", "--json").stdout)
    assert [(one["host"], one["port"], one["tls"]) for one in found] == [("::1", 8884, False), ("boot-2", 8885, True)]
    assert "boot-2:8885" in run("list").stdout
    run("remove", "local", "boot-2:8885")
    assert "boot-2" not in run("list").stdout
    for arguments, words in (
        (("add", "none", "boot-2:1"), "no environment none"),
        (("add", "local", "boot-2"), "HOST:PORT"),
        (("add", "local", "boot-2:x"), "HOST:PORT"),
        (("add", "local", "boot-2:99999"), "port"),
        (("add", "local", "boot-2:1", "--ca", "nothing"), "cannot read"),
        (("remove", "local", "boot-2:8885"), "no further endpoint"),
    ):
        assert words in run(*arguments, code=1).stderr
