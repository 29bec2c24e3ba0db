"""From settings to the values that the parts work on: environments, broker plans, keys, passwords.

Owns the reading of files that settings name. Must not open a connection or write anything. Used by app.py, which runs
them, and by the commands that only look.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

from service.brokers.mosquitto.plan import PLUGIN, SERVICE_USER, BrokerPlan, Listener
from service.brokers.mosquitto.render import read_password
from service.credentials.keyfile import KeyFile, KeyFileError
from service.domain.catalogue import STAGED_LIFE, Endpoint, Environment
from service.domain.credential import CredentialKind
from service.errors import Secret
from service.mqtt.port import Role
from service.operations.ca_exchange import EXCHANGED
from service.operations.mass_guard import MassGuard
from service.settings import EndpointSettings, Settings, SettingsError


def domain_environments(settings: Settings) -> dict[str, Environment]:
    """What the rules know of each environment. Raises SettingsError when its CA is missing."""
    return {name: _environment(settings, name) for name in settings.environments}


def mass_guard(settings: Settings) -> MassGuard:
    """What commands for many devices need here."""
    of = settings.commands
    return MassGuard(of.mass_devices, second_person=of.second_person, stop_percent=of.stop_percent)


def broker_plan(settings: Settings, environment: str) -> BrokerPlan:
    """The Mosquittos of one environment. Raises SettingsError where there are none."""
    of = settings.environments.get(environment)
    if of is None or of.broker != "mosquitto" or of.links is None:
        raise SettingsError(f"environment {environment!r} has no Mosquitto")
    endpoints = of.endpoints
    names = dict.fromkeys([*(end.host for end in endpoints.every()), *of.mosquitto.hostnames])
    warehouse = endpoints.warehouse
    return BrokerPlan(
        environment=environment,
        directory=settings.broker_dir / environment,
        hostnames=tuple(names),
        bootstrap=Listener(endpoints.bootstrap.port),
        bootstrap_service_port=of.links.bootstrap.port,
        operational_service_port=of.links.operational.port,
        api_key=None if endpoints.api_key is None else Listener(endpoints.api_key.port),
        x509=None if endpoints.x509 is None else Listener(endpoints.x509.port),
        warehouse=None if warehouse is None else Listener(warehouse.port, warehouse.bind or warehouse.host),
        warehouse_service_port=None if of.links.warehouse is None else of.links.warehouse.port,
        run_as=of.mosquitto.run_as,
        plugin=of.mosquitto.plugin or installed_plugin(),
        root=settings.topic_root,
    )


def installed_plugin(libraries: Path = Path("/usr/lib")) -> Path:
    """Where Debian has put the dynamic-security plugin: in the folder of the machine's architecture."""
    found = sorted(libraries.glob(f"*/{PLUGIN.name}"))
    return PLUGIN if PLUGIN in found or not found else found[0]


def service_login(settings: Settings, environment: str, role: Role) -> tuple[str | None, Secret | None]:
    """User name and password of the service at one broker. Raises SettingsError when the file cannot be read."""
    of = settings.environments[environment]
    if of.links is None:
        return None, None
    link = of.links.of(role)
    path = link.password_file
    username = link.username
    if of.broker == "mosquitto":
        username = username or SERVICE_USER
        path = path or broker_plan(settings, environment).password_file(role)
    return username, None if path is None else _password(path)


def own_secrets(settings: Settings) -> list[Secret]:
    """The service's own secrets, to be masked in its log; what cannot be read is left to whoever needs it."""
    found: list[Secret] = []
    with contextlib.suppress(KeyFileError):
        found += KeyFile.load(settings.key_file).secrets()
    for name in settings.environments:
        for role in settings.environments[name].roles:
            with contextlib.suppress(SettingsError):
                _, password = service_login(settings, name, role)
                found += [] if password is None else [password]
    return found


def _password(path: Path) -> Secret:
    try:
        return read_password(path)
    except OSError as error:
        raise SettingsError(f"{path}: the password file cannot be read: {error.strerror}") from error


def _environment(settings: Settings, name: str) -> Environment:
    ends = settings.environments[name].endpoints
    kinds = {CredentialKind.API_KEY: ends.api_key, CredentialKind.X509: ends.x509}
    endpoints = {kind: _endpoint(end) for kind, end in kinds.items() if end is not None}
    needs_ca = ends.x509 is not None or any(end.tls for end in endpoints.values())
    ca_pem = _ca(settings.ca_dir(name) / "ca.pem", needed=needs_ca)
    exchanged = (settings.ca_dir(name) / EXCHANGED).exists()
    life = STAGED_LIFE if ends.warehouse is None else timedelta(days=ends.warehouse.staged_life_days)
    return Environment(name, endpoints, ca_pem, (_endpoint(ends.bootstrap),), exchanged, life)


def _ca(path: Path, *, needed: bool) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        if not needed:
            return None
        raise SettingsError(f"{path}: the CA's certificate cannot be read: {error.strerror}") from error


def _endpoint(end: EndpointSettings) -> Endpoint:
    return Endpoint(end.host, end.port, end.tls)
