"""One environment as the service runs it: its links, its gate and, where it has them, its embedded brokers.

Owns how settings become those parts and how the broker's list of logins is kept equal to the database's. Decides
nothing about messages. Built and run by app.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from service.brokers.embedded import EmbeddedBroker, EmbeddedGate
from service.brokers.gate import BrokerGate, GateError
from service.brokers.mosquitto.certificates import load_issuer
from service.brokers.mosquitto.control import DynsecControl
from service.brokers.mosquitto.gate import MosquittoGate, NoGate, reload_by_command, reload_by_signal
from service.brokers.mosquitto.plan import BrokerPlan
from service.brokers.mosquitto.render import read_password
from service.brokers.mosquitto.revocation import Reload, RevocationList, Revoked
from service.errors import Secret, ServiceError
from service.installation import broker_plan, service_login
from service.mqtt.link import LinkSettings, MqttLink
from service.mqtt.port import Deliver, Role
from service.settings import EndpointSettings, Settings, SettingsError

log = logging.getLogger("firstlight.deployment")
RECONCILE_S = 60.0  # how long a drift of a broker's list can last while the service is connected
RECONCILE_RETRY_S = 5.0

# Makes the broker's list of API keys equal to what the database expects; (granted, revoked). Raises GateError.
Compare = Callable[[], Awaitable[tuple[int, int]]]


class Deployment:
    """Use: `start`, then run every coroutine of `tasks`, at the end `stop`."""

    def __init__(
        self,
        name: str,
        links: Sequence[MqttLink],
        gate: BrokerGate,
        *,
        brokers: Sequence[EmbeddedBroker] = (),
        control: DynsecControl | None = None,
    ) -> None:
        self.name = name
        self.links = links
        self.gate = gate
        self.brokers = brokers
        self.reconciled = 0  # logins that were granted or revoked because the broker's list had drifted
        self._control = control

    async def start(self, compare: Compare, look_at_accounts: Callable[[str], Awaitable[None]]) -> None:
        """Fill the embedded brokers' lists, then let them listen. Raises OSError when an address cannot be had."""
        if self.brokers:
            await compare()
            await look_at_accounts(self.name)
        for broker in self.brokers:
            await broker.start()

    def tasks(self, compare: Compare) -> dict[str, Coroutine[Any, Any, None]]:
        """What runs for ever, by task name."""
        found: dict[str, Coroutine[Any, Any, None]] = {
            f"link {self.name} {link.role.value}": link.run() for link in self.links
        }
        if self._control is not None:
            found[f"control {self.name}"] = self._control.run()
            found[f"reconcile {self.name}"] = self._reconcile(self._control, compare)
        return found

    async def stop(self) -> None:
        for broker in self.brokers:
            await broker.stop()

    async def _compare_certificates(self) -> str:
        return await self.gate.compare_certificates() if isinstance(self.gate, MosquittoGate) else ""

    async def _reconcile(self, control: DynsecControl, compare: Compare) -> None:
        """At each new connection and every minute: the broker may have lost its file, or kept what is gone."""
        while True:
            await control.connected.wait()
            connects = control.connects
            try:
                granted, revoked = await compare()
                damage = await self._compare_certificates()
            except (GateError, ServiceError) as error:
                log.warning("logins of %s not compared: %s", self.name, error)
                await asyncio.sleep(RECONCILE_RETRY_S)
                continue
            if granted or revoked:
                self.reconciled += granted + revoked
                log.warning("logins of %s had drifted: %d granted, %d revoked", self.name, granted, revoked)
            if damage:
                self.reconciled += 1
                log.warning("revocation list of %s: %s; it was made again from the database", self.name, damage)
            await _connected_anew(control, connects, RECONCILE_S)


def build_deployment(settings: Settings, name: str, deliver: Deliver, revoked: Revoked) -> Deployment:
    """The parts of one environment; nothing runs yet. `revoked`: which certificates its database refuses.

    Raises SettingsError for files that cannot be read.
    """
    of = settings.environments[name]
    if of.broker == "embedded":
        return _embedded(settings, name, deliver)
    links = [MqttLink(name, role, _link_settings(settings, name, role), deliver) for role in of.roles]
    if of.broker == "none":
        return Deployment(name, links, NoGate())
    plan = broker_plan(settings, name)
    control = DynsecControl(plan.service_host, plan.operational_service_port, _password(plan.admin_password_file))
    crl = revocation_list(settings, plan, revoked)
    return Deployment(name, links, MosquittoGate(control, crl, root=settings.topic_root), control=control)


def revocation_list(settings: Settings, plan: BrokerPlan, revoked: Revoked) -> RevocationList | None:
    """The list of certificates that a running Mosquitto refuses; None where it takes none. Raises SettingsError."""
    if plan.x509 is None:
        return None
    command = settings.environments[plan.environment].mosquitto.reload_command
    reload: Reload = reload_by_command(*command) if command else reload_by_signal(plan.pid_file(Role.OPERATIONAL))
    try:
        issuer = load_issuer(settings.ca_dir(plan.environment))
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"the CA of {plan.environment} cannot be read: {error}") from error
    return RevocationList(plan.crl, issuer, revoked, reload, owner=plan.run_as)


def _embedded(settings: Settings, name: str, deliver: Deliver) -> Deployment:
    of, root = settings.environments[name], settings.topic_root
    assert of.endpoints.api_key is not None  # settings.py sees to it
    ends: dict[Role, EndpointSettings] = {
        Role.BOOTSTRAP: of.endpoints.bootstrap,
        Role.OPERATIONAL: of.endpoints.api_key,
    }
    hosts = {role: end.host for role, end in ends.items()}
    if of.endpoints.warehouse is not None:
        ends[Role.WAREHOUSE] = of.endpoints.warehouse
        hosts[Role.WAREHOUSE] = of.endpoints.warehouse.bind or of.endpoints.warehouse.host
    brokers = {role: EmbeddedBroker(role, hosts[role], end.port, root=root) for role, end in ends.items()}
    links = []
    for role, broker in brokers.items():
        username, password = broker.service_login
        link = LinkSettings(broker.host, broker.port, username, password, root=root)
        links.append(MqttLink(name, role, link, deliver))
    return Deployment(name, links, EmbeddedGate(brokers[Role.OPERATIONAL]), brokers=tuple(brokers.values()))


def _link_settings(settings: Settings, name: str, role: Role) -> LinkSettings:
    links = settings.environments[name].links
    assert links is not None  # settings.py sees to it
    link = links.of(role)
    username, password = service_login(settings, name, role)
    tls = None if link.ca_file is None else _tls(link.ca_file)
    return LinkSettings(link.host, link.port, username, password, tls, settings.topic_root, link.share)


def _tls(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{ca_file}: cannot be used as a CA: {error}") from error


def _password(path: Path) -> Secret:
    try:
        return read_password(path)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; run `firstlight broker render`") from error


async def _connected_anew(control: DynsecControl, connects: int, at_most_s: float) -> None:
    """Wait until the control connection is a new one, or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            while control.connects == connects:  # noqa: ASYNC110 - a counter, watched slowly
                await asyncio.sleep(1.0)
