"""`firstlight environment bootstrap`: endpoints that devices are told besides those of the factory."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context
from service.errors import ServiceError
from service.operations import bootstraps
from service.operations.releases import read_file
from service.operations.requests import bad_request

app = typer.Typer(help="Bootstrap endpoints that devices are told, besides the factory's.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The environment.")]
Address = Annotated[str, typer.Argument(help="HOST:PORT as devices reach it.")]


@app.command()
def add(
    name: Name,
    address: Address,
    ca: Annotated[
        Path | None, typer.Option(help="Who vouches for it (PEM); else the environment's own authority.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Without TLS: only devices that were built to allow it take it.")
    ] = False,
    as_json: context.JsonOption = False,
) -> None:
    """Tell the devices of an environment of one more place to come in. Those of the factory stay."""
    of = context.settings().environments.get(name)
    if of is None:
        context.fail(f"no environment {name}")
    if plain and of.endpoints.bootstrap.tls:
        # A device that insists on TLS refuses all that it is told to trust along with such an endpoint.
        context.fail("devices of this environment come in by TLS: give the endpoint TLS too")
    try:
        host, port = _parse(address)
        ca_pem = None if ca is None else read_file(ca, "bootstrap_ca_illegal").decode("ascii", "replace")
    except ServiceError as error:
        context.fail(error.public)
    added = context.run(
        lambda database: bootstraps.add(database, name, host, port, now=datetime.now(UTC), tls=not plain, ca_pem=ca_pem)
    )
    context.emit(added, as_json=as_json, text=lambda: print(f"devices in {name} are told of {host}:{port}"))


@app.command()
def remove(name: Name, address: Address, as_json: context.JsonOption = False) -> None:
    """Tell them of it no more; a device forgets it once it was online without it."""
    try:
        host, port = _parse(address)
    except ServiceError as error:
        context.fail(error.public)
    context.run(lambda database: bootstraps.remove(database, name, host, port, now=datetime.now(UTC)))
    context.emit(
        {"environment": name, "host": host, "port": port, "removed": True},
        as_json=as_json,
        text=lambda: print(f"devices in {name} are told of {host}:{port} no more"),
    )


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """The endpoints that devices are told."""
    found = context.run(bootstraps.list_all)
    rows = [
        [
            one.environment,
            f"{one.host}:{one.port}",
            "yes" if one.tls else "no",
            "own" if one.ca_pem else "environment's",
        ]
        for one in found
    ]
    context.emit(
        found,
        as_json=as_json,
        text=lambda: context.table(
            "Further bootstrap endpoints", ["environment", "endpoint", "TLS", "authority"], rows
        ),
    )


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5:
        raise bad_request("bootstrap_illegal", "an endpoint is HOST:PORT, such as boot-2.example.org:8884")
    return host.removeprefix("[").removesuffix("]"), int(port)
