"""What aiomqtt leaves undone when a connection ends, mended from outside: for device drivers and for the service alike.

The one place that knows private parts: aiomqtt's paho client and three of its futures, and the two functions by which
paho sends and receives. All else is public paho. Decides nothing about messages. A test fails when a private part goes.

- aiomqtt registers sockets with the loop by number and later, when the number may be closed or another connection's.
  Here sockets are touched in the loop's thread only, and only while they are open.
- A connection that ends before its CONNACK or SUBACK is noticed by a time-out only. Here it is at once.
- The reason of a lost connection that nobody asks for is reported by asyncio as an exception never retrieved.
- paho asks the system three times for each packet that it reads and once for each that it writes. Here it is asked once
  for all that is there, and once for all that was published in a turn of the loop.
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
READ_BYTES = 64 * 1024  # asked of the system at once
GATHER_BYTES = 256 * 1024  # given to the system at once
BURST = 32  # packets taken before others get a turn
_AT_ONCE = (0x10, 0xE0)  # CONNECT and DISCONNECT: paho closes the socket right after the second


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


def mend(
    client: aiomqtt.Client, drained: Callable[[], object] = lambda: None, stuck: Callable[[], object] = lambda: None
) -> Mended:
    """Mend a client that has not been entered yet.

    `stuck` is called when the socket did not take all that was published, `drained` when it has.
    """
    return Mended(client, drained, stuck)


class Mended:
    """paho's callbacks, in place of aiomqtt's. What is published is written at the end of the loop's turn, or by write().

    paho connects in a thread of aiomqtt's; until that is over nothing is registered with the loop, so that neither
    disturbs the other.
    """

    def __init__(self, client: aiomqtt.Client, drained: Callable[[], object], stuck: Callable[[], object]) -> None:
        self.paho = paho = paho_of(client)
        self._client = client
        self._drained = drained
        self._stuck = stuck
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._upkeep: asyncio.Task[None] | None = None
        self._gathering = False
        self._gathered = bytearray()  # of packets that paho takes for sent
        self._received = b""  # that paho has not taken yet, from `_taken` on
        self._taken = 0
        self._writer: int | None = None  # the socket that the loop watches until it takes bytes again
        self._connect = paho.connect
        self._told: Callable[..., object] = paho.on_disconnect or (lambda *_: None)
        self._send, self._receive = paho._sock_send, paho._sock_recv  # noqa: SLF001
        paho._sock_send = self._gather  # type: ignore[method-assign]  # noqa: SLF001
        paho._sock_recv = self._take  # type: ignore[method-assign]  # noqa: SLF001
        paho.connect = self._connect_then_begin  # type: ignore[method-assign]
        paho.on_disconnect = self._disconnected
        paho.on_socket_open = None
        paho.on_socket_close = self._closing
        paho.on_socket_register_write = self._to_write
        paho.on_socket_unregister_write = None

    def write(self) -> None:
        """Give the socket all that it takes of what was published."""
        sock: Any = self.paho.socket()
        if sock is None:
            return
        try:
            while self._flush() and self._gather_more():
                pass
        except Exception:  # noqa: BLE001 - whatever the peer did, this connection ends
            self._give_up()
            return
        if self.paho.socket() is not sock:
            return
        if self._gathered or self.paho.want_write():
            self._watch(sock)
            self._stuck()
        else:
            self._unwatch()
            self._drained()

    def _gather_more(self) -> bool:
        """Whether there was something."""
        self._gathering = True
        try:
            self.paho.loop_write()
        finally:
            self._gathering = False
        return bool(self._gathered)

    def _flush(self) -> bool:
        """Whether the socket has taken all that was gathered. Raises OSError."""
        while self._gathered:
            try:
                sent = self._send(self._gathered)
            except BlockingIOError:
                return False
            del self._gathered[:sent]
        return True

    def _gather(self, buf: bytes | bytearray) -> int:
        """In place of paho's function that sends."""
        if self._gathering and buf[0] & 0xF0 not in _AT_ONCE and len(self._gathered) < GATHER_BYTES:
            self._gathered += buf
            return len(buf)
        if not self._flush():
            raise BlockingIOError
        return self._send(buf)

    def _take(self, bufsize: int) -> bytes:
        """In place of paho's function that receives."""
        if self._taken >= len(self._received):
            self._received, self._taken = self._receive(max(bufsize, READ_BYTES)), 0
        first, self._taken = self._taken, self._taken + bufsize
        return self._received[first : self._taken]

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
            self._watch(sock)

    def _read(self, sock: Any) -> None:
        try:
            for _ in range(BURST):
                if self.paho.socket() is not sock or self.paho.loop_read() != 0 or self.paho.socket() is not sock:
                    return
                # TLS keeps bytes that the loop does not see.
                if self._taken >= len(self._received) and not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
                    return
        except Exception:  # noqa: BLE001 - whatever the peer sent, this connection ends
            self._give_up()
            return
        self._loop.call_soon(self._read, sock)

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
        self._unwatch()
        if self._upkeep is not None:
            self._upkeep.cancel()

    def _to_write(self, _paho: object, _userdata: object, sock: Any) -> None:
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._written_in_turn, sock)

    def _written_in_turn(self, sock: Any) -> None:
        if self.paho.socket() is sock and self._writer is None:
            self.write()

    def _watch(self, sock: Any) -> None:
        if self._writer is None and sock.fileno() >= 0:
            self._writer = sock.fileno()
            self._loop.add_writer(self._writer, self.write)

    def _unwatch(self) -> None:
        if self._writer is not None:
            self._loop.remove_writer(self._writer)
            self._writer = None

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
