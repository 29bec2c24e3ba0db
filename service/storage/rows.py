"""Between rows and domain values: the one place that knows which column is which field.

Owns the conversions of devices, things and credentials, in both directions; does no query. Rows come in
as positional tuples in the column order of tables.py, because a batch reads thousands. The catalogue (groups, products,
versions, release keys) is in catalogue_rows.py; events and traces are in history_rows.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from service.domain.credential import Credential, CredentialKind, CredentialState
from service.domain.device import Device, DeviceState, Firmware, FirmwareState, KeyAlgorithm, PublicKey
from service.domain.group import MoveMethod
from service.domain.thing import Move, Thing
from service.errors import Secret
from service.storage.sealing import Sealer, device_key_aad

Row = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
# A dictionary look-up is four times quicker than calling the enum, and a batch makes thousands of them.
_DEVICE_STATES = {state.value: state for state in DeviceState}
_FIRMWARE_STATES = {state.value: state for state in FirmwareState}
_CREDENTIAL_KINDS = {kind.value: kind for kind in CredentialKind}
_CREDENTIAL_STATES = {state.value: state for state in CredentialState}
_NO_FIRMWARE = Firmware()


_CREDENTIAL_FIELDS = tuple(field.name for field in fields(Credential))  # its columns are named as its fields
_credential_values = attrgetter(*_CREDENTIAL_FIELDS)


def difference(old: Credential, new: Credential) -> Row:
    """The columns in which two credentials differ, as the new one has them."""
    changed: Row = {}
    for name, was, now in zip(_CREDENTIAL_FIELDS, _credential_values(old), _credential_values(new), strict=True):
        if was is not now and was != now:
            changed[name] = to_ms(now) if isinstance(now, datetime) else now
    return changed


def device_difference(old: Device, new: Device) -> Row:
    """The columns in which two devices differ, but for key, public keys, thing and credentials."""
    before, after = device_row(old), device_row(new)
    return {name: value for name, value in after.items() if value != before[name]}


def thing_difference(old: Thing, new: Thing) -> Row:
    before, after = thing_row(old), thing_row(new)
    return {name: value for name, value in after.items() if value != before[name]}


def json_of(value: Mapping[str, object]) -> str:
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":")) if value else "{}"


def map_of(text: str) -> dict[str, Any]:
    return {} if text == "{}" else dict(json.loads(text))


def to_ms(at: datetime | None) -> int | None:
    """Milliseconds since the epoch; what is finer is cut off. Naive times raise TypeError."""
    return None if at is None else (at - _EPOCH) // _MS


def from_ms(ms: int | None) -> datetime | None:
    return None if ms is None else _EPOCH + timedelta(milliseconds=ms)


def time_of(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def device_row(device: Device) -> Row:
    """All columns but the sealed key."""
    firmware = device.firmware
    return {
        "device_id": device.device_id,
        "group_id": device.group_id,
        "serial": device.serial,
        "state": device.state.value,
        "registered_at": to_ms(device.registered_at),
        "ou": device.ou,
        "environment": device.environment,
        "boot_count": device.boot_count,
        "model": device.model,
        "caps": json.dumps(device.caps) if device.caps else "[]",
        "fw_state": firmware.state.value if firmware.state else None,
        "fw_version_id": firmware.version_id,
        "fw_progress": firmware.progress,
        "fw_cause": firmware.cause,
        "fw_installing_boot_count": firmware.installing_boot_count,
        "fw_confirmed_seq": firmware.confirmed_seq,
        "fw_reported_at": to_ms(firmware.reported_at),
        "batch": device.batch,
        "attributes": json_of(device.attributes),
        "frozen": device.frozen,
        "replaced_by": device.replaced_by,
        "tries": json_of(device.tries),
        "releases": device.releases,
        "clone_signs": device.clone_signs,
        "clone_at": to_ms(device.clone_at),
        "rekey": device.rekey,
        "fw_since": to_ms(firmware.since),
        "fw_notified": firmware.notified,
        "fw_deferred_until": to_ms(firmware.deferred_until),
        "fw_deferred_reason": firmware.deferred_reason,
        "secret_generation": device.secret_generation,
        "retire_deadline_at": to_ms(device.retire_deadline_at),
        "retired_reason": device.retired_reason,
        "rekey_deadline_at": to_ms(device.rekey_deadline_at),
        "rekey_command_id": device.rekey_command_id,
    }


def sealed_key(device: Device, sealer: Sealer) -> bytes | None:
    if device.key is None:
        return None
    return sealer.seal(device.key.reveal(), device_key_aad(device.device_id))


def public_key_rows(device: Device) -> list[Row]:
    return [
        {"device_id": device.device_id, "key_index": key.index, "algorithm": key.algorithm.value, "spki": key.spki}
        for key in device.public_keys
    ]


def thing_row(thing: Thing) -> Row:
    return {
        "thing_id": thing.thing_id,
        "group_id": thing.group_id,
        "product_id": thing.product_id,
        "name": thing.name,
        "ou": thing.ou,
        "environment": thing.environment,
        "holder_device_id": thing.holder_device_id,
        "created_at": to_ms(thing.created_at),
        "successor_device_id": thing.successor_device_id,
        "installed_version_id": thing.installed_version_id,
        "attributes": json_of(thing.attributes),
        "settings": json_of(thing.settings),
        "settings_rev": thing.settings_rev,
        "settings_reported_rev": thing.settings_reported_rev,
        "settings_state": thing.settings_state,
        "rev": thing.rev,
        "target_version_id": thing.target_version_id,
        "successor_deadline_at": to_ms(thing.successor_deadline_at),
        "successor_command_id": thing.successor_command_id,
        "home_environment": thing.home_environment,
        "failover_at": to_ms(thing.failover_at),
        **_move_row(thing.move),
        "number": thing.number,
        "home_ou": thing.home_ou,
    }


def _move_row(move: Move | None) -> Row:
    return {
        "move_ou": move.ou if move else None,
        "move_environment": move.environment if move else None,
        "move_method": move.method.value if move else None,
        "move_started_at": to_ms(move.started_at) if move else None,
        "move_deadline_at": to_ms(move.deadline_at) if move else None,
        "move_command_id": move.command_id if move else None,
        "move_announced": move.announced if move else False,
    }


def credential_row(one: Credential) -> Row:
    return {
        "credential_id": one.credential_id,
        "device_id": one.device_id,
        "kind": one.kind.value,
        "state": one.state.value,
        "environment": one.environment,
        "created_at": to_ms(one.created_at),
        "expires_at": to_ms(one.expires_at),
        "boot_count": one.boot_count,
        "nonce": one.nonce,
        "server_nonce": one.server_nonce,
        "grant": one.grant,
        "encoding": one.encoding,
        "api_key_sha256": one.api_key_sha256,
        "certificate_pem": one.certificate_pem,
        "certificate_serial": one.certificate_serial,
        "spki_sha256": one.spki_sha256,
        "certificate_expires_at": to_ms(one.certificate_expires_at),
        "confirmed_at": to_ms(one.confirmed_at),
        "dropped_at": to_ms(one.dropped_at),
        "drop_cause": one.drop_cause,
        "revoked_at": to_ms(one.revoked_at),
        "last_boot_count": one.last_boot_count,
        "last_n": one.last_n,
        "last_reply": one.last_reply,
        "desired_rev": one.desired_rev,
        "desired_doc": one.desired_doc,
        "held_at": to_ms(one.held_at),
        "awaits_operator": one.awaits_operator,
        "approved": one.approved,
        "last_heard_at": to_ms(one.last_heard_at),
        "rekey": one.rekey,
        "renewed_from": one.renewed_from,
        "heard_rev": one.heard_rev,
        "first_n": one.first_n,
        "first_id": one.first_id,
    }


def device_of(
    row: Sequence[Any],
    public_keys: str | None,
    thing: Thing | None,
    credentials: tuple[Credential, ...],
    sealer: Sealer,
) -> Device:
    """From a row of `device` and what belongs to it; `public_keys` is a JSON array of [index, algorithm, SPKI hex]."""
    (device_id, group_id, serial, state, registered_at, key_sealed, ou, environment, boot_count, model, caps, *rest) = (
        row
    )
    fw, rest, last = [*rest[:7], *rest[16:20]], rest[7:16], rest[20:]
    secret_generation, retire_deadline_at, retired_reason, rekey_deadline_at, rekey_command_id = last
    (batch, attributes, frozen, replaced_by, tries, releases, clone_signs, clone_at, rekey) = rest
    return Device(
        device_id=device_id,
        group_id=group_id,
        serial=serial,
        state=_DEVICE_STATES[state],
        registered_at=time_of(registered_at),
        key=None if key_sealed is None else Secret(sealer.open(key_sealed, device_key_aad(device_id))),
        public_keys=() if not public_keys or public_keys == "[]" else public_keys_of(public_keys),
        ou=ou,
        environment=environment,
        boot_count=boot_count,
        model=model,
        caps=() if caps == "[]" else tuple(json.loads(caps)),
        firmware=_firmware_of(fw),
        thing=thing,
        credentials=credentials,
        batch=batch,
        attributes=map_of(attributes),
        frozen=bool(frozen),
        replaced_by=replaced_by,
        tries=map_of(tries),
        releases=releases,
        clone_signs=clone_signs,
        clone_at=from_ms(clone_at),
        rekey=bool(rekey),
        secret_generation=secret_generation,
        retire_deadline_at=from_ms(retire_deadline_at),
        retired_reason=retired_reason,
        rekey_deadline_at=from_ms(rekey_deadline_at),
        rekey_command_id=rekey_command_id,
    )


def public_keys_of(text: str) -> tuple[PublicKey, ...]:
    return tuple(
        PublicKey(index, KeyAlgorithm(algorithm), bytes.fromhex(spki))
        for index, algorithm, spki in sorted(json.loads(text))
    )


def _firmware_of(row: Sequence[Any]) -> Firmware:
    state, version_id, progress, cause, installing_boot_count, confirmed_seq, reported_at, *life = row
    since, notified, deferred_until, deferred_reason = life
    if reported_at is None and state is None and version_id is None and not confirmed_seq:
        return _NO_FIRMWARE
    return Firmware(
        state=None if state is None else _FIRMWARE_STATES[state],
        version_id=version_id,
        progress=progress,
        cause=cause,
        installing_boot_count=installing_boot_count,
        confirmed_seq=confirmed_seq,
        reported_at=from_ms(reported_at),
        since=from_ms(since),
        notified=notified,
        deferred_until=from_ms(deferred_until),
        deferred_reason=deferred_reason,
    )


def thing_of(row: Sequence[Any]) -> Thing:
    (thing_id, group_id, product_id, name, ou, environment, holder, created_at, successor, installed, *rest) = row
    (attributes, settings, settings_rev, settings_reported_rev, settings_state, rev, target, *rest) = rest
    (successor_deadline_at, successor_command_id, home_environment, failover_at, *of_move, number, home_ou) = rest
    return Thing(
        thing_id=thing_id,
        group_id=group_id,
        product_id=product_id,
        name=name,
        ou=ou,
        environment=environment,
        holder_device_id=holder,
        created_at=time_of(created_at),
        successor_device_id=successor,
        installed_version_id=installed,
        attributes=map_of(attributes),
        settings=map_of(settings),
        settings_rev=settings_rev,
        settings_reported_rev=settings_reported_rev,
        settings_state=settings_state,
        rev=rev,
        target_version_id=target,
        move=_move_of(of_move),
        successor_deadline_at=from_ms(successor_deadline_at),
        successor_command_id=successor_command_id,
        home_environment=home_environment,
        failover_at=from_ms(failover_at),
        number=number,
        home_ou=home_ou,
    )


def _move_of(row: Sequence[Any]) -> Move | None:
    (ou, environment, method, started_at, deadline_at, command_id, announced) = row
    if ou is None:
        return None
    return Move(
        ou, environment, MoveMethod(method), time_of(started_at), time_of(deadline_at), command_id, bool(announced)
    )


def credential_of(row: Sequence[Any]) -> Credential:
    (credential_id, device_id, kind, state, environment, created_at, expires_at, *rest) = row
    (boot_count, nonce, server_nonce, grant, encoding, api_key_sha256, pem, serial, spki_sha256, *rest) = rest
    (certificate_expires_at, confirmed_at, dropped_at, drop_cause, revoked_at, *rest) = rest
    (last_boot_count, last_n, last_reply, desired_rev, desired_doc, held_at, awaits, approved, *rest) = rest
    (last_heard_at, rekey, renewed_from, heard_rev, first_n, first_id) = rest
    return Credential(
        credential_id=credential_id,
        device_id=device_id,
        kind=_CREDENTIAL_KINDS[kind],
        state=_CREDENTIAL_STATES[state],
        environment=environment,
        created_at=time_of(created_at),
        expires_at=time_of(expires_at),
        boot_count=boot_count,
        nonce=nonce,
        server_nonce=server_nonce,
        grant=grant,
        encoding=encoding,
        api_key_sha256=api_key_sha256,
        certificate_pem=pem,
        certificate_serial=serial,
        spki_sha256=spki_sha256,
        certificate_expires_at=from_ms(certificate_expires_at),
        confirmed_at=from_ms(confirmed_at),
        dropped_at=from_ms(dropped_at),
        drop_cause=drop_cause,
        revoked_at=from_ms(revoked_at),
        last_boot_count=last_boot_count,
        last_n=last_n,
        last_reply=last_reply,
        desired_rev=desired_rev,
        desired_doc=desired_doc,
        held_at=from_ms(held_at),
        awaits_operator=bool(awaits),
        approved=bool(approved),
        last_heard_at=from_ms(last_heard_at),
        rekey=bool(rekey),
        renewed_from=renewed_from,
        heard_rev=heard_rev,
        first_n=first_n,
        first_id=first_id,
    )
