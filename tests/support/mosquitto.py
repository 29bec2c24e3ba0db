"""Real Mosquittos on ephemeral ports, from our own rendered configuration: a fixture's material.

Started by root they stay root (`user root`), so that they read the test's folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.brokers.gate import AccountLogin, Login
from service.brokers.mosquitto.certificates import Issuer
from service.brokers.mosquitto.plan import BrokerPlan, Listener
from service.brokers.mosquitto.render import render
from service.mqtt.port import Role
from tests.support.ports import free_ports

SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


@cache
def program_version() -> tuple[int, ...]:
    program = shutil.which("mosquitto", path=SEARCH)
    assert program, "mosquitto is not installed"
    said = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=20, check=False).stdout
    return tuple(int(number) for number in said.split("\n", 1)[0].removeprefix("mosquitto version ").split("."))


def make_issuer() -> Issuer:
    """A throw-away CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
    builder = builder.not_valid_after(now + timedelta(days=30))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Issuer(builder.sign(key, hashes.SHA256()), key)


def device_certificate(issuer: Issuer, name: str, folder: Path) -> tuple[Path, Path, str]:
    """(certificate file, key file, serial as hex) of a device called `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    builder = builder.issuer_name(issuer.certificate.subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(minutes=5))
    certificate = builder.not_valid_after(now + timedelta(days=1)).sign(issuer.private_key, hashes.SHA256())
    pem, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return pem, key_file, f"{certificate.serial_number:x}"


class Remembered:
    """Revoked certificates without a database; what is added to a list stays in the list."""

    def __init__(self, *serials: int) -> None:
        self.now = set(serials)
        self.taken: list[set[int]] = []

    async def serials(self) -> set[int]:
        return set(self.now)

    async def take_over(self, serials: Collection[int]) -> bool:
        self.taken.append(set(serials))
        return len(self.taken) == 1


class Mosquittos:
    """Both Mosquittos of one environment under `directory`."""

    def __init__(self, directory: Path, issuer: Issuer | None = None) -> None:
        self.issuer = issuer or make_issuer()
        bootstrap, bootstrap_service, operational_service, api_key, certificates = free_ports(5)
        warehouse, warehouse_service = free_ports(2)
        self.plan = BrokerPlan(
            environment="test",
            directory=directory,
            hostnames=("localhost", "127.0.0.1"),
            bootstrap=Listener(bootstrap, "127.0.0.1"),
            bootstrap_service_port=bootstrap_service,
            operational_service_port=operational_service,
            api_key=Listener(api_key, "127.0.0.1"),
            x509=Listener(certificates, "127.0.0.1"),
            warehouse=Listener(warehouse, "127.0.0.1"),
            warehouse_service_port=warehouse_service,
            run_as="root" if os.geteuid() == 0 else None,
        )
        self.processes: dict[Role, subprocess.Popen[bytes]] = {}

    def render(
        self, logins: Iterable[Login] = (), revoked: Iterable[int] = (), accounts: Sequence[AccountLogin] = ()
    ) -> None:
        render(self.plan, self.issuer, logins, set(revoked), datetime.now(UTC), accounts=accounts)

    def start(self, role: Role) -> None:
        program = shutil.which("mosquitto", path=SEARCH)
        assert program, "mosquitto is not installed"
        log = (self.plan.folder(role) / "log").open("ab")
        with log:
            command = [program, "-c", str(self.plan.config(role))]
            self.processes[role] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.plan.service_port(role)), 1):
                return
            assert self.processes[role].poll() is None, self.log(role)
            assert time.monotonic() < deadline, self.log(role)
            time.sleep(0.02)

    def stop(self, role: Role, sig: int = signal.SIGTERM) -> None:
        process = self.processes.pop(role)
        process.send_signal(sig)
        process.wait(10)

    def hang_up(self, role: Role) -> None:
        self.processes[role].send_signal(signal.SIGHUP)

    def log(self, role: Role) -> str:
        return (self.plan.folder(role) / "log").read_text(errors="replace")

    def tls(self, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.plan.ca))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context


@contextlib.contextmanager
def mosquittos(
    directory: Path, *, logins: Iterable[Login] = (), roles: Iterable[Role] | None = None
) -> Iterator[Mosquittos]:
    """Rendered and started; stopped at the end."""
    both = Mosquittos(directory)
    both.render(logins)
    try:
        for role in both.plan.roles if roles is None else roles:
            both.start(role)
        yield both
    finally:
        for role in [*both.processes]:
            both.stop(role)
