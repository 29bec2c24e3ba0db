"""The admin's conversation with the dynamic-security plugin: commands out, answers in, one message at a time.

Owns the connection of the admin login and the matching of answers to questions. Knows the plugin's wire form, not what
is granted to whom (gate.py). Answers come at QoS 0 on one topic, so each command carries correlationData and a silence
is a GateError; every command we send may be repeated, because "already there" and "not found" count as done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiomqtt

from device_sdk.aiomqtt_mended import mend
from service.brokers.gate import GateError
from service.brokers.mosquitto.plan import ADMIN_USER
from service.errors import Secret
from service.mqtt.library import close_socket, heed_cancellation

TOPIC = "$CONTROL/dynamic-security/v1"
ANSWERS = TOPIC + "/response"
ANSWER_TIMEOUT_S = 10.0  # a save takes 0.8 s at 100,000 clients
CONNECT_TIMEOUT_S = 3.0
MAX_COMMANDS = 100  # in one message; each still costs the plugin one save
KEEPALIVE_S = 15
FIRST_RETRY_S, MAX_RETRY_S = 0.2, 5.0
STABLE_S = 30.0  # a connection that lasted this long starts the back-off anew

Command = dict[str, Any]
Answer = dict[str, Any]


class DynsecControl:
    """`run` holds the connection for ever; `ask` waits for it.

    The service's login is pinned to one client id: who connects as it throws out whoever is. Others have a login of
    their own.
    """

    def __init__(
        self,
        host: str,
        port: int,
        password: Secret,
        *,
        user: str = ADMIN_USER,
        client_id: str = ADMIN_USER,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._port = port
        self._password = password
        self._user, self._client_id = user, client_id
        self._jitter = jitter
        self._monotonic = monotonic
        self._client: aiomqtt.Client | None = None
        self._lock = asyncio.Lock()
        self._number = 0
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self.connected = asyncio.Event()
        self.connects = 0  # rises with each connection: the drift check runs again

    async def run(self) -> None:
        failures = 0
        while True:
            started = self._monotonic()
            with contextlib.suppress(aiomqtt.MqttError, OSError):
                await self._one_connection()
            heed_cancellation()
            if self._monotonic() - started >= STABLE_S:
                failures = 0
            delay_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2 ** min(failures, 8))
            failures += 1
            await asyncio.sleep(delay_s * (0.5 + self._jitter()))

    async def ask(self, commands: Sequence[Command]) -> list[Answer]:
        """The answer to each command, in order; an answer with `error` is returned, not raised. Raises GateError."""
        answers: list[Answer] = []
        async with self._lock:
            for start in range(0, len(commands), MAX_COMMANDS):
                answers += await self._exchange(commands[start : start + MAX_COMMANDS])
        return answers

    async def _exchange(self, commands: Sequence[Command]) -> list[Answer]:
        """One message and its answers; sent again when the connection is lost, since every command may be repeated."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while True:
                    await self.connected.wait()
                    with contextlib.suppress(aiomqtt.MqttError):
                        return await self._send(commands)
                    await asyncio.sleep(0)  # let the connection's own task notice the loss
        except TimeoutError as error:
            raise GateError("the broker did not answer in time") from error

    async def _send(self, commands: Sequence[Command]) -> list[Answer]:
        client = self._client
        if client is None:
            raise aiomqtt.MqttError("not connected")
        pending: dict[str, asyncio.Future[Answer]] = {}
        message = []
        for command in commands:
            self._number += 1
            key = f"{self._number:x}"
            pending[key] = asyncio.get_running_loop().create_future()
            message.append({**command, "correlationData": key})
        self._waiting |= pending
        sending: asyncio.Task[None] = asyncio.create_task(
            client.publish(TOPIC, json.dumps({"commands": message}), qos=0)
        )
        try:
            # aiomqtt's publish does not notice a lost connection; the answers' futures do.
            waited: list[asyncio.Future[Any]] = [sending, *pending.values()]
            await asyncio.wait(waited, return_when=asyncio.FIRST_EXCEPTION)
            if sending.done():
                sending.result()
            return [future.result() for future in pending.values()]
        finally:
            sending.cancel()
            for key, future in pending.items():
                del self._waiting[key]
                future.cancel()

    async def _one_connection(self) -> None:
        client = aiomqtt.Client(
            self._host,
            self._port,
            username=self._user,
            password=self._password.reveal().decode(),
            identifier=self._client_id,
            clean_session=True,
            keepalive=KEEPALIVE_S,
            timeout=CONNECT_TIMEOUT_S,
            max_queued_incoming_messages=1000,
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        )
        mend(client)
        try:
            async with client:
                heed_cancellation()
                await client.subscribe(ANSWERS, qos=1)
                heed_cancellation()
                self._client = client
                self.connects += 1
                self.connected.set()
                try:
                    async for message in client.messages:
                        self._answered(message.payload)
                finally:
                    self._lost()
        finally:
            close_socket(client)

    def _lost(self) -> None:
        self.connected.clear()
        self._client = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(aiomqtt.MqttError("the connection was lost"))

    def _answered(self, payload: object) -> None:
        try:
            answers = json.loads(payload)["responses"] if isinstance(payload, bytes | bytearray) else []
        except (ValueError, KeyError, TypeError):
            return
        for answer in answers:
            future = self._waiting.get(answer.get("correlationData", ""))
            if future is not None and not future.done():
                future.set_result(answer)
