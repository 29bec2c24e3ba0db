"""What a demo is asked for, and how its words on the command line are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

MIN_IMAGE_BYTES = 1
MAX_IMAGE_BYTES = 1024**3
MAX_DEVICES = 900  # each is a connection, and an embedded broker takes 1000
_UNITS = {"": 1, "b": 1, "k": 1024, "kib": 1024, "kb": 1000, "m": 1024**2, "mib": 1024**2, "mb": 1000**2}
_UNITS |= {"g": 1024**3, "gib": 1024**3, "gb": 1000**3}


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that somebody else runs, without TLS or login: for trials."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class DemoOptions:
    devices: int = 20
    image_bytes: int = 2 * 1024**2
    timeout_s: float = 300.0
    broker: RunningBroker | None = None


def parse_size(text: str) -> int:
    """Bytes of "2MiB", "512 KiB", "4096", "1MB". Raises ValueError outside 1 byte..1 GiB."""
    found = re.fullmatch(r"\s*(\d{1,12})\s*([A-Za-z]{0,3})\s*", text)
    unit = _UNITS.get(found.group(2).lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"{text!r} is no size; write for example 2MiB")
    size = int(found.group(1)) * unit
    if not MIN_IMAGE_BYTES <= size <= MAX_IMAGE_BYTES:
        raise ValueError("an image has 1 byte to 1 GiB")
    return size


def parse_broker(text: str) -> RunningBroker:
    """Host and port of "mqtt://host:port". Raises ValueError for anything else."""
    try:
        parts = urlsplit(text)
        port = parts.port or 1883
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    if parts.scheme != "mqtt" or not parts.hostname or parts.username or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"{text!r} is not of the form mqtt://host:port")
    return RunningBroker(parts.hostname, port)
