"""The moves of credentials and devices through their tables, and what follows from them. Pure.

Owns every change of a state; an unlisted move raises IllegalMove. Source: docs/protocol.md, section 4.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from device_sdk.wire import limits
from service.domain import credential as credentials
from service.domain import device as devices
from service.domain.credential import Credential, CredentialKind, CredentialState
from service.domain.device import Device, DeviceState


class IllegalMove(Exception):  # noqa: N818 - the field's word for it
    """A move that its table does not list: a bug, never a device's doing."""


def find(device: Device, credential_id: str) -> Credential | None:
    """The device's kept row of that id."""
    for one in device.credentials:
        if one.credential_id == credential_id:
            return one
    return None


def put(device: Device, credential: Credential) -> Device:
    """The device with this row in place of the one of the same id, or added as the newest."""
    return replace(device, credentials=with_row(device, credential))


def with_row(device: Device, credential: Credential) -> tuple[Credential, ...]:
    """The rows of `put`, for a change that touches more than them."""
    found = [one.credential_id for one in device.credentials]
    if credential.credential_id not in found:
        return (*device.credentials, credential)
    return tuple(credential if one.credential_id == credential.credential_id else one for one in device.credentials)


def drop(credential: Credential, now: datetime, cause: str) -> Credential:
    """Dead from now on; `revoked_at` stays None until the broker has heard."""
    _check(credential, CredentialState.DROPPED)
    return replace(
        credential,
        state=CredentialState.DROPPED,
        dropped_at=now,
        drop_cause=cause,
        held_at=None,
        awaits_operator=False,
    )


def confirm(device: Device, credential: Credential, now: datetime) -> Device:
    """The device with this pending row confirmed and every other one dropped."""
    _check(credential, CredentialState.CONFIRMED)
    confirmed = replace(
        credential, state=CredentialState.CONFIRMED, confirmed_at=now, held_at=None, awaits_operator=False
    )
    kept = tuple(
        confirmed
        if one.credential_id == credential.credential_id
        else one
        if one.state is CredentialState.DROPPED
        else drop(one, now, "superseded")
        for one in device.credentials
    )
    if device.state is DeviceState.CONFIRMED:
        return replace(device, credentials=kept)
    _check_device(device, DeviceState.CONFIRMED)
    return replace(device, state=DeviceState.CONFIRMED, credentials=kept)


def add_pending(device: Device, credential: Credential, now: datetime) -> Device:
    """The device with a new pending row; beyond the bound the oldest pending ones are dropped."""
    pending = [one for one in device.credentials if one.state is CredentialState.PENDING]
    surplus = {one.credential_id for one in pending[: max(0, len(pending) + 1 - limits.MAX_PENDING_CREDENTIALS)]}
    kept = tuple(
        drop(one, now, "too_many_pending") if one.credential_id in surplus else one for one in device.credentials
    )
    return replace(device, credentials=(*kept, credential))


def drop_expired(device: Device, now: datetime) -> Device:
    """The device with its lapsed pending rows dropped; the same object when there is none."""
    if not any(is_expired(one, now) for one in device.credentials):
        return device
    kept = tuple(drop(one, now, "expired") if is_expired(one, now) else one for one in device.credentials)
    return replace(device, credentials=kept)


def drop_outlived(device: Device, api_key_life_s: int | None, now: datetime) -> Device:
    """The device without its confirmed API key, if that has come to the end of the life that its group gives."""
    one = confirmed_of(device.credentials)
    if one is None or api_key_life_s is None or one.kind is not CredentialKind.API_KEY:
        return device
    if now < one.created_at + timedelta(seconds=api_key_life_s):
        return device
    return put(device, drop(one, now, "outlived"))


def is_expired(credential: Credential, now: datetime) -> bool:
    return credential.state is CredentialState.PENDING and credential.expires_at <= now


def confirmed_of(credentials_: Iterable[Credential]) -> Credential | None:
    return next((one for one in credentials_ if one.state is CredentialState.CONFIRMED), None)


def enter(device: Device, state: DeviceState) -> Device:
    """The device in that state; staying where it is is no move."""
    if device.state is state:
        return device
    _check_device(device, state)
    return replace(device, state=state)


def _check_device(device: Device, state: DeviceState) -> None:
    if state not in devices.TRANSITIONS[device.state]:
        raise IllegalMove(f"device: {device.state} -> {state}")


def _check(credential: Credential, state: CredentialState) -> None:
    if state not in credentials.TRANSITIONS[credential.state]:
        raise IllegalMove(f"credential: {credential.state} -> {state}")
