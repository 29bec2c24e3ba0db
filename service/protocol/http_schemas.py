"""The requests of a device that speaks HTTP: those of the wire protocol, without the numbers that count its messages.

A PUT may be repeated by itself, so there is nothing to count. Source: docs/partners/things.md.
"""

from __future__ import annotations

from service.protocol.schemas import (
    Activate,
    Current,
    GroupId,
    Hello,
    HexId,
    Id,
    Int,
    Model,
    Name,
    Serial,
    Target,
)


class HttpActivate(Activate):
    """`serial` and `group_id` as the address has them; the claim must say the same."""

    serial: Serial
    group_id: GroupId | None = None


class HttpFetch(Model):
    """May this version be fetched? The bytes go their own way."""

    id: Id
    version_id: HexId


class HttpInstalled(Model):
    id: Id
    version_id: HexId
    boot_count: Int | None = None
    n: None = None


class HttpRename(Model):
    id: Id
    name: Name
    boot_count: None = None
    n: None = None


OPENING: dict[str, type[Model]] = {"hello": Hello, "http-activate": HttpActivate}
SERVING: dict[str, type[Model]] = {
    "target": Target,
    "current": Current,
    "http-fetch": HttpFetch,
    "installed": HttpInstalled,
    "rename": HttpRename,
}
