"""The options of `firstlight group change`: which policy of a group each sets, and which of them can be unset.

Owns the table of them and what it makes of a command line. What is legal for a group is operations/groups.py's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import context
from service.domain.group import ClonePolicy, MoveMethod, Reactivation
from service.operations import groups


def _option(kind: Any, text: str, metavar: str | None = None) -> tuple[Any, None]:
    return Annotated[kind | None, typer.Option(help=text, metavar=metavar)], None


OPTIONS = {
    "self_registration": _option(bool, "Let proven serials in that nobody registered."),
    "self_quota": _option(int, "How many may register themselves."),
    "serial_pattern": _option(str, "Shell patterns of serials that may, such as 'TH-[0-9]* SN-??'."),
    "quarantine_ou": _option(str, "Where a serial goes that does not fit the pattern."),
    "hook": _option(str, "Asked at each activation: http(s)://... or python:NAME."),
    "ou": _option(str, "Default OU."),
    "environment": _option(str, "Default environment."),
    "pending_expiry_s": _option(int, "Seconds until an unconfirmed credential lapses."),
    "reactivation": _option(Reactivation, "When an activated device activates again."),
    "move_method": _option(MoveMethod, "What a reprovision does, unless it says."),
    "clone_policy": _option(ClonePolicy, "When two devices use one serial."),
    "credential_life_s": _option(int, "Life of API keys in seconds: renewed at two thirds, ended at its end."),
    "failover_environment": _option(str, "Where devices go that cannot reach theirs; with --failover-after-s."),
    "failover_ou": _option(str, "Their OU there, where it is not to stay the same."),
    "failover_after_s": _option(int, "Seconds of silence before that."),
    "target": _option(str, "Firmware target by name or id, before the product's.", "VERSION"),
    "template": _option(str, "Settings of new and of initialised things, a JSON map.", "FILE|JSON"),
}
_FIELD_OF = {
    "ou": "default_ou",
    "environment": "default_environment",
    "target": "target_version_id",
    "template": "template_settings",
}
_OPTION_OF = {field: option for option, field in _FIELD_OF.items()}
_CLEARABLE = groups.CHANGEABLE - {
    "self_registration",
    "pending_expiry_s",
    "reactivation",
    "move_method",
    "clone_policy",
}


def changes_of(given: Mapping[str, Any], cleared: Sequence[str]) -> dict[str, object]:
    """By the fields of a group, from options that were given and the names of those to unset. Ends the command."""
    changes: dict[str, object] = {}
    for option, value in given.items():
        if value is not None:
            changes[_FIELD_OF.get(option, option)] = _template(value) if option == "template" else value
    for option in cleared:
        field = _FIELD_OF.get(option, option.replace("-", "_"))
        if field not in _CLEARABLE:
            known = {_OPTION_OF.get(one, one).replace("_", "-") for one in _CLEARABLE}
            context.fail(f"--clear: one of {', '.join(sorted(known))}")
        changes[field] = {} if field == "template_settings" else None
    return changes


def _template(text: str) -> dict[str, object]:
    """A JSON map, or what stands in the file of that name."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        context.fail("--template: a JSON map, or a file with one")
    return found
