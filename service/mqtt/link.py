"""The link: one connection to one broker, made again for ever.

Owns connecting, subscribing, receiving, acknowledging and publishing on aiomqtt. Knows topics only as filters and
payloads only as bytes; never decides what a message means. Where it sits: below pipeline/inbound, above the socket.

Nothing rests on broker sessions: each connect is clean, under a fresh random client id, and a message is acknowledged
by its receiver after the commit. A connection that was lost makes its open acknowledgements no-ops, because the device
repeats what was not answered.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiomqtt

from device_sdk.aiomqtt_mended import mend
from device_sdk.wire import topics
from service.errors import Secret
from service.mqtt import account_topics
from service.mqtt.library import close_refused, close_socket, heed_cancellation
from service.mqtt.port import SPACES, Deliver, Inbound, LinkDown, Role, root_of

if TYPE_CHECKING:
    import paho.mqtt.client as paho_client

KEEPALIVE_S = 15  # a dead broker is noticed within 1.5 times this
CONNECT_TIMEOUT_S = 5.0
FIRST_RETRY_S = 0.2
MAX_RETRY_S = 15.0
STABLE_S = 30.0  # a connection that lasted this long starts the back-off anew
WRITE_BYTES = 64 * 1024  # written before the turn is over
YIELD_BYTES = 256 * 1024  # after so many bytes written without waiting, others get a turn
_NODELAY = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)  # small replies do not wait for the peer's acknowledgement


@dataclass(frozen=True, slots=True)
class LinkSettings:
    host: str
    port: int
    username: str | None = None
    password: Secret | None = None  # UTF-8
    tls: ssl.SSLContext | None = None
    root: str = topics.ROOT
    share: str | None = None  # the group of `$share/{share}/...`, where the broker has shared subscriptions
    keepalive_s: int = KEEPALIVE_S


@dataclass(slots=True)
class LinkState:
    """What health and status show. Times are of the monotonic clock; counts are since the start of the process."""

    connected_since: float | None = None
    connects: int = 0
    received: int = 0
    sent: int = 0
    last_error: str | None = None  # of the last failed or lost connection; holds no secret


class MqttLink:
    """One environment's bootstrap or operational broker, as the pipeline sees it. `run` never returns by itself."""

    def __init__(
        self,
        environment: str,
        role: Role,
        settings: LinkSettings,
        deliver: Deliver,
        *,
        client_id: Callable[[], str] = lambda: secrets.token_hex(16),
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.environment = environment
        self.role = role
        self.settings = settings
        self.state = LinkState()
        self.connected = asyncio.Event()  # set while subscribed
        self.on_connect: Callable[[], None] = lambda: None  # called at each connect, before the first message of it
        self._deliver = deliver
        self._client_id = client_id
        self._jitter = jitter
        self._monotonic = monotonic
        self._paho: paho_client.Client | None = None  # None while not subscribed
        self._writable = asyncio.Event()  # clear while paho holds bytes that the socket did not take
        self._write: Callable[[], None] = lambda: None
        self._unwritten = 0  # bytes published since they were written last, if not at the end of a turn
        self._burst = 0  # bytes since this task last let others run
        if settings.tls is not None:
            close_refused(settings.tls)

    @property
    def up(self) -> bool:
        return self.connected.is_set()

    @property
    def filter(self) -> str:
        return self._shared(topics.up_filter(SPACES[self.role], root_of(self.role, self.settings.root)))

    @property
    def filters(self) -> list[str]:
        """Devices' requests first; the operational broker also carries those of operators."""
        operators = [self._shared(account_topics.up_filter(self.settings.root))]
        return [self.filter, *(operators if self.role is Role.OPERATIONAL else [])]

    def _shared(self, up: str) -> str:
        return f"$share/{self.settings.share}/{up}" if self.settings.share else up

    async def run(self) -> None:
        """Connect, and connect again after every loss, with jittered back-off, until cancelled."""
        failures = 0
        while True:
            started = self._monotonic()
            try:
                await self._one_connection()
            except (aiomqtt.MqttError, OSError, TimeoutError, ValueError) as error:
                self.state.last_error = _words(error)
            if self._monotonic() - started >= STABLE_S:
                failures = 0
            heed_cancellation()
            delay_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2 ** min(failures, 10))
            failures += 1
            await asyncio.sleep(delay_s * (0.5 + self._jitter()))

    async def publish(self, topic: str, payload: bytes) -> None:
        """Send at QoS 0, with all else that is published in this turn of the loop. Raises LinkDown.

        What waits to be written is bounded: while the socket takes no more, callers wait here. A broker that reads
        nothing is ended by the keep-alive, which wakes them with LinkDown.
        """
        paho = self._paho
        if paho is None:
            raise LinkDown
        while not self._writable.is_set():
            await self._writable.wait()
            if self._paho is not paho:
                raise LinkDown
        if paho.publish(topic, payload, 0).rc != 0:
            raise LinkDown
        self.state.sent += 1
        self._unwritten += len(payload)
        if self._unwritten >= WRITE_BYTES:
            self._unwritten = 0
            self._write()
            if self._paho is not paho:
                raise LinkDown
        self._burst += len(payload) + 256
        if self._burst >= YIELD_BYTES:
            self._burst = 0
            await asyncio.sleep(0)

    async def _one_connection(self) -> None:
        settings = self.settings
        client = aiomqtt.Client(
            settings.host,
            settings.port,
            username=settings.username,
            password=None if settings.password is None else settings.password.reveal().decode(),
            identifier=self._client_id(),
            clean_session=True,
            keepalive=settings.keepalive_s,
            timeout=CONNECT_TIMEOUT_S,
            tls_context=settings.tls,
            socket_options=_NODELAY,
        )
        paho = self._take_over(client)
        try:
            await self._hold(client, paho)
        finally:
            close_socket(client)

    async def _hold(self, client: aiomqtt.Client, paho: paho_client.Client) -> None:
        """Connect, subscribe and stay until the connection is lost, which raises."""
        async with client:
            try:
                heed_cancellation()
                self._paho = paho  # before SUBSCRIBE: the first messages may come with the SUBACK
                self._writable.set()
                self.on_connect()
                codes = await client.subscribe([(one, 1) for one in self.filters])
                heed_cancellation()
                # A broker that others look after may have no place for operators; devices it must have.
                if any((code if isinstance(code, int) else code.value) >= 0x80 for code in codes[:1]):
                    raise aiomqtt.MqttError(f"the broker refused the subscription {self.filter}")
                self.state.connects += 1
                self.state.connected_since = self._monotonic()
                self.state.last_error = None
                self.connected.set()
                async for _ in client.messages:  # nothing comes this way; it raises when the connection is lost
                    pass
            finally:
                self.connected.clear()
                self._paho = None
                self.state.connected_since = None
                self._writable.set()  # whoever waits finds the link down

    def _take_over(self, client: aiomqtt.Client) -> paho_client.Client:
        """Acknowledge by hand, take messages without a task each, and learn when the socket takes bytes again.

        aiomqtt acknowledges on receipt and makes a task for each message; aiomqtt_mended.py says how we come by its client.
        """
        mended = mend(client, self._writable.set, self._writable.clear)
        paho, self._write = mended.paho, mended.write
        paho.manual_ack_set(True)
        state, deliver = self.state, self._deliver

        def received(_client: object, _userdata: object, message: paho_client.MQTTMessage) -> None:
            if message.retain:
                return  # brokers refuse retained messages; one that is there all the same is nobody's request
            state.received += 1
            deliver(Inbound(self, message.topic, bytes(message.payload), _Acknowledgement(self, paho, message)))

        paho.disable_logger()
        paho.on_message = received
        paho.on_publish = None
        return paho


def _words(error: BaseException) -> str:
    """What health shows of a lost connection; "tls: " where somebody answered who cannot prove to be the broker."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"tls: {cause}"
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {error}"


class _Acknowledgement:
    """Acknowledges one message at most once, and only on the connection that it came by."""

    __slots__ = ("_link", "_mid", "_paho", "_qos")

    def __init__(self, link: MqttLink, paho: paho_client.Client, message: paho_client.MQTTMessage) -> None:
        self._link = link
        self._paho: paho_client.Client | None = paho
        self._mid = message.mid
        self._qos = message.qos

    def __call__(self) -> None:
        paho, self._paho = self._paho, None
        if paho is not None and self._qos and self._link._paho is paho:  # noqa: SLF001
            paho.ack(self._mid, self._qos)
