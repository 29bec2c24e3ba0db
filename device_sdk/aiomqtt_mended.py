"""What aiomqtt leaves undone when a connection ends, mended from outside: for device drivers and for the service alike.

The one place that knows aiomqtt's private parts: its paho client and three of its futures. All else is public paho.
Decides nothing about messages. A test fails when a private part goes away.

- aiomqtt registers sockets with the loop by number and later, when the number may be closed or another connection's.
  Here sockets are touched in the loop's thread only, and only while they are open.
- A connection that ends before its CONNACK or SUBACK is noticed by a time-out only. Here it is at once.
- The reason of a lost connection that nobody asks for is reported by asyncio as an exception never retrieved.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiomqtt

if TYPE_CHECKING:
    import paho.mqtt.client as paho_client

UPKEEP_S = 1.0  # between two looks at the keep-alive


def paho_of(client: aiomqtt.Client) -> paho_client.Client:
    return client._client  # noqa: SLF001


def close_socket(client: aiomqtt.Client) -> None:
    """Close what a refused or unanswered CONNECT left open; nothing if it is closed."""
    paho = paho_of(client)
    if paho.disconnect() == 0:
        paho.loop_write()
    sock: Any = paho.socket()
    if sock is not None:  # it takes no more bytes, not even the DISCONNECT
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        paho.loop_write()


def mend(client: aiomqtt.Client, drained: Callable[[], object] = lambda: None) -> paho_client.Client:
    """Mend a client that has not been entered yet. `drained` is called when the socket has taken all that waited."""
    return _Mended(client, drained).paho


class _Mended:
    """paho's callbacks, in place of aiomqtt's.

    paho connects in a thread of aiomqtt's; until that is over nothing is registered with the loop, so that neither
    disturbs the other.
    """

    def __init__(self, client: aiomqtt.Client, drained: Callable[[], object]) -> None:
        self.paho = paho = paho_of(client)
        self._client = client
        self._drained = drained
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._upkeep: asyncio.Task[None] | None = None
        self._connect = paho.connect
        self._told: Callable[..., object] = paho.on_disconnect or (lambda *_: None)
        paho.connect = self._connect_then_begin  # type: ignore[method-assign]
        paho.on_disconnect = self._disconnected
        paho.on_socket_open = None
        paho.on_socket_close = self._closing
        paho.on_socket_register_write = self._to_write
        paho.on_socket_unregister_write = self._written

    def _connect_then_begin(self, *args: Any, **kwargs: Any) -> Any:
        code = self._connect(*args, **kwargs)
        self._in_loop(self._begin)
        return code

    def _begin(self) -> None:
        sock = self.paho.socket()
        if sock is None or sock.fileno() < 0:
            return
        self._loop.add_reader(sock.fileno(), self._read, sock)
        self._upkeep = self._loop.create_task(self._keep_up(), name="mqtt keep-alive")
        if self.paho.want_write():
            self._loop.add_writer(sock.fileno(), self._write)

    def _read(self, sock: object) -> None:
        try:
            while self.paho.loop_read() == 0 and self.paho.socket() is sock:
                # TLS keeps bytes that the loop does not see.
                if not isinstance(sock, ssl.SSLSocket) or not sock.pending():
                    return
        except Exception:  # noqa: BLE001 - whatever the peer sent, this connection ends
            self._give_up()

    def _write(self) -> None:
        try:
            self.paho.loop_write()
        except Exception:  # noqa: BLE001 - as above
            self._give_up()

    async def _keep_up(self) -> None:
        while self.paho.loop_misc() == 0:  # noqa: ASYNC110 - the keep-alive is a matter of time
            await asyncio.sleep(UPKEEP_S)

    def _give_up(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            close_socket(self._client)

    def _closing(self, _paho: object, _userdata: object, sock: Any) -> None:
        if threading.get_ident() != self._thread:
            return  # still connecting: the loop does not know it
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
        if self._upkeep is not None:
            self._upkeep.cancel()

    def _to_write(self, _paho: object, _userdata: object, sock: Any) -> None:
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._add_writer, sock)

    def _add_writer(self, sock: Any) -> None:
        current = self.paho.socket() is sock
        if current and sock.fileno() >= 0 and self.paho.want_write():
            self._loop.add_writer(sock.fileno(), self._write)

    def _written(self, _paho: object, _userdata: object, sock: Any) -> None:
        if threading.get_ident() == self._thread:
            if sock.fileno() >= 0:
                self._loop.remove_writer(sock.fileno())
            self._drained()

    def _disconnected(self, *told: Any) -> None:
        self._in_loop(self._end, *told)

    def _end(self, *told: Any) -> None:
        self._told(*told)
        client = self._client
        waiting: list[asyncio.Future[Any]] = [client._connected, *client._pending_subscribes.values()]  # noqa: SLF001
        for future in waiting:
            if not future.done():
                future.set_exception(aiomqtt.MqttError("the connection ended before the answer"))
        for future in (*waiting, client._disconnected):  # noqa: SLF001
            if future.done() and not future.cancelled():
                future.exception()  # looked at: nobody else has to

    def _in_loop(self, do: Callable[..., None], *args: Any) -> None:
        if threading.get_ident() == self._thread:
            do(*args)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(do, *args)
