"""A record of every reply that virtual devices received, for those who check afterwards what the service promised.

Owns the transport that listens in on one device's links. It decides nothing and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from device_sdk.core.actions import Connect
from device_sdk.core.identity import Identity
from device_sdk.drivers.aio import Link, Transport
from device_sdk.drivers.crypto import FullCrypto
from device_sdk.wire import keys, limits, topics
from device_sdk.wire.packer import unpackb

_MAX_OPEN = 16  # requests of which something is remembered until their reply comes
_NUMBERED = ("/up/online", "/up/report")


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as it arrived. `owner` is the session or credential of its topic.

    `proven`: for `activate` whether `server_proof` fits, with the grant's `thing_id` and `credential_id`; for the verbs
    of a credential True, because only its holder receives there, and `credential_id` is the owner. `numbers`: the
    (boot_count, n) of the request that it answers, where it had them.
    """

    group_id: str
    serial: str
    space: str
    owner: str
    verb: str
    id: str
    ok: bool
    code: str | None
    thing_id: str | None
    credential_id: str | None
    proven: bool
    at: float
    numbers: tuple[int, int] | None = None


class RecordingTransport:
    """Hands every reply of one device to `sink`, in the order of arrival, before the device sees it."""

    def __init__(self, inner: Transport, identity: Identity, sink: Callable[[Reply], None], root: str) -> None:
        self._inner = inner
        self._identity = identity
        self._sink = sink
        self._root = root
        self._claims: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, tuple[int, int]] = {}  # by the id of the request

    @asynccontextmanager
    async def open(self, connect: Connect) -> AsyncIterator[Link]:
        async with self._inner.open(connect) as inner:
            yield _RecordingLink(inner, self)

    def sent(self, topic: str, payload: bytes) -> None:
        if topic.endswith("/up/activate"):
            request = unpackb(payload)
            self._claims[request["id"]] = request
            _forget_oldest(self._claims)
        elif topic.endswith(_NUMBERED):
            request = unpackb(payload)
            self._numbers[request["id"]] = (request["boot_count"], request["n"])
            _forget_oldest(self._numbers)

    def arrived(self, topic: str, payload: bytes) -> None:
        place = topics.parse(topic, self._root)
        if place is None or place[3] == "chunk":
            return
        try:
            reply = unpackb(payload)
        except ValueError:
            return
        if isinstance(reply, dict) and isinstance(reply.get("ok"), bool):
            self._sink(self._reply(place[0], place[1], place[3], reply))

    def _reply(self, space: str, owner: str, verb: str, reply: dict[str, Any]) -> Reply:
        thing_id = None
        credential_id = owner if space == topics.OPERATIONAL else None
        proven = space == topics.OPERATIONAL
        if verb == "activate" and reply["ok"]:
            thing_id, credential_id, proven = self._granted(owner, reply)
        return Reply(
            group_id=self._identity.group_id,
            serial=self._identity.serial,
            space=space,
            owner=owner,
            verb=verb,
            id=str(reply.get("id")),
            ok=reply["ok"],
            code=reply.get("code"),
            thing_id=thing_id,
            credential_id=credential_id,
            proven=proven,
            at=time.monotonic(),
            numbers=self._numbers.get(str(reply.get("id"))) if space == topics.OPERATIONAL else None,
        )

    def _granted(self, session: str, reply: dict[str, Any]) -> tuple[str | None, str | None, bool]:
        request = self._claims.get(reply.get("id", ""))
        key = self._identity.key
        if request is None or key is None:
            return None, None, False
        try:
            grant = unpackb(reply["grant"])
            proof = keys.activated_proof(
                key,
                session,
                request["server_nonce"],
                request["claim"],
                reply["grant"],
                FullCrypto().hmac_sha256,
            )
            return grant["thing_id"], grant["credential_id"], keys.same(proof, reply["server_proof"])
        except (ValueError, KeyError, TypeError):
            return None, None, False


def _forget_oldest(kept: dict[str, Any]) -> None:
    while len(kept) > _MAX_OPEN:
        kept.pop(next(iter(kept)))


class _RecordingLink:
    def __init__(self, inner: Link, record: RecordingTransport) -> None:
        self._inner = inner
        self._record = record

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        self._record.sent(topic, payload)
        self._inner.publish(topic, payload, qos)

    async def receive(self) -> list[tuple[str, bytes]]:
        batch = await self._inner.receive()
        for topic, payload in batch:
            if len(payload) <= limits.MAX_PAYLOAD_BYTES:
                self._record.arrived(topic, payload)
        return batch
