"""`firstlight doctor`: canaries try on the brokers what must be allowed and what must not.

Owns how settings become a patient and how findings are shown. brokers/doctor.py examines.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

import typer

from service.brokers.canary import Door
from service.brokers.certified import CertificateDoor
from service.brokers.doctor import examine
from service.brokers.gate import BrokerGate
from service.brokers.mosquitto.control import DynsecControl
from service.brokers.mosquitto.gate import MosquittoGate, NoGate
from service.brokers.mosquitto.plan import DOCTOR_USER, BrokerPlan
from service.brokers.mosquitto.render import read_password
from service.brokers.trials import Check, Patient
from service.cli import context
from service.cli.broker import accounts_checks, show
from service.cli.context import CommandError
from service.credentials.authority import Authority, AuthorityError, Issued
from service.credentials.keyfile import KeyFileError
from service.deployment import revocation_list
from service.errors import ServiceError
from service.installation import broker_plan, service_login
from service.mqtt.port import Role
from service.settings import EndpointSettings, LinkSettings, Settings
from service.storage.revocations import Revocations


def doctor(
    environment: Annotated[str | None, typer.Argument(help="One environment; without it, all.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Check the brokers with canaries: what must be allowed is, what must not is not. Exit code 1 when one check fails."""
    of = context.settings()
    names = context.environments(of, environment)
    show(context.guarded(lambda: _examine_all(of, names)), as_json=as_json)


async def _examine_all(of: Settings, names: list[str]) -> list[tuple[str, Check]]:
    found: list[tuple[str, Check]] = []
    for name in names:
        if of.environments[name].broker == "embedded":
            found += [(name, check) for check in _embedded(of, name)]
            continue
        async with patient_of(of, name) as patient:
            found += [(name, check) async for check in examine(patient)]
        if of.environments[name].broker == "mosquitto":
            found += await _accounts(of, name)
    return found


async def _accounts(of: Settings, name: str) -> list[tuple[str, Check]]:
    try:
        async with context.open_database(of) as database:
            return await accounts_checks(of, database, [name])
    except (ServiceError, KeyFileError) as error:
        return [(name, Check("the accounts of the database can be read", ok=False, reason=str(error)))]


def _embedded(of: Settings, name: str) -> list[Check]:
    """The embedded broker's access rules are code, held by the same tests; only where it listens can be wrong."""
    ends = of.environments[name].endpoints
    hosts = sorted(
        {end.host for end in (ends.bootstrap, ends.api_key) if end is not None and not _is_loopback(end.host)}
    )
    words = "the embedded broker listens on loopback only: it is for trials and speaks no TLS"
    return [Check(words, ok=not hosts, reason=", ".join(hosts))]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.asynccontextmanager
async def patient_of(of: Settings, name: str) -> AsyncIterator[Patient]:
    """An environment with brokers of its own, and the way in for canaries. Raises CommandError, SettingsError."""
    one = of.environments[name]
    if one.links is None:
        raise CommandError(f"environment {name} has no links")
    ca = of.ca_dir(name) / "ca.pem"
    doors = {Role.BOOTSTRAP: _door(one.endpoints.bootstrap, str(ca))}
    plan = broker_plan(of, name) if one.broker == "mosquitto" else None
    if plan is not None and one.endpoints.api_key is not None:
        doors[Role.OPERATIONAL] = _door(one.endpoints.api_key, str(ca))
    if one.endpoints.warehouse is not None:
        doors[Role.WAREHOUSE] = _door(one.endpoints.warehouse, str(ca))
    links = {role: one.links.of(role) for role in one.roles}
    async with contextlib.AsyncExitStack() as stack:
        gate: BrokerGate = NoGate()
        certificates = None
        if plan is not None:
            gate, certificates = await _mosquitto(of, plan, stack)
        yield Patient(
            environment=name,
            doors=doors,
            service_doors={role: _service_door(link) for role, link in links.items()},
            service_login={role: service_login(of, name, role) for role in one.roles},
            gate=gate,
            token=lambda: secrets.token_hex(16),
            plan=plan,
            root=of.topic_root,
            certificates=certificates,
        )


async def _mosquitto(
    of: Settings, plan: BrokerPlan, stack: contextlib.AsyncExitStack
) -> tuple[MosquittoGate, CertificateDoor | None]:
    """A gate with a login of its own, and how canaries come by certificates where devices log in with those."""
    try:
        password = read_password(plan.doctor_password_file)
    except OSError as error:
        raise CommandError(f"{error}; run `firstlight broker render` and restart the broker") from error
    control = DynsecControl(
        plan.service_host, plan.operational_service_port, password, user=DOCTOR_USER, client_id=secrets.token_hex(16)
    )
    task = asyncio.create_task(control.run(), name="doctor's control")
    stack.push_async_callback(_end, task)
    end = of.environments[plan.environment].endpoints.x509
    if end is None or plan.x509 is None:
        return MosquittoGate(control), None
    try:
        database = await stack.enter_async_context(context.open_database(of))
        authority = Authority.load(of.ca_dir(plan.environment))
    except (ServiceError, KeyFileError, AuthorityError) as error:
        raise CommandError(f"canaries cannot have certificates: {error}") from error
    revoked = Revocations(database, plan.environment, lambda: datetime.now(UTC))

    async def remember(issued: Issued) -> None:
        await revoked.add(int(issued.serial, 16), issued.spki_sha256, issued.expires_at)

    door = CertificateDoor(end.host, end.port, authority.ca_pem, authority, remember)
    return MosquittoGate(control, revocation_list(of, plan, revoked)), door


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _door(end: EndpointSettings, ca: str) -> Door:
    return Door(end.host, end.port, _trusting(ca) if end.tls else None)


def _service_door(link: LinkSettings) -> Door:
    return Door(link.host, link.port, None if link.ca_file is None else _trusting(str(link.ca_file)))


def _trusting(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl's own errors are among them
        raise CommandError(f"{ca}: cannot be used as a CA: {error}") from error
