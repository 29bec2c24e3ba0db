"""The refusals that operators meet, and how they name a device.

Owns the few words that every operation shares; no operation.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.errors import ServiceError
from service.storage.tables import device, meta

MAX_TEXT_CHARS = 128
MAX_OU_CHARS = 255


@dataclass(frozen=True, slots=True)
class DeviceName:
    group_id: str
    serial: str

    def __str__(self) -> str:
        return f"{self.group_id}/{self.serial}"


def bad_request(cause: str, public: str, detail: str = "") -> ServiceError:
    return ServiceError("BAD_REQUEST", public, cause=cause, detail=detail)


def field_refused(error: ValidationError, what: str = "argument") -> ServiceError:
    """Where and by which rule; never the value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:32] for part in first["loc"]) or "message"
    word = {"extra_forbidden": "is unknown", "missing": "is missing"}.get(first["type"], "is wrong")
    return bad_request("bad_argument", f"{what} {where} {word}", first["type"])


def not_found(cause: str, public: str, detail: str = "") -> ServiceError:
    return ServiceError("NOT_FOUND", public, cause=cause, detail=detail)


def conflict(cause: str, public: str, detail: str = "", **state: object) -> ServiceError:
    return ServiceError("CONFLICT", public, cause=cause, detail=detail, state=state or None)


def check_text(what: str, value: str, *, empty: bool = False) -> None:
    """Raise ServiceError unless it is 1-128 printable characters."""
    if len(value) > MAX_TEXT_CHARS or not value.isprintable() or (not value and not empty):
        raise bad_request("text_illegal", f"{what} must be 1 to {MAX_TEXT_CHARS} printable characters")


def check_placement(ou: str | None, environment: str | None) -> None:
    """Raise ServiceError for an OU or an environment that is not made of names."""
    if ou is not None and (len(ou) > MAX_OU_CHARS or not all(ids.is_group_id(part) for part in ou.split("/"))):
        raise bad_request("ou_illegal", "an OU is a path of names such as acme/emea/plant-7", ou[:80])
    if environment is not None and not ids.is_group_id(environment):
        raise bad_request("environment_illegal", "an environment is a name such as prod-eu", environment[:80])


def check_batch(batch: str) -> None:
    """Raise ServiceError unless it is a legal batch tag."""
    if not ids.is_group_id(batch):
        raise bad_request("batch_illegal", "a batch is 1 to 64 of A-Z a-z 0-9 . _ -", batch[:80])


def parse_device(text: str) -> tuple[str | None, str]:
    """Group (None for a bare serial) and serial of `GROUP/SERIAL` or `SERIAL`. Raises ServiceError."""
    group_id, slash, serial = text.rpartition("/")
    if not ids.is_serial(serial) or (slash and not ids.is_group_id(group_id)):
        raise bad_request("device_illegal", "name a device as GROUP/SERIAL or SERIAL", text[:80])
    return (group_id if slash else None), serial


async def find_device(connection: AsyncConnection, text: str) -> DeviceName:
    """The registered device of this name. Raises ServiceError: none, or several (with their names in `state`)."""
    group_id, serial = parse_device(text)
    query = select(device.c.group_id, device.c.serial).where(device.c.serial == serial).order_by(device.c.group_id)
    if group_id is not None:
        query = query.where(device.c.group_id == group_id)
    found = [DeviceName(*row) for row in await connection.execute(query)]
    if not found:
        raise not_found("device_unknown", f"no device {text}")
    if len(found) > 1:
        names = [str(one) for one in found]
        raise conflict("serial_ambiguous", f"several devices have this serial: {', '.join(names)}", candidates=names)
    return found[0]


async def raise_catalogue_rev(connection: AsyncConnection) -> None:
    """In the transaction of every change of groups, products, versions, targets or release keys."""
    await connection.execute(update(meta).where(meta.c.name == "catalogue_rev").values(value=meta.c.value + 1))
