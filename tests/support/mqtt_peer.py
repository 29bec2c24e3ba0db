"""The device by hand of pipeline_site, over real MQTT: what a test sends is exactly what the broker gets."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections import defaultdict
from typing import Self

from device_sdk.wire import keys, topics
from tests.bench.mini_mqtt import MiniClient
from tests.support import pipeline_site
from tests.support.site import ENVIRONMENT, GROUP, Site

WAIT_S = 20.0  # a service that waits for a locked database takes 5 s a time


class MqttPeer(pipeline_site.Peer):
    """`async with MqttPeer(site, serial)`. Connects to a space when it is first used there; `cut` ends that connection.

    `session` is random; set another one with `new_session` (the connection goes with it).
    """

    def __init__(
        self, site: Site, serial: str, group_id: str = GROUP, key: bytes | None = None, encoding: str = "msgpack"
    ) -> None:
        super().__init__(None, serial, group_id, key or site.keys.get((group_id, serial), bytes(32)), encoding)  # type: ignore[arg-type]
        ends = site.settings.environments[ENVIRONMENT].endpoints
        self._ends = {"b": ends.bootstrap, "c": ends.api_key}
        self._ca = site.settings.ca_dir(ENVIRONMENT) / "ca.pem"
        self._clients: dict[str, MiniClient] = {}
        self._inbox: dict[str, asyncio.Queue[bytes]] = defaultdict(asyncio.Queue)
        self.session = secrets.token_hex(16)
        self.nonce = secrets.token_bytes(16)
        self.server_nonce = b""
        self.everything: list[bytes] = []  # every payload received

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for space in [*self._clients]:
            await self.cut(space)

    @property
    def password(self) -> str:
        """The API key of the grant that was taken last."""
        return keys.api_key(self.key, self.nonce, self.server_nonce, self.grant["thing_id"], self.credential_id)

    async def client(self, space: str) -> MiniClient:
        """The connection to one space. Raises ConnectionError when the broker says no."""
        found = self._clients.get(space)
        if found is not None and not found.lost.done():
            return found
        end = self._ends[space]
        assert end is not None
        tls = ssl.create_default_context(cafile=str(self._ca)) if end.tls else None
        made = MiniClient(self._received)
        owner = self._owner(space)
        login = {} if space == "b" else {"username": owner, "password": self.password}
        await made.connect(end.host, end.port, owner, tls=tls, **login)
        await made.subscribe(topics.down_filter(space, owner))
        self._clients[space] = made
        return made

    def _received(self, topic: str, payload: bytes) -> None:
        self.everything.append(payload)
        self._inbox[topic].put_nowait(payload)

    async def cut(self, space: str) -> None:
        client = self._clients.pop(space, None)
        if client is not None:
            client.close()
            await client.lost

    async def new_session(self) -> None:
        await self.cut("b")
        self.session = secrets.token_hex(16)

    def _owner(self, space: str) -> str:
        return self.session if space == "b" else self.credential_id

    async def say(self, topic: str, payload: bytes, space: str = "b") -> None:
        (await self.client(space)).publish(topic, payload)

    async def heard(self, space: str, verb: str, within_s: float = WAIT_S) -> bytes:
        """The next payload on this space's dn/{verb}. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            return await self._inbox[topics.down(space, self._owner(space), verb)].get()

    async def ask_raw(self, space: str, verb: str, payload: bytes) -> bytes:
        await self.say(topics.up(space, self._owner(space), verb), payload, space)
        return await self.heard(space, verb)

    def activate_body(self, server_nonce: bytes, space: str = "b", **claim) -> dict:
        self.server_nonce = server_nonce
        return super().activate_body(server_nonce, space, **claim)
