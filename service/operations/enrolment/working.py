"""What jobs and daemons of enrolment work with. Values only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from service.errors import Secret
from service.storage.database import Database

# POST one JSON document to a provider, with its token: status and body. Raises AskError.
Ask = Callable[[str, bytes, Secret | None], Awaitable[tuple[int, bytes]]]


class AskError(Exception):
    """The provider could not be reached, or did not answer in time; the text is one line."""


@dataclass(frozen=True, slots=True)
class Working:
    database: Database
    folder: Path  # inbox, outbox and the rest lie below it, and our key
    ask: Ask
    clock: Callable[[], datetime]
    random_bytes: Callable[[int], bytes]
    config: Mapping[str, Any]

    def new_id(self) -> str:
        return self.random_bytes(16).hex()
