"""A request that came over HTTP, on its way through the pipeline beside those from brokers.

Owns one request with its one answer. The pipeline takes it for a link that has a single message to bring and a single
one to take; from Admission on it meets the same checks, handlers, transactions and grants as any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from device_sdk.wire import codes
from service.errors import ServiceError
from service.mqtt.port import Role
from service.protocol import encode, http_schemas
from service.protocol.decode import JSON

CALL_TIMEOUT_S = 20.0  # longer than a hook and a grant may take together


class Call:
    """Implements mqtt/port.py's Link for one message. `owner` is a session or, `operational`, a credential id.

    Whoever makes one with a credential id has checked that the caller holds that credential.
    """

    environment = ""  # no broker brought it
    up = True

    def __init__(self, verb: str, owner: str, fields: Mapping[str, Any], trace_id: str, *, operational: bool) -> None:
        self.verb = verb
        self.owner = owner
        self.operational = operational
        self.role = Role.OPERATIONAL if operational else Role.BOOTSTRAP
        self.verbs = http_schemas.SERVING if operational else http_schemas.OPENING
        self.trace_id = trace_id
        self.payload = encode.pack({"id": "1", **fields}, JSON)
        self._answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    async def publish(self, topic: str, payload: bytes) -> None:  # noqa: ARG002
        self.answer(payload)

    def answer(self, payload: bytes | None) -> None:
        """The reply; None where a broker's message would be ignored. Whatever comes later is not looked at."""
        if not self._answer.done():
            self._answer.set_result(payload)

    async def reply(self) -> dict[str, Any]:
        """The fields of the reply; bytes in it are base64url. Raises ServiceError: what the pipeline says, in its words."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                payload = await self._answer
        except TimeoutError as error:
            raise ServiceError(
                codes.UNAVAILABLE, "no answer in time", cause="call_unanswered", retry_after_s=5
            ) from error
        if payload is None:
            raise ServiceError(codes.REFUSED, "refused", cause="call_ignored")
        reply = encode.unpack(payload)
        if reply["ok"]:
            return reply
        # The pipeline has counted and traced its own cause; this one is for the log of HTTP requests.
        raise ServiceError(
            reply["code"],
            reply["reason"],
            cause="call_refused",
            retry_after_s=reply.get("retry_after_s"),
            state=reply.get("state"),
        )
