"""`firstlight partner`: services of partners and their users. What those buy stands in partner_sales.py."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli import context, partner_sales
from service.errors import Secret
from service.operations.partners import services
from service.operations.partners.answers import PartnerError
from service.operations.partners.services import User
from service.storage.database import Database

app = typer.Typer(help="Partners whose programs ask over HTTP.", no_args_is_help=True)
service_app = typer.Typer(help="A partner's service: its token, and from where it may ask.", no_args_is_help=True)
user_app = typer.Typer(help="The users of a partner service.", no_args_is_help=True)
app.add_typer(service_app, name="service")
app.add_typer(user_app, name="user")
app.add_typer(partner_sales.provider_app, name="provider")
app.add_typer(partner_sales.offer_app, name="offer")
app.add_typer(partner_sales.purchase_app, name="purchase")
NameArgument = Annotated[str, typer.Argument(help="1 to 32 of a-z 0-9 -.")]
AddressArgument = Annotated[str, typer.Argument(help="Such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32.")]


@service_app.command("create")
def create_service(
    name: NameArgument,
    group: Annotated[str, typer.Option(help="Where its boxes register: a group of key kind public_key.")],
    min_keys: Annotated[int, typer.Option(help="Public keys that a link must bring, at least: 1 to 8.")] = 8,
    as_json: context.JsonOption = False,
) -> None:
    """Make a service; its token is shown this once. Until an address is allowed it may ask from nowhere."""
    token: Secret = context.run(
        lambda database: services.create(
            database, name, group, min_keys=min_keys, now=datetime.now(UTC), random_bytes=os.urandom
        )
    )
    _show_token(name, token, as_json=as_json)


@service_app.command("rotate")
def rotate(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """A new token, shown this once; the old one is dead at once."""
    token: Secret = context.run(
        lambda database: services.rotate(database, name, now=datetime.now(UTC), random_bytes=os.urandom)
    )
    _show_token(name, token, as_json=as_json)


@service_app.command("allow-ip")
def allow_ip(name: NameArgument, address: AddressArgument, as_json: context.JsonOption = False) -> None:
    """Let it ask from there."""
    allowed = context.run(lambda database: services.allow_address(database, name, address, now=datetime.now(UTC)))
    context.done({"service": name, "address": allowed, "allowed": True}, as_json=as_json, said=allowed)


@service_app.command("forbid-ip")
def forbid_ip(name: NameArgument, address: AddressArgument, as_json: context.JsonOption = False) -> None:
    """Let it ask from there no more."""
    context.run(lambda database: services.forbid_address(database, name, address))
    context.done({"service": name, "address": address, "allowed": False}, as_json=as_json)


@service_app.command("disable")
def disable(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """Lock a service out."""
    context.run(lambda database: services.disable(database, name, now=datetime.now(UTC)))
    context.done({"service": name, "enabled": False}, as_json=as_json)


@service_app.command("enable")
def enable(name: NameArgument, as_json: context.JsonOption = False) -> None:
    """Let a disabled service in again, with its token."""
    context.run(lambda database: services.enable(database, name))
    context.done({"service": name, "enabled": True}, as_json=as_json)


@service_app.command("list")
def list_services(as_json: context.JsonOption = False) -> None:
    """Every service."""
    found = context.run(services.list_all)
    rows = [
        [one.name, one.group_id, str(one.min_keys), " ".join(one.addresses) or "-", "no" if one.disabled_at else "yes"]
        for one in found
    ]
    columns = ["service", "group", "keys", "addresses", "enabled"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Partner services", columns, rows))


@user_app.command("add")
def add_user(
    service: Annotated[str, typer.Argument()],
    email: Annotated[str, typer.Argument()],
    as_json: context.JsonOption = False,
) -> None:
    """Make a user known; one that exists is found."""

    async def add(database: Database) -> User:
        try:
            return await services.add_user(database, service, email, now=datetime.now(UTC))
        except PartnerError as error:
            raise context.CommandError(error.text) from error

    user = context.run(add)
    context.emit(user, as_json=as_json, text=lambda: print(f"{user.user_id} {user.email}"))


@user_app.command("list")
def list_users(
    service: Annotated[str, typer.Argument()],
    after: Annotated[int, typer.Option(help="Go on after this id.")] = 0,
    as_json: context.JsonOption = False,
) -> None:
    """A thousand users, by id."""
    found = context.run(lambda database: services.list_users(database, service, after=after))
    rows = [[str(one.user_id), one.email] for one in found]
    context.emit(found, as_json=as_json, text=lambda: context.table("Users", ["id", "email"], rows))


def _show_token(name: str, token: Secret, *, as_json: bool) -> None:
    text = token.reveal().decode("ascii")
    context.emit(
        {"service": name, "token": text},
        as_json=as_json,
        text=lambda: print(f"partner service {name}\ntoken (shown this once): {text}"),
    )
