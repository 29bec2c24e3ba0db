"""Every command has --json, and writes one JSON document with it: also those that otherwise say nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from service.cli import context
from service.cli.main import app
from service.credentials.keyfile import KeyFile
from tests.support.command_line import CliRunner
from tests.support.storage import empty_database
from tests.unit.cli.test_nouns import CONFIG

WITHOUT = {
    "serve": "runs until it is told to end; its log is JSON with FIRSTLIGHT_LOG__FORMAT=json",
    "openapi": "what it writes is a JSON document",
}
PASSWORD = "a long enough password\n"
GROUP = ("group", "create", "boxes", "--product", "box", "--key-kind", "public_key")
DEP = ("--adaptor", "dep", "--url", "https://dep.example", "--account", "me", "--secret-stdin")
BEFORE = [
    ("product", "create", "box", "--name", "Box", "--hardware", "r1"),
    ("account", "create", "ann"),
    (*GROUP, "--environment", "local"),
    ("partner", "service", "create", "tv", "--group", "boxes"),
]
SAYS = [
    (("account", "disable", "ann"), {"account": "ann", "enabled": False}),
    (("account", "enable", "ann"), {"account": "ann", "enabled": True}),
    (("account", "remove", "ann"), {"account": "ann", "removed": True}),
    (("admin", "create", "eve", "--password-stdin"), {"administrator": "eve", "role": "admin"}),
    (("admin", "password", "eve", "--password-stdin"), {"administrator": "eve", "password": "set"}),
    (("admin", "disable", "eve"), {"administrator": "eve", "enabled": False}),
    (("admin", "enable", "eve"), {"administrator": "eve", "enabled": True}),
    (("daemon", "schedule", "load", "30 3 * * *"), {"name": "load", "cron": "30 3 * * *", "enabled": False}),
    (("daemon", "enable", "load"), {"name": "load", "enabled": True}),
    (("daemon", "disable", "load"), {"name": "load", "enabled": False}),
    (("enrolment", "provider", "create", "p", *DEP), {"provider": "p", "made": True}),
    (("enrolment", "provider", "disable", "p"), {"provider": "p", "enabled": False}),
    (("enrolment", "provider", "enable", "p"), {"provider": "p", "enabled": True}),
    (("partner", "service", "allow-ip", "tv", "192.0.2.7"), {"service": "tv", "allowed": True}),
    (("partner", "service", "forbid-ip", "tv", "192.0.2.7"), {"service": "tv", "allowed": False}),
    (("partner", "service", "disable", "tv"), {"service": "tv", "enabled": False}),
    (("partner", "service", "enable", "tv"), {"service": "tv", "enabled": True}),
    (("partner", "provider", "set", "ca", "--url", "https://ca.example/soap"), {"provider": "ca", "set": True}),
    (("partner", "offer", "set", "tv", "1", "2", "--provider", "ca", "--package", "x"), {"provider": "ca"}),
    (("partner", "offer", "remove", "tv", "1", "2"), {"service": "tv", "removed": True}),
]
QUICK = [
    (("environment", "add", "other"), {"environment": "other", "broker": "mosquitto"}),
    (("init", "new"), {"config": "new/firstlight.toml", "environment": "local", "broker": "embedded"}),
    *SAYS[:1],
]


def commands(of: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(name, command) of every leaf."""
    if not hasattr(of, "commands"):
        yield " ".join(words), of
        return
    for name, one in of.commands.items():
        yield from commands(one, (*words, name))


def test_every_command_has_json_or_stands_here_with_a_reason() -> None:
    every = dict(commands(get_command(app)))
    assert len(every) > 100
    without = {name for name, one in every.items() if not any("--json" in option.opts for option in one.params)}
    assert without == set(WITHOUT)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (tmp_path / "firstlight.toml").write_text(CONFIG.replace("DATA", str(data)))
    KeyFile.create(data / "keys.json")
    (data / "firstlight.db").write_bytes(empty_database())
    (data / "ca").mkdir()
    monkeypatch.chdir(tmp_path)
    token = context.chosen_config.set(tmp_path / "firstlight.toml")
    yield tmp_path
    context.chosen_config.reset(token)


@pytest.mark.parametrize("said", [QUICK, pytest.param(SAYS, marks=pytest.mark.long)], ids=["some", "all"])
def test_what_changes_something_says_so_as_one_json_document(installed, said) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, [*words], input=PASSWORD)
        assert result.exit_code == 0, (words, result.output, result.exception)
        return result.stdout

    for words in BEFORE if said is SAYS else BEFORE[1:2]:
        run(*words)
    for words, expected in said:
        document = json.loads(run(*words, "--json"))
        assert {name: document.get(name) for name in expected} == expected, words
