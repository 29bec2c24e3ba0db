"""`firstlight broker`: writes what the Mosquittos read, and looks at it without a connection.

Owns how settings, CA and database become one rendering. mosquitto/render.py writes; doctor.py judges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from service.brokers.doctor import accounts_in_file, files
from service.brokers.gate import AccountLogin, GateError, Login
from service.brokers.mosquitto.certificates import Issuer, load_issuer
from service.brokers.mosquitto.plan import BrokerPlan
from service.brokers.mosquitto.render import prepare, render
from service.brokers.mosquitto.revocation import RevocationList
from service.brokers.trials import Check
from service.cli import context
from service.cli.context import CommandError
from service.credentials.keyfile import KeyFile
from service.installation import broker_plan, domain_environments
from service.logins import account_logins, expected_logins
from service.settings import Settings
from service.storage.database import Database
from service.storage.revocations import Revocations
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep

app = typer.Typer(
    help="The Mosquittos' files: rendered from the database, checked without a connection.", no_args_is_help=True
)

EnvironmentArgument = Annotated[
    str | None, typer.Argument(help="One environment; without it, all that have a Mosquitto.")
]


@app.command("render")
def render_files(environment: EnvironmentArgument = None, as_json: context.JsonOption = False) -> None:
    """Write configuration, ACL files, logins, certificate and revocation list of the Mosquittos. Run before each start."""
    of = context.settings()
    written = context.run(lambda database: _render_all(of, database, chosen(of, environment)))
    context.emit({"written": written}, as_json=as_json, text=lambda: print("\n".join(written)))


@app.command("check")
def check_files(environment: EnvironmentArgument = None, as_json: context.JsonOption = False) -> None:
    """Look at the rendered files: the guard, the ACL files, identities that should not be there. `doctor` also connects."""
    of = context.settings()
    names = chosen(of, environment)
    found = [(name, check) for name in names for check in files(broker_plan(of, name))]
    found += context.run(lambda database: accounts_checks(of, database, names))
    show(found, as_json=as_json)


def chosen(of: Settings, environment: str | None) -> list[str]:
    """The environments with a Mosquitto that are meant; ends the command where there is none."""
    names = [name for name, one in of.environments.items() if one.broker == "mosquitto"]
    if environment is not None:
        names = [name for name in names if name == environment]
    if not names:
        context.fail('no such environment with broker = "mosquitto"')
    return names


async def accounts_checks(of: Settings, database: Database, names: Sequence[str]) -> list[tuple[str, Check]]:
    """Whether each of these environments' plugin files has the accounts of the database."""
    return [(name, accounts_in_file(broker_plan(of, name), await account_logins(database, name))) for name in names]


def show(found: Sequence[tuple[str, Check]], *, as_json: bool) -> None:
    """One line for each check; exit code 1 when one of them failed."""
    rows = [{"environment": name, "check": c.name, "ok": c.ok, "reason": c.reason} for name, c in found]

    def lines() -> None:
        for name, check in found:
            reason = f" ({check.reason})" if check.reason else ""
            print(f"{'ok  ' if check.ok else 'FAIL'} {name}: {check.name}{reason}")

    context.emit({"ok": all(c.ok for _, c in found), "checks": rows}, as_json=as_json, text=lines)
    if not all(check.ok for _, check in found):
        raise typer.Exit(1)


async def _render_all(of: Settings, database: Database, names: Sequence[str]) -> list[str]:
    service_key = KeyFile.load(of.key_file).service_private_key()
    store, upkeep = SqlStore(database, domain_environments(of)), Upkeep(database)
    written = []
    for name in names:
        logins = [login async for login in expected_logins(upkeep, store, name, service_key)]
        accounts = await account_logins(database, name)
        plan = broker_plan(of, name)
        try:
            issuer = load_issuer(of.ca_dir(name))
            written += await _settle(plan, issuer, database)
            written += await asyncio.to_thread(_render, plan, issuer, logins, accounts)
        except (OSError, ValueError, TypeError, GateError) as error:
            raise CommandError(f"the files of {name} cannot be written: {error}") from error
    return written


async def _settle(plan: BrokerPlan, issuer: Issuer, database: Database) -> list[str]:
    """The list of refused certificates: first, so that the rendering finds one."""
    if plan.x509 is None:
        return []
    now = datetime.now(UTC)
    await asyncio.to_thread(prepare, plan)
    crl = RevocationList(plan.crl, issuer, Revocations(database, plan.environment, lambda: now), owner=plan.run_as)
    problem = await crl.settle(now)
    if problem:
        context.warn(f"{problem}; it was made again from the database")
    return [str(plan.crl)]


def _render(plan: BrokerPlan, issuer: Issuer, logins: Sequence[Login], accounts: Sequence[AccountLogin]) -> list[str]:
    return [str(path) for path in render(plan, issuer, logins, None, datetime.now(UTC), accounts=accounts)]
