"""What both drivers need to open a connection: the TLS context of a Connect action, and why one failed.

Owns the strictness of TLS (certificate and host name are always checked) and the three words that the core knows for a
failure. Opens nothing itself.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable
from typing import Any, Protocol

REFUSED = "refused"  # the broker answered and does not want this login
UNREACHABLE = "unreachable"  # no answer, or one that says try later
TLS = "tls"  # somebody answered who cannot prove to be the broker

CONNECT_TIMEOUT_S = 15.0  # from the first packet to SUBACK
# Messages that wait for the core: the 1,792 chunks that may be outstanding and room for replies and pushes. One above is
# dropped and asked for again.
MAX_INCOMING = 2048
MAX_OUTGOING = 32  # requests not yet acknowledged by the broker; one above is dropped and repeated later

# Names of MQTT 5 that paho gives to the CONNACK codes of 3.1.1: bad client id, bad user name or password, not
# authorised, banned. "Server unavailable" (3) is none of them: the login may be good.
_REFUSALS = frozenset({0x85, 0x86, 0x87, 0x8A})


class ConnectWish(Protocol):
    """The fields of the core's Connect action that TLS needs."""

    ca_pem: Any
    certificate_pem: Any
    private_key_pem: Any


class _TlsSocket(ssl.SSLSocket):
    """paho leaves a socket open whose handshake failed, and gives a handshake the whole keep-alive time.

    In TLS 1.3 a broker refuses a client certificate only after the client's handshake is over: `lost` is told the
    word for the end of the connection, which neither library tells before the CONNACK. It may be called in the thread
    that connects.
    """

    lost: Callable[[str], None]

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(CONNECT_TIMEOUT_S)
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            data = super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            raise
        except OSError as error:
            self.lost(_ending(error))
            raise
        if not data and buflen:
            self.lost(UNREACHABLE)
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            raise
        except OSError as error:
            # The alert that says why may still wait to be read.
            try:
                super().recv(1)
            except OSError as why:
                self.lost(_ending(why))
            else:
                self.lost(_ending(error))
            raise


def _ending(error: OSError) -> str:
    """The core's word for the end of a connection whose handshake was over on our side."""
    alert = isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
    return REFUSED if alert else UNREACHABLE


def tls_context(wish: ConnectWish, lost: Callable[[str], None] = lambda _reason: None) -> ssl.SSLContext:
    """A context that trusts `ca_pem` alone (the system's authorities where it is None) and checks the host name.

    `lost` is called by whoever reads from the socket, when the broker ends the connection: "refused" where it sent an
    alert.

    The client certificate, if any, goes through two files of mode 0600 that are gone when this returns, because ssl
    takes a key from a file only. ssl.SSLError for a certificate, key or authority that does not parse.
    """
    context = ssl.create_default_context(cadata=_text(wish.ca_pem) if wish.ca_pem else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = type("TlsSocket", (_TlsSocket,), {"lost": staticmethod(lost)})
    if wish.certificate_pem:
        with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
            certificate = _private_file(folder, "certificate", wish.certificate_pem)
            key = _private_file(folder, "key", wish.private_key_pem)
            context.load_cert_chain(certificate, key)
    return context


def _private_file(folder: str, name: str, content: Any) -> str:
    path = os.path.join(folder, name)  # noqa: PTH118  # a plain string is what ssl takes
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_text(content))
    return path


def _text(pem: Any) -> str:
    return pem.decode("ascii") if isinstance(pem, bytes | bytearray) else str(pem)


def refusal(connack: int) -> str:
    """The core's word for a CONNACK with this reason (MQTT 5 number)."""
    return REFUSED if connack in _REFUSALS else UNREACHABLE


def failure(error: BaseException | None) -> str:
    """The core's word for an exception while connecting, by what it is or was raised from."""
    seen = 0
    while error is not None and seen < 8:
        if isinstance(error, ssl.SSLError):
            return TLS
        error = error.__cause__ or error.__context__
        seen += 1
    return UNREACHABLE
