"""The doctor's canaries with client certificates: what must be let in at that listener, and what must not.

Owns the canaries' certificates, which live for minutes and are revoked at the end, whatever happens. Their keys are on
disk only while a TLS context is made from them. The judging is as in doctor.py: by messages that arrive.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from service.brokers.canary import Canary, Door
from service.brokers.gate import Login
from service.credentials.authority import Authority, Issued, read_csr
from service.domain.credential import CredentialKind

LIFE = timedelta(minutes=10)  # of a canary's certificate


@dataclass(frozen=True, slots=True)
class CertificateDoor:
    """Where devices with certificates connect, and how canaries come by theirs."""

    host: str
    port: int
    ca_pem: str  # the broker's certificate is checked with it
    authority: Authority
    remember: Callable[[Issued], Awaitable[None]]  # as revoked, where lists are made from; before the gate is told

    def without_certificate(self) -> Door:
        return Door(self.host, self.port, self._tls())

    def issue(self, name: str, authority: Authority | None = None) -> Certified:
        """A certificate for `name`, of the environment's CA or another."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        request = read_csr(csr.public_bytes(serialization.Encoding.DER))
        issued = (authority or self.authority).sign_csr(request, name, datetime.now(UTC), os.urandom(20), LIFE)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        context = self._tls()
        with tempfile.TemporaryDirectory(prefix="firstlight-canary-") as folder:  # mode 0700
            file = Path(folder, "canary.pem")
            file.write_bytes(private + issued.pem.encode())
            context.load_cert_chain(file)
        return Certified(name, issued, Door(self.host, self.port, context))

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.ca_pem)


@dataclass(frozen=True, slots=True)
class Certified:
    """A canary's certificate and the way in with it."""

    name: str
    issued: Issued
    door: Door

    @property
    def login(self) -> Login:
        return Login(self.name, CredentialKind.X509, certificate_serial=self.issued.serial)

    def connect(self, client_id: str | None = None) -> Canary:
        return Canary(self.door, client_id or self.name)


@contextlib.asynccontextmanager
async def certified(
    door: CertificateDoor, revoke: Callable[[list[Login]], Awaitable[None]], *names: str
) -> AsyncIterator[list[Certified]]:
    """Certificates for canaries of these names; revoked at the end."""
    issued = [door.issue(name) for name in names]
    try:
        yield issued
    finally:
        for one in issued:
            await door.remember(one.issued)
        await revoke([one.login for one in issued])


def foreign_authority() -> Authority:
    """A CA that nobody knows, with the name of nobody."""
    with tempfile.TemporaryDirectory(prefix="firstlight-canary-") as folder:
        return Authority.create(Path(folder, "ca"), "nobody", datetime.now(UTC))


async def let_in(canary: Canary) -> bool:
    """Whether the broker lets it in; with TLS 1.3 a refused certificate shows after the handshake only."""
    try:
        async with canary:
            return True
    except (aiomqtt.MqttError, OSError):
        return False
