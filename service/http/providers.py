"""How an enrolment provider is asked: one JSON document by POST over HTTPS, with its token.

Owns the bounds: time, size of the answer, no redirect, no proxy of the environment. Whom to ask what stands in
operations/enrolment.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
from urllib.parse import urlsplit

from service.errors import Secret
from service.operations.enrolment.working import AskError

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024


async def ask(url: str, body: bytes, secret: Secret | None) -> tuple[int, bytes]:
    """Status and body of the answer. Raises AskError."""
    try:
        async with asyncio.timeout(TIMEOUT_S * 2):  # whatever trickles
            return await asyncio.to_thread(_ask, url, body, secret)
    except TimeoutError as error:
        raise AskError(f"no answer within {TIMEOUT_S:g} s") from error


def _ask(url: str, body: bytes, secret: Secret | None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise AskError("the url is no address")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
    if secret is not None:
        headers["Authorization"] = f"Bearer {secret.reveal().decode('ascii')}"
    try:
        connection.request("POST", parts.path or "/", body, headers)
        answer = connection.getresponse()
        data = answer.read(MAX_ANSWER_BYTES + 1)
    except (OSError, ssl.SSLError, http.client.HTTPException, ValueError) as error:
        raise AskError(f"{parts.hostname}: {type(error).__name__}") from error
    finally:
        connection.close()
    if len(data) > MAX_ANSWER_BYTES:
        raise AskError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    if answer.length:
        raise AskError("the answer broke off")
    if 300 <= answer.status < 400:
        raise AskError("it answers with a redirect, which is not followed")
    return answer.status, data
