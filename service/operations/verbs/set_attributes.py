"""`set-attributes`: what is known of a device on its site, such as where it hangs. null takes one away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from device_sdk.wire import limits
from service.domain.device import Device
from service.domain.thing import Scalar
from service.operations.requests import bad_request
from service.operations.verbs.set_settings import same
from service.operations.verbs.verb import Applied, Role, Told, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "set-attributes"
ROLE = Role.OPERATOR
MAX_ATTRIBUTES = 64
MAX_VALUE_CHARS = 256
MAX_BYTES = 8192  # of all attributes as JSON: `get` shows them with everything else in one message
Key = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]


class Arguments(Arguments_):
    """`attributes` are set beside those that are there; with `replace` they take the place of all."""

    attributes: dict[Key, Scalar]
    replace: bool = False


def apply(device: Device, arguments: Arguments, _world: World) -> Applied:
    thing = device.thing
    before: Mapping[str, Scalar] = device.attributes if thing is None else thing.attributes
    after = merged({} if arguments.replace else before, arguments.attributes)
    if same(after, before):
        return Applied(device)
    if thing is None:
        changed = replace(device, attributes=after)
    else:
        changed = replace(device, thing=replace(thing, attributes=after))
    return Applied(changed, (Told("attributes_changed", {"attributes": after}),))


def merged(before: Mapping[str, Scalar], given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Raises ServiceError BAD_REQUEST for too many, or one too long."""
    for name, value in given.items():
        if isinstance(value, str) and (len(value) > MAX_VALUE_CHARS or (value and not value.isprintable())):
            raise bad_request("attribute_illegal", f"{name} must be at most {MAX_VALUE_CHARS} printable characters")
        if isinstance(value, int) and abs(value) > limits.MAX_INT:
            raise bad_request("attribute_illegal", f"{name} must be at most 2^53-1")
    after: dict[str, Scalar] = {name: value for name, value in {**before, **given}.items() if value is not None}
    if len(after) > MAX_ATTRIBUTES:
        raise bad_request("attribute_illegal", f"a device has at most {MAX_ATTRIBUTES} attributes")
    if len(json.dumps(after)) > max(MAX_BYTES, len(json.dumps(dict(before)))):  # what a hook gave may shrink
        raise bad_request("attribute_illegal", f"attributes have at most {MAX_BYTES} bytes as JSON")
    return after
