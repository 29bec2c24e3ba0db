"""A thing: the logical asset that survives a replacement. Values only. Source: docs/protocol.md, words and section 7."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Thing:
    thing_id: str
    group_id: str
    product_id: str
    name: str
    ou: str
    environment: str
    holder_device_id: str
    created_at: datetime
    successor_device_id: str | None = None
    installed_version_id: str | None = None
