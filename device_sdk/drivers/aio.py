"""The asyncio driver: turns the core's actions into an MQTT connection and feeds back what arrives.

Owns one connection at a time, the clock and nothing of the protocol: what to send, when, and whether to believe an
answer is the core's business. Nothing waits without a bound, and nothing is queued without one.

    reader task:  link.receive() -> client.received() ─┐
    main task:    client.actions() -> link, wake_at <──┘
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import aiomqtt

from device_sdk.aiomqtt_mended import close_socket, mend
from device_sdk.core import actions
from device_sdk.core.client import Client
from device_sdk.core.staging import StagingClient
from device_sdk.drivers import connection

# aiomqtt logs a trace when an answer comes after its connection was given up, and a line for each dropped message;
# the core notices both by itself and says what matters in its notes.
_QUIET = logging.getLogger("device_sdk.mqtt")
_QUIET.setLevel(logging.CRITICAL)

STOPPED = "stopped"
REBOOT = "reboot"
SHUTDOWN = "shutdown"

AnyClient = Client | StagingClient  # whoever lives in this boot


class ConnectError(Exception):
    """No connection; `reason` is one of refused, unreachable, tls."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class LinkLostError(Exception):
    """The connection ended without being asked to."""


class Link(Protocol):
    """One open connection, subscribed as the Connect action asked."""

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Hand a message over; never waits, and drops it when too many wait already."""

    async def receive(self) -> list[tuple[str, bytes]]:
        """At least one message, in order; LinkLostError when there will be none."""


class Transport(Protocol):
    """How connections are made; the simulator has others than this module's."""

    def open(self, connect: actions.Connect) -> AbstractAsyncContextManager[Link]:
        """Connect and subscribe; ConnectError."""


class AiomqttTransport:
    """Each Connect is one aiomqtt client with a clean session.

    `max_incoming` and `max_outgoing` bound what waits for the core and for the broker's PUBACK; what comes above is
    dropped and asked for or sent again. The defaults are for one device.
    """

    def __init__(
        self, *, max_incoming: int = connection.MAX_INCOMING, max_outgoing: int = connection.MAX_OUTGOING
    ) -> None:
        self._max_incoming = max_incoming
        self._max_outgoing = max_outgoing

    @asynccontextmanager
    async def open(self, connect: actions.Connect) -> AsyncIterator[Link]:
        inbox: list[asyncio.Queue[aiomqtt.Message]] = []

        class Inbox(asyncio.Queue[aiomqtt.Message]):
            def __init__(self, maxsize: int = 0) -> None:
                super().__init__(maxsize)
                inbox.append(self)

        why: list[str] = []  # told by the TLS socket, before paho ends the connection
        try:
            # ssl reads files and parses certificates here: a few milliseconds, once per connection.
            context = connection.tls_context(connect, why.append) if connect.tls else None
        except (OSError, ValueError) as error:
            raise ConnectError(connection.TLS, type(error).__name__) from error
        mqtt = self._client(connect, context, Inbox)
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(connection.CONNECT_TIMEOUT_S):
                    await stack.enter_async_context(_closing(mqtt))
                    await mqtt.subscribe([(topic, 1) for topic in connect.subscribe])
            except aiomqtt.exceptions.MqttConnectError as error:
                raise ConnectError(connection.refusal(_number(error.rc)), str(error)) from error
            except (aiomqtt.MqttError, TimeoutError, OSError) as error:
                raise ConnectError(why[0] if why else connection.failure(error), str(error)) from error
            link = _AiomqttLink(mqtt, inbox[0], self._max_outgoing)
            try:
                yield link
            finally:
                await link.close()

    def _client(
        self, connect: actions.Connect, context: ssl.SSLContext | None, inbox: type[asyncio.Queue[aiomqtt.Message]]
    ) -> aiomqtt.Client:
        """What this Connect asks for, within this transport's bounds; not yet connected."""
        mqtt = aiomqtt.Client(
            connect.host,
            connect.port,
            username=connect.username,
            password=connect.password,
            identifier=connect.client_id,
            logger=_QUIET,
            clean_session=True,
            keepalive=connect.keepalive_s,
            queue_type=inbox,
            max_queued_incoming_messages=self._max_incoming,
            max_inflight_messages=self._max_outgoing,
            tls_context=context,
        )
        mend(mqtt)
        mqtt.pending_calls_threshold = self._max_outgoing
        return mqtt


@asynccontextmanager
async def _closing(mqtt: aiomqtt.Client) -> AsyncIterator[None]:
    """The client's own context, without the errors of leaving it: what it ends is over either way."""
    entering = asyncio.ensure_future(mqtt.__aenter__())
    entering.add_done_callback(_looked_at)
    try:
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            # aiomqtt connects in a thread, which goes on when its waiter is cancelled: only its end can be closed.
            await asyncio.wait({entering}, timeout=connection.CONNECT_TIMEOUT_S)
            raise
        yield
    finally:
        if entering.done() and not entering.cancelled() and entering.exception() is None:
            await _leave(mqtt)
        close_socket(mqtt)


def _looked_at(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def _leave(mqtt: aiomqtt.Client) -> None:
    with contextlib.suppress(aiomqtt.MqttError, asyncio.InvalidStateError):
        await mqtt.__aexit__(None, None, None)


def _number(rc: Any) -> int:
    return rc if isinstance(rc, int) else int(getattr(rc, "value", 0))


class _AiomqttLink:
    def __init__(self, mqtt: aiomqtt.Client, inbox: asyncio.Queue[aiomqtt.Message], max_outgoing: int) -> None:
        self._max_outgoing = max_outgoing
        self._mqtt = mqtt
        self._inbox = inbox
        self._messages = mqtt.messages
        self._sending: set[asyncio.Task[None]] = set()

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        if len(self._sending) >= self._max_outgoing:
            return
        task = asyncio.create_task(self._publish(topic, payload, qos), name=f"publish {topic}")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _publish(self, topic: str, payload: bytes, qos: int) -> None:
        # Lost or unacknowledged: the core repeats the request; a dead connection shows in receive().
        with contextlib.suppress(aiomqtt.MqttError, OSError):
            await self._mqtt.publish(topic, payload, qos=qos)

    async def receive(self) -> list[tuple[str, bytes]]:
        try:
            message = await anext(self._messages)
        except aiomqtt.MqttError as error:
            raise LinkLostError(str(error)) from error
        # One task for each message is what waiting costs; whatever arrived meanwhile is taken without waiting.
        batch = [(message.topic.value, _bytes(message.payload))]
        while not self._inbox.empty():
            message = self._inbox.get_nowait()
            batch.append((message.topic.value, _bytes(message.payload)))
        return batch

    async def close(self) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def _bytes(payload: Any) -> bytes:
    return payload if isinstance(payload, bytes) else str(payload).encode()


class Driver:
    """Runs one core client until `stop` is set or it wants to reboot.

    `on_note` gets every Note action (a log line, never a secret); `on_change` is called after anything happened, for
    displays. Both must return quickly.
    """

    def __init__(
        self,
        client: AnyClient,
        *,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_note: Callable[[actions.Note], None] = lambda _note: None,
        on_change: Callable[[AnyClient], None] = lambda _client: None,
    ) -> None:
        self._client = client
        self._transport: Transport = transport or AiomqttTransport()
        self._clock = clock
        self._on_note = on_note
        self._on_change = on_change
        self._awake = asyncio.Event()
        self._link: Link | None = None
        self._reader: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> str:
        """STOPPED, REBOOT or SHUTDOWN. The core was not started before; its flash and installer must be free of others."""
        stopping = asyncio.create_task(self._wake_on(stop), name="stop")
        try:
            self._client.start(self._clock())
            while not stop.is_set():
                if (end := await self._perform()) is not None:
                    return end
                self._on_change(self._client)
                await self._sleep()
            return STOPPED
        finally:
            stopping.cancel()
            await self._close()
            with contextlib.suppress(asyncio.CancelledError):
                await stopping

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._awake.set()

    async def _sleep(self) -> None:
        """Until something happened, or until the core wants its tick; a failure of the reader is raised here."""
        wake_at = self._client.wake_at
        if wake_at is None or wake_at > self._clock():
            timeout_s = None if wake_at is None else wake_at - self._clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._awake.wait()
        self._awake.clear()
        if self._reader is not None and self._reader.done():
            self._reader.result()
        wake_at = self._client.wake_at
        if wake_at is not None and wake_at <= self._clock():
            self._client.tick(self._clock())

    async def _perform(self) -> str | None:
        """Carry out what the core asked for; how this boot ends when that is the last of it."""
        end: str | None = None
        while wanted := self._client.actions():
            for action in wanted:
                if isinstance(action, actions.Publish):
                    if self._link is not None:
                        self._link.publish(action.topic, action.payload, action.qos)
                elif isinstance(action, actions.Note):
                    self._on_note(action)
                elif isinstance(action, actions.Connect):
                    await self._close()
                    self._reader = asyncio.create_task(self._read(action), name=f"mqtt {action.host}:{action.port}")
                elif isinstance(action, actions.Disconnect):
                    await self._close()
                elif isinstance(action, actions.Reboot):
                    end = REBOOT
                elif isinstance(action, actions.Shutdown):
                    end = SHUTDOWN
        return end

    async def _close(self) -> None:
        """End the connection, if any; the core asked for it and is not told."""
        reader, self._reader, self._link = self._reader, None, None
        if reader is None:
            return
        await ended(reader)
        if not reader.cancelled():
            reader.result()

    async def _read(self, connect: actions.Connect) -> None:
        """One connection from first to last; tells the core how it began, what arrived and how it ended."""
        client, clock = self._client, self._clock
        try:
            async with self._transport.open(connect) as link:
                if self._reader is not asyncio.current_task():
                    return  # closed while connecting, and the cancellation was lost on the way
                self._link = link
                client.connected(clock())
                self._awake.set()
                while True:
                    for topic, payload in await link.receive():
                        client.received(topic, payload, clock())
                    self._awake.set()
        except ConnectError as error:
            client.connect_failed(error.reason, clock())
        except LinkLostError:
            self._link = None
            client.disconnected(clock())
        finally:
            self._awake.set()


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel until it ends: asyncio.wait_for in Python 3.11, which aiomqtt uses, may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)


async def run(
    client: AnyClient,
    *,
    stop: asyncio.Event,
    on_note: Callable[[actions.Note], None] = lambda _note: None,
) -> str:
    """Run `client` on aiomqtt until `stop` is set (STOPPED) or a new image is to be booted (REBOOT)."""
    return await Driver(client, on_note=on_note).run(stop)
