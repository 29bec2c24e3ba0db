"""The commands of `firstlight`, each loaded when it is called.

Owns which module holds which noun, and groups that load theirs on demand: to import everything takes longer than most
commands do. What help says of the commands stands in outline.py, which a test compares with the commands themselves;
one that is missing there is only loaded sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from service.cli.outline import OUTLINE

# Where each is: a module's Typer, function, or map from names to functions. In the order of `--help`.
NOUNS: dict[str, str] = {
    "init": "init:init",
    "serve": "serve:serve",
    "status": "status:status",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "trace": "trace:trace",
    "audit": "audit:audit",
    "events": "events:events",
    "stats": "stats:stats",
    "labels": "labels:labels",
    "onboard": "onboard:command",
    "openapi": "openapi:openapi",
    "backup": "backup:backup",
    "restore": "backup:restore",
    **dict.fromkeys(
        (
            *("reprovision", "allocate", "block", "unblock", "retire", "transfer", "unfreeze", "release-version"),
            *("set-attributes", "set-settings", "set-target", "replace", "undo-replace", "rename"),
        ),
        "verbs:COMMANDS",
    ),
    "restage": "equipment:restage",
    **{
        noun: f"{noun.replace('-', '_')}:app"
        for noun in (
            *("account", "batch", "command", "broker", "product", "environment", "group", "ou", "device", "version"),
            *("release", "keys", "partner", "stb", "device-type", "site", "order", "equipment", "manifest"),
            "warehouse",
        )
    },
    "admin": "administrators:app",
    "daemon": "jobs:daemon_app",
    "job": "jobs:job_app",
    "config": "configuration:app",
    "enrolment": "enrolment:app",
}
MODULES = tuple(dict.fromkeys(f"{__package__}.{where.partition(':')[0]}" for where in NOUNS.values()))
HELP = ""  # under this name a group's own line stands in the outline


def loaded(noun: str) -> Any:
    """The command or group as typer makes it. Imports its module."""
    module, _, attribute = NOUNS[noun].partition(":")
    found = getattr(import_module(f"{__package__}.{module}"), attribute)
    made = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        made.add_typer(found, name=noun)
    else:
        made.command(noun)(found[noun] if isinstance(found, Mapping) else found)
    return typer.main.get_group(made).commands[noun]


class Commands(MutableMapping[str, Any]):
    """Commands by name: `known` without being loaded, `load` gives one of them, `rest` those that the outline lacks."""

    def __init__(
        self, known: Mapping[str, Any], load: Callable[[str], Any], rest: Callable[[], Mapping[str, Any]]
    ) -> None:
        self.known, self._load, self._rest = known, load, rest
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._load(name) if name in self.known else self._rest()[name]
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands stay")

    def __iter__(self) -> Iterator[str]:
        return iter([*self.known, *(name for name in self._rest() if name not in self.known)])

    def __len__(self) -> int:
        return len(list(iter(self)))


class Outlined(TyperGroup):
    """A group whose help needs none of its commands."""

    commands: Commands

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands.known)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        named = {name: TyperCommand(name, help=line) for name, line in self.commands.known.items()}
        TyperGroup(name=self.name, commands=dict(named)).format_commands(ctx, formatter)


def every_noun() -> Commands:
    """The commands of `firstlight` itself."""
    lines = {noun: _line(OUTLINE.get(noun)) for noun in NOUNS}
    return Commands(lines, _noun, dict)


def _line(entry: str | Mapping[str, str] | None) -> str:
    return entry[HELP] if isinstance(entry, Mapping) else entry or ""


def _noun(noun: str) -> Any:
    entry = OUTLINE.get(noun)
    if not isinstance(entry, Mapping):
        return loaded(noun)
    made = Outlined(name=noun, help=entry[HELP], no_args_is_help=True, rich_markup_mode=None)
    real: list[Any] = []

    def every() -> Mapping[str, Any]:
        if not real:
            real.append(loaded(noun))
        commands: Mapping[str, Any] = real[0].commands
        return commands

    made.commands = Commands(
        {name: line for name, line in entry.items() if name != HELP}, lambda name: every()[name], every
    )
    return made


def outline_of(group: Any) -> dict[str, str | dict[str, str]]:
    """What outline.py has to say of these commands, which are all loaded for it."""
    found: dict[str, str | dict[str, str]] = {}
    for noun in group.commands:
        real = loaded(noun)
        of = getattr(real, "commands", None)
        lines = {} if of is None else {name: one.get_short_help_str(1000) for name, one in of.items()}
        found[noun] = {HELP: real.help or "", **lines} if lines else real.get_short_help_str(1000)
    return found
