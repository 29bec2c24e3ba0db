"""`firstlight group`: registration groups and their policies."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from device_sdk.wire import limits
from service.cli import context, group_policies, group_secrets
from service.cli.option_tables import with_table
from service.domain.group import Group, KeyKind, Reactivation
from service.errors import Secret, ServiceError
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
    group = Group(
        group_id=group_id,
        product_id=product,
        key_kind=key_kind,
        secret=None if secret is None else _secret(secret),
        self_registration=self_registration,
        default_ou=ou,
        default_environment=environment,
        pending_expiry_s=pending_expiry_s,
        reactivation=reactivation,
    )
    made, new_secret = context.run(lambda database: groups.create(database, group, random_bytes=os.urandom))
    shown = None if new_secret is None else base64.b64encode(new_secret.reveal()).decode("ascii")
    context.emit({**context.plain(made), "new_secret": shown}, as_json=as_json, text=lambda: _print_made(made, shown))


def _print_made(made: Group, secret: str | None) -> None:
    print(f"group {made.group_id} made")
    if secret is not None:
        print(f"group secret (shown this once): {secret}")


def _secret(text: str) -> Secret:
    try:
        return groups.parse_secret(text)
    except ServiceError as error:
        context.fail(error.public)


def change(
    group_id: GroupId,
    *,
    more: dict[str, Any],
    clear: Annotated[list[str] | None, typer.Option(metavar="OPTION", help="Unset one, e.g. hook; repeatable.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Change policies of a group. They count from the next message of each device on."""
    changes = group_policies.changes_of(more, clear or ())
    changed = context.run(lambda database: groups.change(database, group_id, changes))
    context.emit(
        changed, as_json=as_json, text=lambda: print(f"group {group_id} changed: {', '.join(sorted(changes))}")
    )


app.command("change")(with_table(change, group_policies.OPTIONS))


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
