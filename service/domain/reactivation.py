"""May this pending credential take over now? The compare-and-set of its first use, and the group's policy. Pure.

Owns the conditions and the hold; moves.py makes the move. Hold times are kept in the credential's row, so a restart
forgets none; silence counts only while the service was listening. Source: docs/protocol.md, sections 4.5 and 4.6.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from device_sdk.wire import codes, limits
from service.domain import moves
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device, DeviceState
from service.domain.group import Reactivation
from service.errors import ServiceError

HOLD = timedelta(seconds=limits.HOLD_S)
OPERATOR_RETRY_S = 60


class Verdict(StrEnum):
    CONFIRM = "confirm"  # takes over now
    ASK = "ask"  # the old credential's turn: it is asked whether it still lives
    WAIT = "wait"  # its 30 seconds are running
    OPERATOR = "operator"  # the operator's turn


def check_confirmable(device: Device, credential: Credential, now: datetime) -> None:
    """The conditions of the compare-and-set. Raises ServiceError CONFLICT."""
    thing = device.thing
    if credential.state is not CredentialState.PENDING:
        raise _conflict("not pending", "confirm_not_pending")
    if device.state not in (DeviceState.ACTIVATED, DeviceState.CONFIRMED):
        raise _conflict("this device may not come in now", "confirm_device_state")
    if moves.is_expired(credential, now):
        raise _conflict("this credential has lapsed", "confirm_expired")
    if thing is None or device.device_id not in (thing.holder_device_id, thing.successor_device_id):
        raise _conflict("this device does not hold its thing", "confirm_not_holder")
    if device.frozen:
        raise _conflict("two devices use this serial; an operator must look", "confirm_frozen")
    there = thing.move is not None and credential.environment == thing.move.environment
    if credential.environment != thing.environment and not there:
        raise _conflict("the thing belongs to another environment", "confirm_environment")


def judge(
    device: Device, credential: Credential, policy: Reactivation, now: datetime, listening_since: datetime
) -> Verdict:
    """What the policy says of a credential that check_confirmable let pass."""
    if credential.approved or policy is Reactivation.OPEN:
        return Verdict.CONFIRM
    if moves.confirmed_of(device.credentials) is None:
        # A device in service whose credential came to the end of its life is no less activated again.
        again = policy is Reactivation.OPERATOR and device.state is DeviceState.CONFIRMED
        return Verdict.OPERATOR if again else Verdict.CONFIRM
    if credential.awaits_operator or policy is Reactivation.OPERATOR:
        return Verdict.OPERATOR
    # Silence before the service listened proves nothing: then the old credential is asked again. So it is where the clock
    # was set back since.
    if credential.held_at is None or not listening_since <= credential.held_at <= now:
        return Verdict.ASK
    return Verdict.WAIT if now < credential.held_at + HOLD else Verdict.CONFIRM


def suspect_clones(device: Device, heard: Credential) -> Device:
    """The device after its confirmed credential was heard: what is held against it waits for an operator.

    The same object when nothing is held.
    """
    if heard.state is not CredentialState.CONFIRMED or len(device.credentials) == 1:
        return device
    if not any(_is_held(one) for one in device.credentials):
        return device
    kept = tuple(replace(one, awaits_operator=True) if _is_held(one) else one for one in device.credentials)
    return replace(device, credentials=kept)


def refusal(verdict: Verdict) -> ServiceError:
    """What the device is told while it may not take over."""
    if verdict is Verdict.OPERATOR:
        return _conflict("an operator must approve this credential", "confirm_awaits_operator", OPERATOR_RETRY_S)
    return _conflict("the old credential is asked first", "confirm_held", limits.HOLD_S)


def _is_held(one: Credential) -> bool:
    return (
        one.state is CredentialState.PENDING
        and one.held_at is not None
        and not one.awaits_operator
        and not one.approved
    )


def _conflict(public: str, cause: str, retry_after_s: int | None = None) -> ServiceError:
    return ServiceError(codes.CONFLICT, public, cause=cause, retry_after_s=retry_after_s)
