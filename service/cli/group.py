"""`firstlight group`: registration groups and their policies."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from device_sdk.wire import limits
from service.cli import context, group_secrets
from service.domain.group import ClonePolicy, Group, KeyKind, MoveMethod, Reactivation
from service.errors import ServiceError
from service.operations import accounts, bare_serials, groups
from service.operations import group_secrets as secrets_of
from service.storage.database import Database

app = typer.Typer(help="Registration groups: which keys their devices hold and how they come in.", no_args_is_help=True)

GroupId = Annotated[str, typer.Argument(help="As the factory burns it.")]


@app.command()
def create(
    group_id: GroupId,
    product: Annotated[str, typer.Option(help="The product of its devices.")],
    key_kind: Annotated[KeyKind, typer.Option(help="What a device proves itself with.")] = KeyKind.INDIVIDUAL,
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="FIRSTLIGHT_GROUP_SECRET", help="Group secret in base64 (kinds derived and group); else one is made."
        ),
    ] = None,
    self_registration: Annotated[bool, typer.Option(help="Let proven serials in that nobody registered.")] = False,
    ou: Annotated[str | None, typer.Option(help="Default OU, such as acme/emea/plant-7.")] = None,
    environment: Annotated[str | None, typer.Option(help="Default environment.")] = None,
    pending_expiry_s: Annotated[
        int, typer.Option(help="Seconds after which an unconfirmed credential lapses.")
    ] = limits.DEFAULT_PENDING_EXPIRY_S,
    reactivation: Annotated[
        Reactivation, typer.Option(help="When an activated device activates again: hold asks the old credential.")
    ] = Reactivation.HOLD,
    as_json: context.JsonOption = False,
) -> None:
    """Make a group. A group secret that is made here is shown this once."""
    try:
        given = None if secret is None else groups.parse_secret(secret)
    except ServiceError as error:
        context.fail(error.public)
    group = Group(
        group_id=group_id,
        product_id=product,
        key_kind=key_kind,
        secret=given,
        self_registration=self_registration,
        default_ou=ou,
        default_environment=environment,
        pending_expiry_s=pending_expiry_s,
        reactivation=reactivation,
    )
    made, new_secret = context.run(lambda database: groups.create(database, group, random_bytes=os.urandom))
    shown = None if new_secret is None else base64.b64encode(new_secret.reveal()).decode("ascii")

    def text() -> None:
        print(f"group {made.group_id} made")
        if shown is not None:
            print(f"group secret (shown this once): {shown}")

    context.emit({**context.plain(made), "new_secret": shown}, as_json=as_json, text=text)


@app.command()
def change(
    group_id: GroupId,
    self_registration: Annotated[
        bool | None, typer.Option(help="Let proven serials in that nobody registered.")
    ] = None,
    self_quota: Annotated[int | None, typer.Option(help="How many may register themselves.")] = None,
    serial_pattern: Annotated[
        str | None, typer.Option(help="Shell patterns of serials that may, such as 'TH-[0-9]* SN-??'.")
    ] = None,
    quarantine_ou: Annotated[
        str | None, typer.Option(help="Where a serial goes that does not fit the pattern.")
    ] = None,
    hook: Annotated[str | None, typer.Option(help="Asked at each activation: http(s)://... or python:NAME.")] = None,
    ou: Annotated[str | None, typer.Option(help="Default OU.")] = None,
    environment: Annotated[str | None, typer.Option(help="Default environment.")] = None,
    pending_expiry_s: Annotated[
        int | None, typer.Option(help="Seconds until an unconfirmed credential lapses.")
    ] = None,
    reactivation: Annotated[Reactivation | None, typer.Option(help="When an activated device activates again.")] = None,
    move_method: Annotated[MoveMethod | None, typer.Option(help="What a reprovision does, unless it says.")] = None,
    clone_policy: Annotated[ClonePolicy | None, typer.Option(help="When two devices use one serial.")] = None,
    credential_life_s: Annotated[
        int | None, typer.Option(help="Life of API keys in seconds: renewed at two thirds, ended at its end.")
    ] = None,
    failover_environment: Annotated[
        str | None, typer.Option(help="Where devices go that cannot reach theirs; with --failover-after-s.")
    ] = None,
    failover_ou: Annotated[str | None, typer.Option(help="Their OU there, where it is not to stay the same.")] = None,
    failover_after_s: Annotated[int | None, typer.Option(help="Seconds of silence before that.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Firmware target by name or id, before the product's.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(metavar="FILE|JSON", help="Settings of new and of initialised things, a JSON map.")
    ] = None,
    clear: Annotated[list[str] | None, typer.Option(metavar="OPTION", help="Unset one, e.g. hook; repeatable.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Change policies of a group. They count from the next message of each device on."""
    given = {
        "self_registration": self_registration,
        "self_quota": self_quota,
        "serial_pattern": serial_pattern,
        "quarantine_ou": quarantine_ou,
        "hook": hook,
        "default_ou": ou,
        "default_environment": environment,
        "pending_expiry_s": pending_expiry_s,
        "reactivation": reactivation,
        "move_method": move_method,
        "clone_policy": clone_policy,
        "credential_life_s": credential_life_s,
        "failover_environment": failover_environment,
        "failover_ou": failover_ou,
        "failover_after_s": failover_after_s,
        "target_version_id": target,
        "template_settings": None if template is None else _template(template),
    }
    changes: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    for option in clear or []:
        name = _CLEARED.get(option, option.replace("-", "_"))
        if name not in _CLEARABLE:
            known = {_OPTION_OF.get(one, one).replace("_", "-") for one in _CLEARABLE}
            context.fail(f"--clear: one of {', '.join(sorted(known))}")
        changes[name] = {} if name == "template_settings" else None
    changed = context.run(lambda database: groups.change(database, group_id, changes))
    context.emit(
        changed, as_json=as_json, text=lambda: print(f"group {group_id} changed: {', '.join(sorted(changes))}")
    )


_CLEARED = {
    "ou": "default_ou",
    "environment": "default_environment",
    "target": "target_version_id",
    "template": "template_settings",
}
_OPTION_OF = {name: option for option, name in _CLEARED.items()}
_CLEARABLE = groups.CHANGEABLE - {
    "self_registration",
    "pending_expiry_s",
    "reactivation",
    "move_method",
    "clone_policy",
}


def _template(text: str) -> dict[str, object]:
    """A JSON map, or what stands in the file of that name."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        context.fail("--template: a JSON map, or a file with one")
    return found


@app.command("bare-serial")
def bare_serial(
    group_id: GroupId,
    allow: Annotated[
        bool, typer.Option("--allow/--forbid", help="UNSAFE to allow: whoever knows a serial number gets its API key.")
    ],
    as_json: context.JsonOption = False,
) -> None:
    """Let devices of a group activate over HTTP by their bare serial number. Unsafe; off unless you turn it on.

    For the time of a migration, for devices that have no key to prove: whoever knows a serial number, and serial
    numbers are seldom secret, becomes that device. Forbid it again as soon as they are over; keys that were given stay.
    """
    if allow:
        context.run(lambda database: bare_serials.allow(database, group_id, by=accounts.LOCAL, now=datetime.now(UTC)))
        said = f"UNSAFE: whoever knows a serial number of group {group_id} now gets its API key; --forbid ends it"
    else:
        context.run(lambda database: bare_serials.forbid(database, group_id))
        said = f"group {group_id}: a bare serial is refused"
    context.emit({"group_id": group_id, "bare_serial": allow}, as_json=as_json, text=lambda: print(said))


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """All groups."""
    found = context.run(groups.list_all)
    context.emit(found, as_json=as_json, text=lambda: _show(found))


@app.command()
def show(group_id: GroupId, as_json: context.JsonOption = False) -> None:
    """One group and the generations of its secret. No secret is ever shown again."""

    async def both(database: Database) -> tuple[groups.GroupView, list[secrets_of.SecretView]]:
        found = await groups.show(database, group_id)
        return found, await secrets_of.list_all(database, group_id, now=datetime.now(UTC))

    found, secrets = context.run(both)

    def text() -> None:
        _show([found])
        rows = [[name, value] for name, value in _policies(found).items() if value is not None]
        context.table("Policies", ["", ""], rows)
        if secrets:
            group_secrets.table(secrets)

    context.emit({**context.plain(found), "secrets": secrets}, as_json=as_json, text=text)


app.command("rotate-secret")(group_secrets.rotate_secret)
app.command("retire-secret")(group_secrets.retire_secret)


def _policies(view: groups.GroupView) -> dict[str, str | None]:
    """What `group change` sets beside what the table of groups shows; unset ones are None."""
    of = view.group
    failover = f"{of.failover_ou or 'the same OU'} in {of.failover_environment} after {of.failover_after_s} s"
    return {
        "firmware target": view.target,
        "template": json.dumps(dict(of.template_settings), ensure_ascii=False) if of.template_settings else None,
        "move method": of.move_method.value,
        "clone policy": of.clone_policy.value,
        "unconfirmed lapses": f"after {of.pending_expiry_s} s",
        "life of API keys": None if of.credential_life_s is None else f"{of.credential_life_s} s",
        "self quota": None if of.self_quota is None else str(of.self_quota),
        "serial pattern": of.serial_pattern,
        "quarantine OU": of.quarantine_ou,
        "hook": of.hook,
        "failover": failover if of.failover_environment is not None else None,
    }


def _show(found: list[groups.GroupView]) -> None:
    rows = [
        [
            one.group.group_id,
            one.group.product_id,
            one.group.key_kind.value + (", self-registration" if one.group.self_registration else ""),
            f"{one.group.default_ou or '-'} in {one.group.default_environment or '-'}",
            one.group.reactivation.value,
            str(one.devices),
        ]
        for one in found
    ]
    context.table("Groups", ["group", "product", "keys", "default place", "reactivation", "devices"], rows)
