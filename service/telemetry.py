"""What the service says of itself: log lines, as text or JSON, without secrets.

Owns the log format and the mask. Counters live with what they count; the health endpoint shows them. Every record may
carry `extra={"trace": ...}` and other plain fields: they stand beside the message, never inside it.
"""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from service.errors import Secret

MAX_FIELD_CHARS = 500  # a peer's text in a log line; more is cut
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class MaskFilter(logging.Filter):
    """Takes secrets out of a record before any handler formats it.

    1. A `Secret` shows as `***` by itself; bytes, which may hold keys or payloads, show as their length only.
    2. The service's own secrets (few, given at start) are also replaced where a library put them into a text.
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        super().__init__()
        self._texts = sorted(
            {text for secret in secrets for text in _spellings(secret.reveal())}, key=len, reverse=True
        )

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, dict):
            record.args = {key: _safe(value) for key, value in record.args.items()}
        elif record.args:
            record.args = tuple(_safe(value) for value in record.args)
        for name in record.__dict__.keys() - _STANDARD:
            record.__dict__[name] = _safe(record.__dict__[name])
        return True

    def mask(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, "***")
        return text


class _Formatter(logging.Formatter):
    def __init__(self, mask: MaskFilter) -> None:
        super().__init__()
        self._mask = mask

    def _parts(self, record: logging.LogRecord) -> tuple[str, str, dict[str, Any], str | None]:
        """(time, message, extra fields, exception) of a record; nothing of it spans lines by a peer's doing."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {k: v for k, v in record.__dict__.items() if k not in _STANDARD and not k.startswith("_")}
        exception = self.formatException(record.exc_info) if record.exc_info else None
        return at, record.getMessage(), fields, exception


class JsonFormatter(_Formatter):
    """One JSON object per line: time, level, logger, message, the extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        at, message, fields, exception = self._parts(record)
        line = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": message, **fields}
        if exception is not None:
            line["exception"] = exception
        return self._mask.mask(json.dumps(line, default=str, ensure_ascii=True))


class TextFormatter(_Formatter):
    """For people: time, level, message and the extra fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        at, message, fields, exception = self._parts(record)
        beside = "".join(f" {name}={value}" for name, value in fields.items() if value not in (None, ""))
        line = f"{at} {record.levelname.lower():7} {_printable(message + beside)}"
        return self._mask.mask(line if exception is None else f"{line}\n{exception}")


def set_up_logging(
    style: Literal["json", "text"], level: str, *, secrets: Iterable[Secret] = (), stream: TextIO | None = None
) -> logging.Handler:
    """Send every log line of this process to `stream` (standard error) in one format. Returns the handler made."""
    mask = MaskFilter(secrets)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(mask)
    handler.setFormatter(JsonFormatter(mask) if style == "json" else TextFormatter(mask))
    root = logging.getLogger()
    for old in [*root.handlers]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for noisy in ("asyncio", "aiosqlite", "sqlalchemy", "alembic", "transitions"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It logs the exceptions that it raises as well; a port in use is one line, said by whoever catches it.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.captureWarnings(capture=True)
    return handler


def _safe(value: object) -> object:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {str(key): _safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_safe(item) for item in value]
    if isinstance(value, str) and len(value) > MAX_FIELD_CHARS:
        return value[:MAX_FIELD_CHARS] + "..."
    return value


def _printable(text: str) -> str:
    """Control characters escaped, so that what a peer sent cannot write a line of its own."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _spellings(raw: bytes) -> list[str]:
    """How a secret of these bytes might stand in a text: as is, in hex, in both base64 alphabets."""
    texts = [raw.hex(), base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")]
    if raw.isascii() and raw.decode("ascii").isprintable():
        texts.append(raw.decode("ascii"))
    return [text for text in texts if len(text) >= 8]
