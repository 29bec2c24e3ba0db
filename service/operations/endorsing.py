"""Endorsements: a release key vouches for another one, so that devices follow. Made offline, kept with the key.

Owns the endorsement file (JSON) and the rows. What a device makes of it: device_sdk/core/release_keys.py.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.domain.product import Endorsement
from service.operations.requests import bad_request, not_found, raise_catalogue_rev
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.tables import endorsement, release_key

FORMAT = "firstlight release key endorsement 1"
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64


def endorse(public_key: bytes, by: Ed25519PrivateKey) -> Endorsement:
    """Offline: the key `by` vouches for the key of these 32 raw bytes. Raises ServiceError BAD_REQUEST: for itself."""
    own = by.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    if own == public_key:
        raise bad_request("endorsement_own", "a release key cannot endorse itself")
    return Endorsement(public_key, ids.release_key_id(own), by.sign(ids.endorsement_message(public_key)))


def to_json(one: Endorsement) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "public_key": base64.b64encode(one.public_key).decode("ascii"),
            "key_id": ids.release_key_id(one.public_key),
            "by": one.by,
            "signature": base64.b64encode(one.signature).decode("ascii"),
        },
        indent=2,
    )


def parse(text: bytes) -> Endorsement:
    """What an endorsement file says, its form checked but not its truth. Raises ServiceError BAD_REQUEST."""
    try:
        data = json.loads(text)
        form, by = data["format"], data["by"]
        public_key = base64.b64decode(data["public_key"], validate=True)
        signature = base64.b64decode(data["signature"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise _malformed() from error
    if form != FORMAT or len(public_key) != _KEY_BYTES or len(signature) != _SIGNATURE_BYTES:
        raise _malformed()
    if not isinstance(by, str) or not ids.is_hex_id(by):
        raise _malformed()
    return Endorsement(public_key, by, signature)


async def add(database: Database, one: Endorsement, *, now: datetime) -> bool:
    """Keep an endorsement of a registered key; False when it is there already.

    Raises ServiceError NOT_FOUND: one of both keys is not registered; BAD_REQUEST: it does not verify.
    """
    async with database.write() as transaction:
        fresh = await add_rows(transaction.connection, ids.release_key_id(one.public_key), [one], now)
        if not fresh:
            transaction.abandon()
            return False
        await raise_catalogue_rev(transaction.connection)
    return True


async def add_rows(connection: AsyncConnection, key_id: str, given: Sequence[Endorsement], now: datetime) -> int:
    """Keep endorsements of one registered key; returns how many are new. Raises ServiceError as `add`.

    A retired key may vouch: a device that knows no newer one has to come over it. Whoever adds keys here is an
    operator; what a device believes is its own to check.
    """
    of = release_key.c
    keys = {row.key_id: row.public_key for row in await connection.execute(select(of.key_id, of.public_key))}
    there = select(endorsement.c.by_key_id).where(endorsement.c.key_id == key_id)
    known = set((await connection.execute(there)).scalars())
    fresh = 0
    for one in given:
        # 1. It is about this key, and about keys that are registered.
        if ids.release_key_id(one.public_key) != key_id:
            raise bad_request("endorsement_other", "the endorsement is for another key")
        if key_id not in keys or one.by not in keys:
            raise not_found(
                "release_key_unknown", f"no release key {one.by if key_id in keys else key_id} is registered"
            )
        # 2. It verifies.
        try:
            Ed25519PublicKey.from_public_bytes(keys[one.by]).verify(
                one.signature, ids.endorsement_message(one.public_key)
            )
        except (InvalidSignature, ValueError) as error:
            raise bad_request("endorsement_wrong", "the endorsement does not verify") from error
        if one.by == key_id:
            raise bad_request("endorsement_own", "a release key cannot endorse itself")
        if one.by not in known:
            row = {"key_id": key_id, "by_key_id": one.by, "signature": one.signature, "added_at": to_ms(now)}
            await connection.execute(insert(endorsement), [row])
            known.add(one.by)
            fresh += 1
    return fresh


async def by_key(connection: AsyncConnection) -> dict[str, tuple[str, ...]]:
    """Key id -> the ids of those that endorse it."""
    of = endorsement.c
    found: dict[str, tuple[str, ...]] = {}
    for row in await connection.execute(select(of.key_id, of.by_key_id).order_by(of.key_id, of.by_key_id)):
        found[row[0]] = (*found.get(row[0], ()), row[1])
    return found


def _malformed() -> Exception:
    return bad_request("endorsement_malformed", "this is not an endorsement of a release key")
