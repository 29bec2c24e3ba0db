"""The options that select devices, and the selector that they make.

Owns their words; asking.py adds them to the commands of a fleet. Apart from it, because who only looks needs no verb.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.cli import context
from service.domain.device import DeviceState
from service.operations.requests import field_refused
from service.operations.selectors import Selector

SELECTION: dict[str, tuple[Any, Any]] = {
    "device": (Annotated[list[str] | None, typer.Argument(metavar="[GROUP/SERIAL]...")], None),
    "thing": (Annotated[list[str] | None, typer.Option(help="Select this thing, by its id; may stand often.")], None),
    "group": (Annotated[str | None, typer.Option(help="Select the devices of this group.")], None),
    "product": (Annotated[str | None, typer.Option(help="Select the devices of this product.")], None),
    "in_ou": (Annotated[str | None, typer.Option(help="Select what is in this OU or below it.")], None),
    "in_environment": (Annotated[str | None, typer.Option(help="Select what is in this environment.")], None),
    "batch": (Annotated[str | None, typer.Option(help="Select the devices with this batch tag.")], None),
    "state": (Annotated[DeviceState | None, typer.Option(help="Select the devices in this state.")], None),
}


def selector_of(given: dict[str, Any]) -> dict[str, Any]:
    """From the options that select devices; empty where there are none."""
    names = {
        "devices": given.get("device") or None,
        "things": given.get("thing") or None,
        "group": given.get("group"),
        "product": given.get("product"),
        "ou": given.get("in_ou"),
        "environment": given.get("in_environment"),
        "batch": given.get("batch"),
        "state": given["state"].value if given.get("state") is not None else None,
    }
    return {name: value for name, value in names.items() if value is not None}


def selector_read(given: dict[str, Any]) -> Selector:
    """The same as a selector. Ends the command where it is none."""
    try:
        return Selector.model_validate(selector_of(given))
    except ValidationError as error:
        context.fail(field_refused(error, "option").public)
