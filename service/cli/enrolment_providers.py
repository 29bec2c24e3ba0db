"""`firstlight enrolment provider`: who enrols devices for us, and how they are reached."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context
from service.errors import Secret
from service.operations.accounts import LOCAL
from service.operations.enrolment import providers
from service.operations.enrolment.providers import Adaptor

app = typer.Typer(help="Enrolment providers.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="1 to 64 of A-Z a-z 0-9 . _ -.")]
PemOption = Annotated[Path | None, typer.Option(help="A certificate in PEM.")]


@app.command()
def create(
    provider: NameArgument,
    adaptor: Annotated[Adaptor, typer.Option(help="file exchanges generic files, dep speaks JSON over HTTPS.")],
    url: Annotated[str | None, typer.Option(help="dep: where it is asked.")] = None,
    account: Annotated[str | None, typer.Option(help="dep: who we are there (reseller id).")] = None,
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read our token there from standard input.")
    ] = False,
    recipient: PemOption = None,
    signer: PemOption = None,
    as_json: context.JsonOption = False,
) -> None:
    """Make a provider. Of adaptor file: --recipient is whom files are for, --signer whose files are believed."""
    secret = _secret() if secret_stdin else None
    recipient_pem, signer_pem = _text(recipient), _text(signer)
    context.run(
        lambda database: providers.create(
            database, provider, adaptor, url=url, account=account, secret=secret, recipient_pem=recipient_pem,
            signer_pem=signer_pem, by=LOCAL, now=datetime.now(UTC),
        )
    )  # fmt: skip
    context.done({"provider": provider, "made": True}, as_json=as_json, said=f"provider {provider} made")


@app.command("set")
def set_(
    provider: NameArgument,
    url: Annotated[str | None, typer.Option(help="dep: where it is asked from now on.")] = None,
    account: Annotated[str | None, typer.Option(help="dep: who we are there.")] = None,
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read our new token there from standard input.")
    ] = False,
    recipient: PemOption = None,
    signer: PemOption = None,
    as_json: context.JsonOption = False,
) -> None:
    """Change what is given, and nothing else; the next run takes it over."""
    secret = _secret() if secret_stdin else None
    recipient_pem, signer_pem = _text(recipient), _text(signer)
    context.run(
        lambda database: providers.change(
            database, provider, url=url, account=account, secret=secret, recipient_pem=recipient_pem,
            signer_pem=signer_pem, by=LOCAL, now=datetime.now(UTC),
        )
    )  # fmt: skip
    context.done({"provider": provider, "changed": True}, as_json=as_json, said=f"provider {provider} changed")


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """Every provider."""
    found = context.run(providers.list_all)
    rows = [
        [
            one.provider_id, one.adaptor.value, one.url or "-", one.account or "-",
            "yes" if one.has_token else "no", "no" if one.disabled_at else "yes",
        ]
        for one in found
    ]  # fmt: skip
    columns = ["provider", "adaptor", "url", "account", "token", "enabled"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Providers", columns, rows))


@app.command()
def token(provider: NameArgument, as_json: context.JsonOption = False) -> None:
    """A new token for POST /api/inboundDeviceEnrolment, shown this once; the old one is dead."""
    made = context.run(lambda database: providers.rotate_token(database, provider, by=LOCAL, random_bytes=os.urandom))
    text = made.reveal().decode("ascii")
    context.emit(
        {"provider": provider, "token": text},
        as_json=as_json,
        text=lambda: print(f"provider {provider}\ntoken (shown this once): {text}"),
    )


@app.command()
def enable(provider: NameArgument, as_json: context.JsonOption = False) -> None:
    """Ask it again."""
    _set(provider, enabled=True, as_json=as_json)


@app.command()
def disable(provider: NameArgument, as_json: context.JsonOption = False) -> None:
    """Ask it nothing, and take nothing from it."""
    _set(provider, enabled=False, as_json=as_json)


def _set(provider: str, *, enabled: bool, as_json: bool) -> None:
    context.run(
        lambda database: providers.set_enabled(database, provider, enabled=enabled, by=LOCAL, now=datetime.now(UTC))
    )
    context.done({"provider": provider, "enabled": enabled}, as_json=as_json)


def _secret() -> Secret:
    """One line of standard input."""
    try:
        text = sys.stdin.readline().strip().encode("ascii")
    except UnicodeError:
        context.fail("a token is of ASCII characters")
    if not text:
        context.fail("there is no token on standard input")
    return Secret(text)


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        context.fail(f"cannot read {path}: {error}")
