"""What one environment's Mosquittos look like: ports, names and places. Values and paths only, no I/O.

The bootstrap Mosquitto takes anonymous devices over TLS; the operational one API keys and client certificates; that of
a warehouse, where there is one, anonymous devices on its network. Each also listens on loopback for the service, which
alone has a password there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from device_sdk.wire import topics
from service.mqtt.port import EVERYWHERE, Role

SERVICE_USER = "firstlight"
ADMIN_USER = "firstlight-admin"  # the running service's
DOCTOR_USER = "firstlight-doctor"  # of `firstlight doctor`, so that it does not throw the service out
ADMINS = frozenset({ADMIN_USER, DOCTOR_USER})
OWN_USERS = frozenset({SERVICE_USER, *ADMINS})
PLUGIN = Path("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so")


@dataclass(frozen=True, slots=True)
class Listener:
    port: int
    host: str = "0.0.0.0"  # noqa: S104 - devices come from outside; TLS guards this listener


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """One environment. `directory` is `<data_dir>/broker/<environment>`; `hostnames` go into the server certificate."""

    environment: str
    directory: Path
    hostnames: tuple[str, ...]
    bootstrap: Listener
    bootstrap_service_port: int
    operational_service_port: int
    api_key: Listener | None = None
    x509: Listener | None = None
    warehouse: Listener | None = None  # bound to the address of the warehouse's network
    warehouse_service_port: int | None = None
    service_host: str = "127.0.0.1"  # where the service's listeners bind; only containers of one network need another
    run_as: str | None = None  # Mosquitto started by root becomes this user; None: it is not started by root
    plugin: Path = PLUGIN
    root: str = topics.ROOT
    max_connections: int = -1  # of devices, operational; -1 is no limit but that of open files
    bootstrap_max_connections: int = 2000

    @property
    def roles(self) -> tuple[Role, ...]:
        """Its Mosquittos: one each."""
        return (*EVERYWHERE, Role.WAREHOUSE) if self.warehouse is not None else EVERYWHERE

    def folder(self, role: Role) -> Path:
        return self.directory / role.value

    def config(self, role: Role) -> Path:
        return self.folder(role) / "mosquitto.conf"

    def acl(self, role: Role) -> Path:
        return self.folder(role) / "acl"

    def dynsec(self, role: Role) -> Path:
        return self.folder(role) / "dynsec.json"

    def pid_file(self, role: Role) -> Path:
        return self.folder(role) / "mosquitto.pid"

    def password_file(self, role: Role) -> Path:
        return self.directory / "passwords" / f"service-{role.value}"

    @property
    def admin_password_file(self) -> Path:
        return self.directory / "passwords" / "admin-operational"

    @property
    def doctor_password_file(self) -> Path:
        return self.directory / "passwords" / "doctor-operational"

    @property
    def crl(self) -> Path:
        return self.folder(Role.OPERATIONAL) / "crl.pem"

    @property
    def ca(self) -> Path:
        return self.directory / "tls" / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.directory / "tls" / "server.pem"

    @property
    def private_key(self) -> Path:
        return self.directory / "tls" / "server.key"

    def service_port(self, role: Role) -> int:
        if role is Role.WAREHOUSE:
            assert self.warehouse_service_port is not None
            return self.warehouse_service_port
        return self.bootstrap_service_port if role is Role.BOOTSTRAP else self.operational_service_port
