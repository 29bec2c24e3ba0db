"""`firstlight group rotate-secret` and `retire-secret`: exchange of a group's secret."""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli import context
from service.errors import ServiceError
from service.operations import group_secrets, groups
from service.operations.group_secrets import SecretView


def rotate_secret(
    group_id: Annotated[str, typer.Argument(help="The group.")],
    secret: Annotated[
        str | None,
        typer.Option(envvar="FIRSTLIGHT_GROUP_SECRET", help="The new secret in base64; else one is made."),
    ] = None,
    grace_s: Annotated[
        int, typer.Option(help="Seconds for which the old one is as good as the new: for devices that lie in stock.")
    ] = 0,
    as_json: context.JsonOption = False,
) -> None:
    """Give a group (key kinds derived and group) a new secret; one that is made here is shown this once.

    Devices that are registered by the end of the grace can go on with the old secret, until `retire-secret`. Connected
    ones are asked at once to take a key of their own, which the secret does not give away.
    """
    try:
        given = None if secret is None else groups.parse_secret(secret)
    except ServiceError as error:
        context.fail(error.public)
    views, made = context.run(
        lambda database: group_secrets.rotate(
            database, group_id, now=datetime.now(UTC), random_bytes=os.urandom, secret=given, grace_s=grace_s
        )
    )
    shown = None if made is None else base64.b64encode(made.reveal()).decode("ascii")

    def text() -> None:
        print(f"group {group_id} has secret {views[0].generation} now")
        if shown is not None:
            print(f"group secret (shown this once): {shown}")
        table(views)

    context.emit({"group_id": group_id, "secrets": views, "new_secret": shown}, as_json=as_json, text=text)


def retire_secret(
    group_id: Annotated[str, typer.Argument(help="The group.")],
    generation: Annotated[int, typer.Argument(help="The number of the secret, as `group show` has it.")],
    at_most: Annotated[int, typer.Option(help="How many devices may be left without a way to come back in.")] = 0,
    as_json: context.JsonOption = False,
) -> None:
    """Let a secret of a group prove nobody any more who activates at the bootstrap broker; for good.

    A connected device stays, and takes a key of its own over the connection that it has.
    """
    views = context.run(
        lambda database: group_secrets.retire(database, group_id, generation, now=datetime.now(UTC), at_most=at_most)
    )
    context.emit({"group_id": group_id, "secrets": views}, as_json=as_json, text=lambda: table(views))


def table(views: list[SecretView]) -> None:
    rows = [
        [
            str(one.generation),
            one.state.value,
            "-" if one.superseded_at is None else context.moment(one.superseded_at),
            "-" if one.grace_until is None else context.moment(one.grace_until),
            "-" if one.retired_at is None else context.moment(one.retired_at),
            str(one.devices),
        ]
        for one in views
    ]
    columns = ["secret", "state", "superseded", "grace until", "retired", "devices"]
    context.table("Secrets", columns, rows)
