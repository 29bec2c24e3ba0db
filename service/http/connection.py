"""One HTTP connection: uvicorn's on h11, with the bounds that it does not have.

Owns how many connections there are, how long a request's head may take, and how long a client may not read. What is
over its bound is cut off: such a client has not earned an answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S = 10.0  # from the connection, or the first byte of a further request, to the end of its head
STALLED_TIMEOUT_S = 60.0  # that a client reads nothing of what it asked for
MAX_HEAD_BYTES = 1024 * 1024 + 64 * 1024  # a query may be as long as a body


def connection_class(max_connections: int) -> type[H11Protocol]:
    """The class for uvicorn, with this bound on connections."""
    return type("BoundedConnection", (Connection,), {"max_connections": max_connections})


class Connection(H11Protocol):
    max_connections = 512

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stalled_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_timer = self.loop.call_later(STALLED_TIMEOUT_S, self.abort)

    def resume_writing(self) -> None:
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()
            self._stalled_timer = None
        super().resume_writing()

    def abort(self) -> None:
        """End it at once, with whatever is under way."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, in our form; there is no request yet, so there is no trace."""
        del msg
        body = json.dumps({"code": "BAD_REQUEST", "reason": "not an HTTP/1.1 request", "trace": ""}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._stalled_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stalled_timer = None
