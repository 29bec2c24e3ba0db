"""The verbs of a fleet on the command line: each function makes one verb's arguments out of its options.

Owns their words; asking.py adds the options that select devices and runs the command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from service.cli import context, replacing
from service.cli.asking import ask_one, given, selected_command, with_more
from service.cli.replacing import DeviceArgument
from service.domain.group import MoveMethod


def reprovision(
    ou: Annotated[str | None, typer.Option(help="The OU to go to.")] = None,
    environment: Annotated[str | None, typer.Option(help="The environment to go to.")] = None,
    method: Annotated[MoveMethod | None, typer.Option(help="Instead of the group's.")] = None,
    deadline_s: Annotated[int | None, typer.Option(help="A device that has not arrived by then stays.")] = None,
) -> dict[str, Any]:
    """Send devices to another OU or environment; each ends there or stays where it was."""
    found = {"ou": ou, "environment": environment, "method": method and method.value, "deadline_s": deadline_s}
    return given(found)


def allocate(
    ou: Annotated[str | None, typer.Option(help="Where they will belong.")] = None,
    environment: Annotated[str | None, typer.Option(help="The environment that they will activate in.")] = None,
    tag: Annotated[str | None, typer.Option(help="The batch tag that they get.")] = None,
) -> dict[str, Any]:
    """Say where devices belong before their first activation."""
    return given({"ou": ou, "environment": environment, "batch": tag})


def block() -> dict[str, Any]:
    """Refuse devices; their sessions end within 2 seconds while the service runs."""
    return {}


def unblock() -> dict[str, Any]:
    """Let blocked devices activate again."""
    return {}


def retire(
    reason: Annotated[str | None, typer.Option(help="What the device is told, and the event says.")] = None,
    deadline_s: Annotated[
        int | None, typer.Option(help="A device that was not heard of by then loses its credential all the same.")
    ] = None,
) -> dict[str, Any]:
    """Take devices out of use for good: they are told to wipe their credentials."""
    return given({"reason": reason, "deadline_s": deadline_s})


def transfer() -> dict[str, Any]:
    """Give devices a new key, as they change hands: at once if connected, else at their next activation."""
    return {}


def unfreeze() -> dict[str, Any]:
    """Let serials go on that were frozen because two devices spoke under them, and forget the signs of that."""
    return {}


def release_version(
    version: Annotated[str | None, typer.Option(help="A name or id; without it, every one that is held back.")] = None,
) -> dict[str, Any]:
    """Offer a firmware again that failed too often on a device."""
    return given({"version": version})


def set_attributes(
    values: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="A JSON value, else text; may stand often.")
    ] = [],  # noqa: B006
    unset: Annotated[list[str], typer.Option(metavar="NAME", help="Take this one away.")] = [],  # noqa: B006
    replace: Annotated[bool, typer.Option("--replace", help="Instead of all that are there.")] = False,
) -> dict[str, Any]:
    """Set what is known of devices on their site, such as where they hang."""
    return {"attributes": _pairs(values, unset), "replace": replace}


def set_settings(
    values: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="A JSON value, else text; may stand often.")
    ] = [],  # noqa: B006
    unset: Annotated[list[str], typer.Option(metavar="NAME", help="Take this one away.")] = [],  # noqa: B006
    replace: Annotated[bool, typer.Option("--replace", help="Instead of all that are there.")] = False,
) -> dict[str, Any]:
    """Set what devices take over: features, payment, network."""
    return {"settings": _pairs(values, unset), "replace": replace}


def rename(
    device: DeviceArgument,
    name: Annotated[str, typer.Argument(help="1 to 128 printable characters.")],
    more: dict[str, Any],
    as_json: context.JsonOption = False,
) -> None:
    """Give a thing another name."""
    ask_one("rename", device, {"name": name}, as_json, **more)


def set_target(
    version: Annotated[str | None, typer.Option(help="A name or id of the product's.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="No target of their own any more.")] = False,
) -> dict[str, Any]:
    """Give things a firmware target of their own, before those of OU, group and product."""
    if (version is None) == (not clear):
        context.fail("say --version or --clear")
    return {"version": None if clear else version}


SELECTED: Sequence[Callable[..., dict[str, Any]]] = (
    reprovision,
    allocate,
    block,
    unblock,
    retire,
    transfer,
    unfreeze,
    release_version,
    set_attributes,
    set_settings,
    set_target,
)


COMMANDS: Mapping[str, Callable[..., None]] = {
    **{one.__name__.replace("_", "-"): selected_command(one) for one in SELECTED},
    "replace": with_more(replacing.replace_),
    "undo-replace": with_more(replacing.undo_replace),
    "rename": with_more(rename),
}


def _pairs(values: Sequence[str], unset: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(unset)
    for text in values:
        name, sign, value = text.partition("=")
        if not sign or not name:
            context.fail(f"--set wants NAME=VALUE, not {text[:64]}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    if not found:
        context.fail("say --set or --unset")
    return found
