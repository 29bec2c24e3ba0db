"""Commands are loaded when they are called: help and its lines need nothing of the service."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from service.cli import nouns
from service.cli.main import app
from service.cli.outline import OUTLINE

HEAVY = ("sqlalchemy", "alembic", "fastapi", "starlette", "uvicorn", "pydantic_settings", "cryptography",
         "amqtt", "aiomqtt", "paho", "reportlab", "segno", "asyncio", "service.operations", "service.storage")  # fmt: skip
PROBE = """
import json, sys
from typer.testing import CliRunner
from service.cli.main import app
ended = CliRunner().invoke(app, sys.argv[1:])
print(json.dumps([ended.exit_code, ended.stdout, list(sys.modules)]))
"""


def run_anew(*words):
    """(what was said, modules that are loaded) of a new interpreter."""
    said = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=True)
    code, text, modules = json.loads(said.stdout)
    assert code == 0
    return text, set(modules)


@pytest.mark.parametrize("words", [["--help"], ["device", "--help"], ["environment", "--help"]], ids=" ".join)
def test_help_loads_nothing_that_only_commands_need(words):
    text, modules = run_anew(*words)
    assert "Commands:" in text
    assert [one for one in HEAVY if one in modules] == []


def test_to_look_at_a_device_needs_neither_verbs_nor_brokers_nor_the_web():
    text, modules = run_anew("device", "show", "--help")
    assert "--json" in text
    unwanted = ("fastapi", "reportlab", "segno", "aiomqtt", "paho", "amqtt", "service.installation", "service.app")
    assert [one for one in unwanted if one in modules] == []


def test_the_outline_says_what_the_commands_say():
    assert nouns.outline_of(typer.main.get_command(app)) == OUTLINE, "python -m tests.support.outline writes it anew"


def test_groups_have_nothing_but_their_commands():
    """Neither options nor a callback of their own: the group of the outline stands in for them."""
    for noun, lines in OUTLINE.items():
        if isinstance(lines, dict):
            real = nouns.loaded(noun)
            assert (real.params, real.no_args_is_help, real.invoke_without_command) == ([], True, False), noun
            assert not any(one.hidden for one in real.commands.values()), noun


def test_a_command_that_the_outline_lacks_is_there_all_the_same(monkeypatch):
    monkeypatch.delitem(OUTLINE, "trace")
    lines = OUTLINE["device"]
    monkeypatch.setitem(OUTLINE, "device", {name: line for name, line in lines.items() if name != "show"})
    for words in (["trace"], ["device", "show"]):
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


@pytest.mark.parametrize(("words", "hint"), [(["devise"], "'device'"), (["device", "shwo"], "'show'")])
def test_a_misspelt_command_is_refused_with_what_may_be_meant(words, hint):
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 2
    assert hint in ended.stderr
