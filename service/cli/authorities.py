"""`firstlight environment rotate-ca|use-ca|forget-ca|authorities`: the exchange of an environment's certificate authority."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from service.cli import context
from service.credentials.authority import AuthorityError
from service.operations import ca_exchange
from service.operations.ca_exchange import Authorities, Place

Environment = Annotated[str, typer.Argument(help="The environment whose certificate authority it is.")]


def add_to(app: typer.Typer) -> None:
    for name, command in (
        ("rotate-ca", rotate_ca),
        ("use-ca", use_ca),
        ("forget-ca", forget_ca),
        ("authorities", authorities),
    ):
        app.command(name)(command)


def rotate_ca(environment: Environment, as_json: context.JsonOption = False) -> None:
    """Make the next certificate authority and have brokers and devices trust it too; stop the service first.

    The present one goes on signing. When the devices have heard (`environment authorities`), `use-ca` lets the next sign.
    For Mosquitto, `broker render` and a restart of the brokers belong to each step.
    """
    _do(environment, ca_exchange.announce, as_json=as_json)


def use_ca(
    environment: Environment,
    at_most: Annotated[
        int, typer.Option(help="How many devices in service may be left that do not know the next one; they are lost.")
    ] = 0,
    as_json: context.JsonOption = False,
) -> None:
    """Let the announced authority sign; the one before is trusted until it is forgotten. Stop the service first."""
    _do(environment, lambda place: ca_exchange.use_next(place, at_most=at_most), as_json=as_json)


def forget_ca(
    environment: Environment,
    at_most: Annotated[
        int, typer.Option(help="How many devices may be left that still use a credential from before the exchange.")
    ] = 0,
    as_json: context.JsonOption = False,
) -> None:
    """End the authority before the present one, and what it has signed; stop the service first."""
    _do(environment, lambda place: ca_exchange.forget(place, at_most=at_most), as_json=as_json)


def authorities(environment: Environment, as_json: context.JsonOption = False) -> None:
    """The certificate authorities by their SHA-256 fingerprints, and how many devices an exchange waits for."""
    _do(environment, ca_exchange.status, as_json=as_json)


def _do(environment: str, step: Callable[[Place], Awaitable[Authorities]], *, as_json: bool) -> None:
    of = context.settings()
    (name,) = context.environments(of, environment)
    place = Place(name, of.ca_dir(name), of.key_file, of.database_path)

    async def done() -> Authorities:
        try:
            return await step(place)
        except (AuthorityError, OSError) as error:
            raise context.CommandError(f"{place.directory}: {error}") from error

    found = context.guarded(done)
    context.emit(found, as_json=as_json, text=lambda: _show(found))


def _show(found: Authorities) -> None:
    print(found.current)
    if found.next is not None:
        print(f"next: {found.next}\ndevices that have still to hear of it: {found.waiting}")
    elif found.previous is not None:
        print(f"previous: {found.previous}\ndevices that still use a credential from before: {found.waiting}")
    if found.not_activated or found.blocked:
        print(
            f"not counted, since nobody can tell them: {found.not_activated} without a credential that were registered "
            f"before, {found.blocked} blocked\nThose that know only an older authority need a new device file."
        )
