"""The driver for programs without asyncio: the core on paho-mqtt and one plain thread.

Owns one connection at a time and the lock-free rule that makes it simple: every call into the core comes from the
thread in run(); paho's callbacks run in that thread too, because run() itself turns paho's network loop.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from device_sdk.core import actions
from device_sdk.core.client import Client
from device_sdk.core.staging import StagingClient
from device_sdk.drivers import connection

STOPPED = "stopped"
REBOOT = "reboot"
SHUTDOWN = "shutdown"

AnyClient = Client | StagingClient  # whoever lives in this boot

_LONGEST_WAIT_S = 1.0  # how late a stop may be noticed while nothing arrives
_MISC_EVERY_S = 1.0  # paho's keep-alive check
_PACKETS_A_TURN = 64  # read before the core is asked for its actions again


class ThreadedDriver:
    """Runs one core client in the calling thread (or its own, by start()) until stop() or a reboot."""

    def __init__(
        self,
        client: AnyClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_note: Callable[[actions.Note], None] = lambda _note: None,
        on_change: Callable[[AnyClient], None] = lambda _client: None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._on_note = on_note
        self._on_change = on_change
        self._stop = threading.Event()
        self._mqtt: paho.Client | None = None
        self._failed: str | None = None
        self._connected = False
        self._give_up_at = 0.0
        self._misc_at = 0.0

    def stop(self) -> None:
        """From any thread: run() returns STOPPED within about a second."""
        self._stop.set()

    def start(self) -> threading.Thread:
        """Run in a thread of its own; join it after stop()."""
        thread = threading.Thread(target=self.run, name="firstlight device")
        thread.start()
        return thread

    def run(self) -> str:
        """STOPPED, REBOOT or SHUTDOWN."""
        try:
            self._client.start(self._clock())
            while not self._stop.is_set():
                if (end := self._perform()) is not None:
                    return end
                self._on_change(self._client)
                self._turn()
            return STOPPED
        finally:
            self._close()

    def _perform(self) -> str | None:
        end: str | None = None
        while wanted := self._client.actions():
            for action in wanted:
                if isinstance(action, actions.Publish):
                    self._publish(action)
                elif isinstance(action, actions.Note):
                    self._on_note(action)
                elif isinstance(action, actions.Connect):
                    self._close()
                    self._open(action)
                elif isinstance(action, actions.Disconnect):
                    self._close()
                elif isinstance(action, actions.Reboot):
                    end = REBOOT
                elif isinstance(action, actions.Shutdown):
                    end = SHUTDOWN
        return end

    def _open(self, connect: actions.Connect) -> None:
        """Begin a connection; how it ended is noticed in _turn. Blocks for the TCP and TLS handshakes only."""
        mqtt = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=connect.client_id,
            clean_session=True,
            reconnect_on_failure=False,
        )
        mqtt.max_queued_messages_set(connection.MAX_OUTGOING)
        mqtt.connect_timeout = connection.CONNECT_TIMEOUT_S
        mqtt.on_connect = self._on_connect
        mqtt.on_subscribe = self._on_subscribe
        mqtt.on_disconnect = self._on_disconnect
        mqtt.on_message = self._on_message
        mqtt.user_data_set(connect.subscribe)
        if connect.username is not None:
            mqtt.username_pw_set(connect.username, connect.password)
        self._mqtt, self._failed, self._connected = mqtt, None, False
        self._give_up_at = self._clock() + connection.CONNECT_TIMEOUT_S
        self._misc_at = self._clock()
        try:
            if connect.tls:
                mqtt.tls_set_context(connection.tls_context(connect, lambda reason: self._lost(mqtt, reason)))
            mqtt.connect(connect.host, connect.port, connect.keepalive_s)
        except ssl.SSLError:
            self._failed = connection.TLS
        except (OSError, ValueError) as error:
            self._failed = connection.failure(error)

    def _on_connect(self, mqtt: paho.Client, filters: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        if reason.value != 0:
            self._failed = connection.refusal(reason.value)
            return
        mqtt.subscribe([(topic, 1) for topic in filters])

    def _on_subscribe(self, _mqtt: paho.Client, _filters: Any, _mid: int, _codes: Any, _properties: Any) -> None:
        if not self._connected:
            self._connected = True
            self._client.connected(self._clock())

    def _on_disconnect(self, _mqtt: paho.Client, _f: Any, _flags: Any, _reason: ReasonCode, _properties: Any) -> None:
        if self._failed is None:
            self._failed = connection.UNREACHABLE

    def _lost(self, mqtt: paho.Client, reason: str) -> None:
        if self._mqtt is mqtt and self._failed is None:
            self._failed = reason

    def _on_message(self, _mqtt: paho.Client, _filters: Any, message: paho.MQTTMessage) -> None:
        self._client.received(message.topic, bytes(message.payload), self._clock())

    def _publish(self, action: actions.Publish) -> None:
        if self._mqtt is None or not self._connected:
            return
        # A full queue or a lost connection: the core repeats the request.
        with contextlib.suppress(ValueError, RuntimeError):
            self._mqtt.publish(action.topic, action.payload, action.qos)

    def _turn(self) -> None:
        """Wait for the network or the core's time, and hand on whichever came."""
        now = self._clock()
        wake_at = self._client.wake_at
        wait_s = _LONGEST_WAIT_S if wake_at is None else min(max(wake_at - now, 0.0), _LONGEST_WAIT_S)
        if self._mqtt is None:
            self._stop.wait(wait_s)
        elif self._failed is None:
            self._network(self._mqtt, wait_s)
        now = self._clock()
        if self._mqtt is not None and not self._connected and self._failed is None and now >= self._give_up_at:
            self._failed = connection.UNREACHABLE
        if self._failed is not None:
            self._ended(now)
        wake_at = self._client.wake_at
        if wake_at is not None and wake_at <= now:
            self._client.tick(now)

    def _network(self, mqtt: paho.Client, wait_s: float) -> None:
        sock: Any = mqtt.socket()
        if sock is None:
            self._failed = self._failed or connection.UNREACHABLE
            return
        if not _pending(sock):
            ready, writable = _wait(sock, wait_s, to_write=mqtt.want_write())
            if writable:
                mqtt.loop_write()
            if not ready:
                self._misc(mqtt)
                return
        for _ in range(_PACKETS_A_TURN):
            mqtt.loop_read()
            if self._mqtt is not mqtt or mqtt.socket() is None or not _more(sock):
                break
        self._misc(mqtt)

    def _misc(self, mqtt: paho.Client) -> None:
        if self._clock() >= self._misc_at:
            self._misc_at = self._clock() + _MISC_EVERY_S
            mqtt.loop_misc()

    def _ended(self, now: float) -> None:
        reason, was_connected = self._failed, self._connected
        self._close()
        if was_connected:
            self._client.disconnected(now)
        else:
            self._client.connect_failed(reason or connection.UNREACHABLE, now)

    def _close(self) -> None:
        mqtt, self._mqtt = self._mqtt, None
        self._failed, self._connected = None, False
        if mqtt is None:
            return
        mqtt.on_disconnect = None
        mqtt.on_message = None
        with contextlib.suppress(OSError, ValueError):
            mqtt.disconnect()
        sock: Any = mqtt.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            mqtt.loop_misc()


def _pending(sock: Any) -> bool:
    """Whether TLS holds bytes already decrypted, which select() does not see."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def _more(sock: Any) -> bool:
    return _pending(sock) or _wait(sock, 0.0)[0]


def _wait(sock: Any, wait_s: float, *, to_write: bool = False) -> tuple[bool, bool]:
    """Whether there is something to read, and room to write. By poll: select() takes no number above 1023."""
    if not hasattr(select, "poll"):
        ready, writable, _ = select.select([sock], [sock] if to_write else [], [], wait_s)
        return bool(ready), bool(writable)
    one = select.poll()
    one.register(sock, select.POLLIN | (select.POLLOUT if to_write else 0))
    events = one.poll(math.ceil(wait_s * 1000))
    seen = events[0][1] if events else 0
    return bool(seen & ~select.POLLOUT), bool(seen & select.POLLOUT)
