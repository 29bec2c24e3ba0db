"""Somebody who pretends to be a broker: answers the TLS handshake and keeps every byte that a client lets out.

For tests of clients: a client that does not believe the certificate must not have said anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile

from tests.support.certificates import Authority, self_signed
from tests.support.loopback_server import ThreadedLoopbackServer

KINDS = ("another authority", "expired", "another host name", "self-signed", "no TLS at all")


def impostor(kind: str, trusted: Authority) -> Impostor:
    """Listens on 127.0.0.1; its certificate is wrong in this one way. Use it as a context manager."""
    here = "127.0.0.1"
    if kind == "no TLS at all":
        return Impostor(None)
    certificate, key = {
        "another authority": lambda: Authority().issue("broker", here),
        "expired": lambda: trusted.issue("broker", here, days=-1),
        "another host name": lambda: trusted.issue("broker", "other.example"),
        "self-signed": lambda: self_signed(here),
    }[kind]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(certificate + key)
        file.flush()
        context.load_cert_chain(file.name)
    return Impostor(context)


class Impostor(ThreadedLoopbackServer):
    """`heard`: what clients said inside TLS; `raw`: every byte that they sent; `connections`: how many came."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__()  # TLS is its own, to see every byte
        self.heard = b""
        self.raw = b""
        self.connections = 0
        self._context = context

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(OSError, ssl.SSLError):
                await self._talk(reader, writer)
        finally:
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._context is None:
            # A plain MQTT broker that welcomes everybody: CONNACK 0, before it is asked.
            writer.write(b"\x20\x02\x00\x00")
            self.raw += await reader.read(65536)
            return
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
        shaken = False
        while data := await reader.read(65536):
            self.raw += data
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                if not shaken:
                    tls.do_handshake()
                    shaken = True
                while more := tls.read(65536):
                    self.heard += more
            writer.write(outgoing.read())
