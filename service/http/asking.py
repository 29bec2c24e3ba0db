"""Asking a running service how it is: the other end of health.py, for commands on the same machine."""

from __future__ import annotations

import http.client
import json
from typing import Any

ASK_TIMEOUT_S = 3.0
_MAX_ANSWER_BYTES = 1024 * 1024
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a service listens, not where we do


def ask(host: str, port: int, path: str) -> dict[str, Any] | None:
    """What the service's health endpoint answers; None where none of ours answers. Blocks up to a few seconds."""
    connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read(_MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) and answer.get("service") == "firstlight" else None
