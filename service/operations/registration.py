"""Registering devices: checks of one registration, and a page of them in one transaction.

Owns what makes a registration legal for its group's key kind. Registering the same data again changes nothing and is
no error, so an import that was cut off is simply run again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from device_sdk.wire import ids, limits
from service.domain.catalogue import Catalogue
from service.domain.changes import Changes
from service.domain.device import Device, DeviceState, KeyAlgorithm, PublicKey
from service.domain.group import Group, KeyKind
from service.domain.identity import RANDOM_BYTES, uuid7
from service.domain.placement import check_bound
from service.errors import Secret, ServiceError
from service.operations import placing
from service.operations.requests import bad_request, check_placement, conflict, not_found
from service.storage.database import Database
from service.storage.store import SqlStore

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096  # a proof has at most 512 bytes
RandomBytes = Callable[[int], bytes]
# The y of edwards25519's eight points of order 1, 2, 4 and 8, in every encoding below 2**255 (RFC 8032, section 5.1.3).
_SMALL_ORDER = frozenset(
    {
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    }
)


# Of a refused registration, by its cause; of any other BAD_REQUEST.
CODES = {"group_unknown": "NOT_FOUND", "serial_conflict": "CONFLICT", "ou_bound": "CONFLICT"}


@dataclass(frozen=True, slots=True)
class Registration:
    """What is asked for one device. No key for kind individual: one is made."""

    group_id: str
    serial: str
    key: Secret | None = None
    public_keys: tuple[PublicKey, ...] = ()
    ou: str | None = None
    environment: str | None = None


class Result(StrEnum):
    REGISTERED = "registered"
    ALREADY_REGISTERED = "already_registered"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one registration. `new_key` is a key that was made for it; it can be seen this once only."""

    group_id: str
    serial: str
    result: Result
    cause: str | None = None
    reason: str | None = None
    new_key: Secret | None = None


def parse_key(text: str) -> Secret:
    """A device key from base64. Raises ServiceError BAD_REQUEST."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request("device_key_illegal", "the device key is not base64") from error
    if len(raw) != limits.DEVICE_KEY_BYTES:
        raise bad_request("device_key_illegal", f"a device key has {limits.DEVICE_KEY_BYTES} bytes, not {len(raw)}")
    if len(set(raw)) == 1:
        raise bad_request("device_key_illegal", "a device key of one repeated byte is no secret")
    return Secret(raw)


def parse_public_key(index: int, text: str) -> PublicKey:
    """A public key from base64 of its DER SubjectPublicKeyInfo. Raises ServiceError BAD_REQUEST."""
    try:
        loaded = load_der_public_key(base64.b64decode(text.strip(), validate=True))
    except (ValueError, UnsupportedAlgorithm) as error:  # binascii.Error is a ValueError
        raise bad_request("public_key_illegal", "a public key is base64 of its DER SubjectPublicKeyInfo") from error
    if not 0 <= index < limits.MAX_PUBLIC_KEYS:
        raise bad_request("public_key_illegal", f"a public key's index is 0 to {limits.MAX_PUBLIC_KEYS - 1}")
    if isinstance(loaded, Ed25519PublicKey):
        if _is_of_small_order(loaded):
            raise bad_request("public_key_illegal", "this Ed25519 key is one whose signatures anybody can make")
        algorithm = KeyAlgorithm.ED25519
    elif isinstance(loaded, EllipticCurvePublicKey) and isinstance(loaded.curve, SECP256R1):
        algorithm = KeyAlgorithm.ECDSA_P256
    elif isinstance(loaded, RSAPublicKey) and MIN_RSA_BITS <= loaded.key_size <= MAX_RSA_BITS:
        algorithm = KeyAlgorithm.RSA_PSS
    else:
        raise bad_request("public_key_illegal", "a public key is Ed25519, ECDSA P-256 or RSA of 2048 to 4096 bits")
    return PublicKey(index, algorithm, loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _is_of_small_order(key: Ed25519PublicKey) -> bool:
    """Whether some signature under it holds for every message; the sign of x makes no difference."""
    raw = bytearray(key.public_bytes_raw())
    raw[-1] &= 0x7F
    return raw.hex() in _SMALL_ORDER


async def register(database: Database, asked: Registration, *, now: datetime, random_bytes: RandomBytes) -> Outcome:
    """Register one device. Raises ServiceError BAD_REQUEST, NOT_FOUND, CONFLICT."""
    (outcome,) = await register_page(database, [asked], now=now, random_bytes=random_bytes)
    if outcome.result is Result.ERROR:
        code = CODES.get(outcome.cause or "", "BAD_REQUEST")
        raise ServiceError(code, outcome.reason or "", cause=outcome.cause or "")
    return outcome


async def register_page(
    database: Database, page: Sequence[Registration], *, now: datetime, random_bytes: RandomBytes
) -> list[Outcome]:
    """Register a page of devices in one transaction; one outcome for each, in order.

    A wrong one is an outcome, not an error; returns after the commit. Raises ServiceError UNAVAILABLE only.
    """
    async with SqlStore(database, {}).batch() as batch:
        names = [(one.group_id, one.serial) for one in page if ids.is_serial(one.serial)]
        known = dict((await batch.load(serials=names)).by_serial)
        outcomes, new = decide(batch.catalogue, page, known, now, random_bytes)
        if new:
            await batch.save(
                Changes(
                    devices=tuple((None, device) for device in new),
                    events=placing.registered(new, batch.catalogue, now),
                    counters={"device_registered": len(new)},
                )
            )
    return outcomes


def decide(
    catalogue: Catalogue,
    page: Sequence[Registration],
    known: dict[tuple[str, str], Device],
    now: datetime,
    random_bytes: RandomBytes,
) -> tuple[list[Outcome], list[Device]]:
    """One outcome for each, in order, and the devices to store. `known`: those of these names; new ones are added."""
    outcomes: list[Outcome] = []
    new: list[Device] = []
    for asked in page:
        name = (asked.group_id, asked.serial)
        try:
            group = catalogue.groups.get(asked.group_id)
            if group is None:
                raise not_found("group_unknown", f"no group {asked.group_id[: limits.MAX_GROUP_ID_CHARS]!r}")
            check(group, asked)
            if name in known:
                _check_same(known[name], asked)
                outcomes.append(Outcome(*name, Result.ALREADY_REGISTERED))
                continue
            check_bound(catalogue, asked.ou or group.default_ou, asked.environment)
            full, made = _with_key(group, asked, random_bytes)
        except ServiceError as error:
            outcomes.append(Outcome(*name, Result.ERROR, error.cause, error.public))
            continue
        device = _device(full, now, random_bytes)
        known[name] = device
        new.append(device)
        outcomes.append(Outcome(*name, Result.REGISTERED, new_key=made))
    return outcomes, new


def check(group: Group, asked: Registration) -> None:
    """Raise ServiceError unless this registration suits the group's key kind."""
    if not ids.is_serial(asked.serial):
        raise bad_request("serial_illegal", "a serial is 1 to 128 of A-Z a-z 0-9 . _ : -")
    check_placement(asked.ou, asked.environment)
    if asked.key is not None and group.key_kind is not KeyKind.INDIVIDUAL:
        raise bad_request(
            "device_key_needless", f"devices of key kind {group.key_kind.value} have no key of their own here"
        )
    if asked.public_keys and group.key_kind is not KeyKind.PUBLIC_KEY:
        raise bad_request("public_key_needless", f"devices of key kind {group.key_kind.value} have no public keys")
    if group.key_kind is KeyKind.PUBLIC_KEY:
        indexes = [key.index for key in asked.public_keys]
        if not 1 <= len(indexes) <= limits.MAX_PUBLIC_KEYS or len(set(indexes)) != len(indexes):
            raise bad_request(
                "public_key_count", "a device of this group has 1 to 8 public keys with different indexes"
            )


def _check_same(device: Device, asked: Registration) -> None:
    same = (
        (asked.key is None or asked.key == device.key)
        and asked.ou == device.ou
        and asked.environment == device.environment
        and sorted(asked.public_keys, key=lambda key: key.index) == list(device.public_keys)
    )
    if not same:
        raise conflict("serial_conflict", "this serial is registered with other data")


def _with_key(group: Group, asked: Registration, random_bytes: RandomBytes) -> tuple[Registration, Secret | None]:
    if group.key_kind is not KeyKind.INDIVIDUAL or asked.key is not None:
        return asked, None
    made = Secret(random_bytes(limits.DEVICE_KEY_BYTES))
    return replace(asked, key=made), made


def _device(asked: Registration, now: datetime, random_bytes: RandomBytes) -> Device:
    return Device(
        device_id=uuid7(now, random_bytes(RANDOM_BYTES)),
        group_id=asked.group_id,
        serial=asked.serial,
        state=DeviceState.REGISTERED,
        registered_at=now,
        key=asked.key,
        public_keys=tuple(sorted(asked.public_keys, key=lambda key: key.index)),
        ou=asked.ou,
        environment=asked.environment,
    )
