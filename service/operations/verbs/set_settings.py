"""`set-settings`: features, payment, network: a document that the device takes over, on trial where it could cut it off.

The revision rises with each change; the device reports which it has applied. null takes one away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, JsonValue

from device_sdk.wire import limits
from service.domain.device import Device
from service.operations.requests import bad_request
from service.operations.verbs.verb import Applied, Role, Told, World, thing_of
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "set-settings"
ROLE = Role.OPERATOR
MAX_BYTES = 4096  # of all settings as JSON: they travel in the desired document with everything else
MAX_LEVELS = 4
MAX_NAME_CHARS = 64
MAX_NAME_CHARS = 64
Key = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[ -~]+$")]


class Arguments(Arguments_):
    """`settings` are set beside those that are there; with `replace` they take the place of all."""

    settings: dict[Key, JsonValue]
    replace: bool = False


def apply(device: Device, arguments: Arguments, _world: World) -> Applied:
    thing = thing_of(device)
    check(arguments.settings)
    before: Mapping[str, object] = {} if arguments.replace else thing.settings
    after = {name: value for name, value in {**before, **arguments.settings}.items() if value is not None}
    _check_size(after)
    if same(after, thing.settings):
        return Applied(device)
    rev = thing.settings_rev + 1
    changed = replace(device, thing=replace(thing, settings=after, settings_rev=rev, settings_state=None))
    return Applied(changed, (Told("settings_changed", {"settings_rev": rev}),))


def check_all(settings: Mapping[str, Any]) -> None:
    """A thing's settings as a whole, where they come in another way than by this verb. Raises ServiceError BAD_REQUEST."""
    for name, value in settings.items():
        if not 1 <= len(name) <= MAX_NAME_CHARS or not (name.isascii() and name.isprintable()) or value is None:
            raise bad_request(
                "settings_illegal", f"a setting has a name of 1 to {MAX_NAME_CHARS} characters and a value"
            )
    check(dict(settings))
    _check_size(settings)


def _check_size(settings: Mapping[str, Any]) -> None:
    if len(json.dumps(dict(settings))) > MAX_BYTES:
        raise bad_request("settings_illegal", f"settings have at most {MAX_BYTES} bytes as JSON")


def check(value: Any, level: int = 1) -> None:
    """What the wire can carry: no floats, integers from 0 to 2^53-1, names of 1 to 64 characters, a few levels.

    Raises ServiceError BAD_REQUEST.
    """
    if level > MAX_LEVELS:
        raise bad_request("settings_illegal", f"settings have at most {MAX_LEVELS} levels")
    if isinstance(value, float):
        raise bad_request("settings_illegal", "a setting is no fraction: use another unit, or text")
    if isinstance(value, int) and not 0 <= value <= limits.MAX_INT:
        raise bad_request("settings_illegal", "a number in the settings is 0 to 2^53-1")
    if isinstance(value, dict):
        for name, item in value.items():
            if not 1 <= len(name) <= MAX_NAME_CHARS:
                raise bad_request("settings_illegal", f"a name in the settings has 1 to {MAX_NAME_CHARS} characters")
            check(item, level + 1)
    elif isinstance(value, list):
        for item in value:
            check(item, level + 1)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a device would get the same: 1 is not true."""
    return json.dumps(one, sort_keys=True) == json.dumps(dict(other), sort_keys=True)
