"""The embedded broker for trials: amqtt's listener, packets and life cycle under our own admission and routing.

Owns one broker per role and the gate to it. MQTT 3.1.1, API keys, no TLS, no retained messages, no durable sessions.
amqtt's own session handling changes a session before it knows who asks, keeps unbounded queues and enforces no
keep-alive, so connections never reach it: GuardedBroker authenticates first and routes by policy.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Sequence

from amqtt.adapters import BufferReader, ReaderAdapter, StreamReaderAdapter, StreamWriterAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import AMQTTError, BrokerError, MQTTError, NoDataError
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.packet import CONNECT
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

from device_sdk.wire import ids, topics
from service.brokers.connection import Connection, ProtocolViolation
from service.brokers.gate import AccountLogin, GateError, Login
from service.brokers.policy import Principal, may_publish, may_receive, may_subscribe, receivers_of
from service.domain.credential import CredentialKind
from service.errors import Secret
from service.mqtt import account_topics
from service.mqtt.port import MOUNT, Role

SERVICE_USER = "firstlight"
CONNECTION_ACCEPTED, IDENTIFIER_REJECTED, BAD_USERNAME_PASSWORD, NOT_AUTHORIZED = 0, 2, 4, 5  # MQTT 3.1.1, 3.2.2.3
MAX_CONNECTIONS = 1000
MAX_CONNECT_BYTES = 4096
CONNECT_TIMEOUT_S = 10.0
SILENCE_CHECK_S = 1.0


class GuardedBroker(Broker):  # type: ignore[misc] # amqtt is untyped
    """amqtt's Broker with connections admitted by CONNECT, credential and client id before any session changes.

    `mount` is put before every topic of a device, and taken off again before it gets one.
    """

    def __init__(
        self,
        config: BrokerConfig,
        admit: Callable[[Session], Principal | int],
        max_connections: int,
        mount: str = "",
    ) -> None:
        super().__init__(config)
        self._mount = mount
        self._admit = admit
        self._max_connections = max_connections
        self._transports: set[asyncio.Transport] = set()
        self._idle = asyncio.Event()  # set while no connection is open
        self._idle.set()
        self._services: set[Connection] = set()
        self.connections: dict[str, Connection] = {}  # by client id
        self.counts: dict[str, int] = {}  # what was refused, by cause

    # --- admission ----------------------------------------------------------------------------------------------

    async def _client_connected(self, listener_name: str, reader: ReaderAdapter, writer: WriterAdapter) -> None:  # noqa: ARG002
        if not isinstance(reader, StreamReaderAdapter) or not isinstance(writer, StreamWriterAdapter):
            raise TypeError("the embedded broker listens on TCP only")
        transport = writer._writer.transport  # noqa: SLF001
        if len(self._transports) >= self._max_connections:
            self._count("too_many_connections")
            transport.abort()
            return
        self._transports.add(transport)
        self._idle.clear()
        try:
            await self._serve(reader, writer)
        except (AMQTTError, MQTTError, NoDataError, ProtocolViolation, ValueError, IndexError):
            self._count("protocol_violation")
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            self._count("no_connect")
        finally:
            if not transport.is_closing():
                transport.abort()
            self._transports.discard(transport)
            if not self._transports:
                self._idle.set()

    async def _serve(self, reader: StreamReaderAdapter, writer: StreamWriterAdapter) -> None:
        # 1. One whole, small CONNECT in time, before anything is looked up.
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            session = await self._read_connect(reader, writer)
        # 2. Who is it? A refusal changes nothing, whoever's client id it names.
        admitted = self._admit(session)
        if isinstance(admitted, int):
            await self._refuse(writer, admitted)
            return
        client_id = session.client_id or ""
        old = self.connections.get(client_id)
        # 3. A client id that somebody else's principal holds is not taken over.
        if old is not None and old.principal != admitted:
            await self._refuse(writer, IDENTIFIER_REJECTED)
            return
        connection = Connection(admitted, client_id, session.keep_alive, (reader, writer), time.monotonic)
        # 4. The same principal comes again: its old connection ends.
        self.connections[client_id] = connection
        if admitted.is_service:
            self._services.add(connection)
        if old is not None:
            old.end()
        connection.write(ConnackPacket.build(0, CONNECTION_ACCEPTED).to_bytes())
        orderly = False
        try:
            orderly = await connection.serve(self)
        finally:
            if self.connections.get(client_id) is connection:
                del self.connections[client_id]
            self._services.discard(connection)
            connection.closed.set()
            if not orderly and session.will_flag and session.will_topic and not session.will_retain:
                await self.route(connection, session.will_topic, bytes(session.will_message or b""))

    async def _read_connect(self, reader: StreamReaderAdapter, writer: StreamWriterAdapter) -> Session:
        raw = bytearray(await reader.read(2))
        while raw[-1] & 0x80 and len(raw) < 3:
            raw += await reader.read(1)
        length = sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(raw[1:]))
        if raw[0] != CONNECT << 4 or raw[-1] & 0x80 or length > MAX_CONNECT_BYTES:
            raise ProtocolViolation("not a small CONNECT")
        body = await reader.read(length)
        whole = BufferReader(bytes(raw) + body)
        _, session = await BrokerProtocolHandler.init_from_connect(whole, writer, self.plugins_manager)
        return session

    async def _refuse(self, writer: StreamWriterAdapter, code: int) -> None:
        self._count("refused_connect")
        writer.write(ConnackPacket.build(0, code).to_bytes())
        writer._writer.close()  # noqa: SLF001 - flushes; amqtt's close waits for the peer

    # --- routing ------------------------------------------------------------------------------------------------

    async def route(self, sender: Connection, topic: str, payload: bytes) -> None:
        """Hand a message to whoever may have it: a device's one connection, or every connection of the service."""
        if not may_publish(sender.principal, topic):
            self._count("publish_not_allowed")
            return
        if sender.principal.is_service:
            targets = [self.connections.get(one) for one in receivers_of(sender.principal, topic)]
            topic = topic.removeprefix(self._mount)
        else:
            targets = [*self._services]
            topic = self._mount + topic
        raw = topic.encode()
        for target in targets:
            if target is None or not may_receive(target.principal, topic):
                continue
            qos = max((qos for f, qos in target.filters.items() if self._matches(topic, f)), default=None)
            if qos is not None:
                await target.send(raw, payload, qos)

    def subscribe(self, client: Connection, topic_filter: str, qos: int) -> bool:
        if not may_subscribe(client.principal, topic_filter):
            self._count("subscribe_not_allowed")
            return False
        client.filters[topic_filter] = qos
        return True

    def unsubscribe(self, client: Connection, topic_filter: str) -> None:
        client.filters.pop(topic_filter, None)

    # --- life cycle ---------------------------------------------------------------------------------------------

    async def _session_monitor(self) -> None:
        """Instead of amqtt's, which has no sessions to look after here: end connections that fell silent."""
        while True:
            await asyncio.sleep(SILENCE_CHECK_S)
            for connection in [*self.connections.values()]:
                if connection.is_silent:
                    self._count("silent")
                    connection.end()

    async def end_all(self) -> None:
        """Cut every connection and wait until the last has been cleaned up."""
        for transport in [*self._transports]:
            transport.abort()
        await self._idle.wait()

    @property
    def port(self) -> int:
        server = self._servers["default"].instance
        port: int = server.sockets[0].getsockname()[1]
        return port

    def _count(self, cause: str) -> None:
        self.counts[cause] = self.counts.get(cause, 0) + 1


class EmbeddedBroker:
    """One role's broker. `start` listens (port 0 takes a free one and keeps it for later starts), `stop` ends it."""

    def __init__(
        self,
        role: Role,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        root: str = topics.ROOT,
        max_connections: int = MAX_CONNECTIONS,
        service_password: Callable[[], str] = lambda: secrets.token_hex(32),
    ) -> None:
        self.role = role
        self.host = host
        self.port = port
        self.root = root
        self.logins: dict[str, bytes] = {}  # credential id -> SHA-256 of its API key; EmbeddedGate writes it
        self.accounts: dict[str, AccountLogin] = {}  # by name; EmbeddedGate writes it; operational only
        self._max_connections = max_connections
        self._password = Secret(service_password().encode())
        self._broker: GuardedBroker | None = None

    @property
    def service_login(self) -> tuple[str, Secret]:
        """User name and password of the service itself: random for each process, known to nobody else."""
        return SERVICE_USER, self._password

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._broker.counts) if self._broker is not None else {}

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        _quiet()
        listener = ListenerConfig(bind=f"{self.host}:{self.port}")
        config = BrokerConfig(listeners={"default": listener}, plugins={})
        mount = MOUNT if self.role is Role.WAREHOUSE else ""
        broker = GuardedBroker(config, self._admit, self._max_connections, mount)
        try:
            await broker.start()
        except BrokerError as error:
            raise OSError(f"cannot listen on {self.host}:{self.port}: {error}") from error
        self._broker = broker
        self.port = broker.port

    async def stop(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            await broker.end_all()
            await broker.shutdown()

    def connection_of(self, client_id: str) -> Connection | None:
        return self._broker.connections.get(client_id) if self._broker is not None else None

    def _admit(self, session: Session) -> Principal | int:
        """The principal that this CONNECT proves, or the CONNACK code that refuses it."""
        client_id: str = session.client_id or ""
        username: str | None = session.username
        password = (session.password or "").encode()
        # 0. An operator or integrator: client id = user name = one of the account's sessions, none of which is 32 hex.
        account = self.accounts.get(account_topics.account_of(client_id))
        if account is not None and username == client_id:
            ok = hmac.compare_digest(hashlib.sha256(password).digest(), account.key_sha256)
            return Principal(self.role, account.name, self.root, account.space) if ok else NOT_AUTHORIZED
        # 1. Every client id is 32 lower-case hex: no slash, no wildcard, nothing that could stand for another's topic.
        if not ids.is_hex_id(client_id):
            return IDENTIFIER_REJECTED
        # 2. The service's own login, at any client id.
        if username == SERVICE_USER:
            ok = hmac.compare_digest(password, self._password.reveal())
            return Principal(self.role, None, self.root) if ok else BAD_USERNAME_PASSWORD
        # 3. Bootstrap and warehouse take anybody without a name: the client id is the session.
        if self.role is not Role.OPERATIONAL:
            return Principal(self.role, client_id, self.root) if username is None else NOT_AUTHORIZED
        # 4. Operational: client id = user name = credential id, and the password's hash is the one granted.
        known = self.logins.get(client_id, bytes(32))
        match = hmac.compare_digest(hashlib.sha256(password).digest(), known)
        if username != client_id or client_id not in self.logins or not match:
            return NOT_AUTHORIZED
        return Principal(self.role, client_id, self.root)


class EmbeddedGate:
    """The gate to an operational EmbeddedBroker. Takes API keys only."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker

    async def grant(self, logins: Sequence[Login]) -> None:
        for login in logins:
            if login.kind is not CredentialKind.API_KEY or login.api_key_sha256 is None:
                raise GateError("the embedded broker takes API keys only")
        self._broker.logins.update({x.credential_id: x.api_key_sha256 for x in logins if x.api_key_sha256})

    async def revoke(self, logins: Sequence[Login]) -> None:
        await self._drop([login.credential_id for login in logins])

    async def snapshot(self) -> frozenset[str]:
        return frozenset(self._broker.logins)

    async def set_accounts(self, wanted: Sequence[AccountLogin]) -> tuple[int, int]:
        before, after = self._broker.accounts, {login.name: login for login in wanted}
        self._broker.accounts = after
        gone = [name for name, login in before.items() if after.get(name) != login]
        await self._end([session for name in gone for session in account_topics.session_names(name)])
        return len([name for name, login in after.items() if before.get(name) != login]), len(gone)

    async def _drop(self, credential_ids: Sequence[str]) -> None:
        for credential_id in credential_ids:
            self._broker.logins.pop(credential_id, None)
        await self._end(credential_ids)

    async def _end(self, client_ids: Sequence[str]) -> None:
        live = [c for c in map(self._broker.connection_of, client_ids) if c is not None]
        for connection in live:
            connection.end()
        for connection in live:
            await connection.closed.wait()


def _quiet() -> None:
    """Quiet the library: it logs every packet at levels up to WARNING and `transitions` every state; ours is counted, and failures are raised."""
    for name in ("amqtt", "amqtt.broker.plugins", "transitions"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
