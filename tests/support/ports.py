"""Free ports for servers that are started as processes: the one place where they are chosen."""

from __future__ import annotations

import contextlib
import secrets
import socket

FIRST, COUNT = 20_000, 12_000  # below those that the system gives to outgoing connections, which could take one first
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens; none is given twice by this process."""
    found: list[int] = []
    while len(found) < count:
        port = FIRST + secrets.randbelow(COUNT)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            _given.add(port)
            found.append(port)
    return found
