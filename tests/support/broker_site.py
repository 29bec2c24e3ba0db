"""Both kinds of broker behind one face, so that the same tests judge the embedded one and real Mosquitto."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.brokers.embedded import EmbeddedBroker, EmbeddedGate
from service.brokers.gate import AccountLogin, Login
from service.brokers.mosquitto.control import DynsecControl
from service.brokers.mosquitto.gate import MosquittoGate, reload_by_signal
from service.brokers.mosquitto.plan import SERVICE_USER
from service.brokers.mosquitto.render import read_password
from service.brokers.mosquitto.revocation import RevocationList
from service.domain.credential import CredentialKind
from service.errors import Secret
from service.mqtt.port import Role
from tests.support.actor import Actor
from tests.support.mosquitto import Mosquittos, Remembered, device_certificate, mosquittos


def api_key_login(number: int) -> Login:
    key = Secret(hashlib.sha256(b"key %d" % number).hexdigest().encode())
    digest = hashlib.sha256(key.reveal()).digest()
    return Login(f"{number:032x}", CredentialKind.API_KEY, key, digest)


def account_login(name: str, space: str, seed: bytes = b"") -> AccountLogin:
    key = Secret(hashlib.sha256(name.encode() + seed).hexdigest().encode())
    return AccountLogin(name, space, key, hashlib.sha256(key.reveal()).digest())


@dataclass
class Site:
    """One environment's brokers with a gate, whatever they are made of."""

    gate: EmbeddedGate | MosquittoGate
    ports: dict[Role, int]  # of devices
    service_ports: dict[Role, int]
    passwords: dict[Role, Secret]
    tls: ssl.SSLContext | None = None
    real: Mosquittos | None = None
    control: DynsecControl | None = None
    revoked: Remembered = field(default_factory=Remembered)

    def service(self, role: Role) -> Actor:
        password = self.passwords[role].reveal().decode()
        return Actor(self.service_ports[role], secrets.token_hex(16), SERVICE_USER, password)

    def session(self, session: str, role: Role = Role.BOOTSTRAP, **more) -> Actor:
        return Actor(self.ports[role], session, tls=self.tls, **more)

    def device(self, login: Login, **more) -> Actor:
        assert login.api_key is not None
        name, key = login.credential_id, login.api_key.reveal().decode()
        return Actor(self.ports[Role.OPERATIONAL], name, name, key, tls=self.tls, **more)

    def account(self, login: AccountLogin, session: str | None = None) -> Actor:
        name, key = session or login.name, login.key.reveal().decode()
        return Actor(self.ports[Role.OPERATIONAL], name, name, key, tls=self.tls)

    def certified(self, name: str, folder: Path) -> tuple[Actor, Login]:
        assert self.real is not None
        _, _, serial = device_certificate(self.real.issuer, name, folder)
        return self.certified_again(name, folder), Login(name, CredentialKind.X509, certificate_serial=serial)

    def certified_again(self, name: str, folder: Path, *, client_id: str | None = None) -> Actor:
        """With the certificate that `certified` left in `folder`."""
        assert self.real is not None
        assert self.real.plan.x509 is not None
        tls = self.real.tls(folder / f"{name}.pem", folder / f"{name}.key")
        return Actor(self.real.plan.x509.port, client_id or name, tls=tls)


@asynccontextmanager
async def embedded_site() -> AsyncIterator[Site]:
    brokers = {role: EmbeddedBroker(role) for role in Role}
    for broker in brokers.values():
        await broker.start()
    ports = {role: broker.port for role, broker in brokers.items()}
    passwords = {role: broker.service_login[1] for role, broker in brokers.items()}
    try:
        yield Site(EmbeddedGate(brokers[Role.OPERATIONAL]), ports, ports, passwords)
    finally:
        for broker in brokers.values():
            await broker.stop()


@asynccontextmanager
async def mosquitto_site(folder: Path) -> AsyncIterator[Site]:
    with mosquittos(folder / "brokers") as real:
        plan = real.plan
        control = DynsecControl("127.0.0.1", plan.operational_service_port, read_password(plan.admin_password_file))
        task = asyncio.create_task(control.run())
        revoked = Remembered()
        crl = RevocationList(plan.crl, real.issuer, Remembered(), reload_by_signal(plan.pid_file(Role.OPERATIONAL)))
        assert plan.api_key is not None
        assert plan.warehouse is not None
        try:
            await asyncio.wait_for(control.connected.wait(), 20)
            yield Site(
                MosquittoGate(control, crl),
                {
                    Role.BOOTSTRAP: plan.bootstrap.port,
                    Role.OPERATIONAL: plan.api_key.port,
                    Role.WAREHOUSE: plan.warehouse.port,
                },
                {role: plan.service_port(role) for role in Role},
                {role: read_password(plan.password_file(role)) for role in Role},
                real.tls(),
                real,
                control,
                revoked,
            )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
