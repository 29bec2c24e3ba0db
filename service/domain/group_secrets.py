"""Several secrets of one group: which of them a device may still prove, and which devices are to leave theirs. Pure.

Owns these rules; the HMACs are made in credentials/proofs.py. Of the key kinds `derived` and `group` only, and only for
devices without a key of their own. Source: docs/protocol.md, section 4.2; docs/operators.md.

    newest      every device
    in grace    as the newest, so that what lies in stock can still come in
    superseded  devices that were registered when its grace ended
    retired     nobody who comes in by bootstrap; over a connection that stands, to get a key of one's own
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from service.domain import moves
from service.domain.credential import CredentialState
from service.domain.device import Device
from service.domain.group import Group, KeyKind, OldSecret
from service.errors import Secret

MAX_SECRETS = 4  # of a group, the newest included; a proof costs as many HMACs
WITH_SECRET = (KeyKind.DERIVED, KeyKind.GROUP)


class SecretState(StrEnum):
    NEWEST = "newest"
    GRACE = "grace"
    SUPERSEDED = "superseded"
    RETIRED = "retired"


def all_of(group: Group) -> tuple[tuple[int, Secret], ...]:
    """(generation, secret), the newest first; empty for a group without."""
    if group.secret is None or group.key_kind not in WITH_SECRET:
        return ()
    older = tuple((one.generation, one.secret) for one in reversed(group.old_secrets))
    return ((group.secret_generation, group.secret), *older)


def secret_for(group: Group, generation: int | None) -> Secret | None:
    """The secret that a device of that generation has its key from; one that has proven none has the newest."""
    known = dict(all_of(group))
    return known.get(group.secret_generation if generation is None else generation)


def state_of(one: OldSecret, now: datetime) -> SecretState:
    if one.retired_at is not None:
        return SecretState.RETIRED
    return SecretState.GRACE if now < one.grace_until else SecretState.SUPERSEDED


def refusal(group: Group, device: Device | None, generation: int, now: datetime, *, vouched: bool) -> str | None:
    """Why a proof by this secret does not count, None where it does.

    `device` is None for a serial that nobody registered. `vouched`: it speaks over its own confirmed credential.
    """
    bound = device.secret_generation if device is not None else None
    old = {one.generation: one for one in group.old_secrets}
    # 1. A device stays with the secret that it has proven first: another one that leaks does not open it. Only one
    #    whose secret was retired, and that is not in service, may come back with the newest.
    if bound is not None and bound != generation:
        assert device is not None
        left = bound not in old or old[bound].retired_at is not None
        if not (left and generation == group.secret_generation and moves.confirmed_of(device.credentials) is None):
            return "other group secret"
    # 2. The newest counts; so does any over a connection that proves the device by itself.
    one = old.get(generation)
    if one is None or vouched:
        return None
    # 3. A retired secret proves nobody, and one whose grace is over only those that were known by then.
    if one.retired_at is not None:
        return "group secret retired"
    known = device is not None and (bound == generation or device.registered_at <= one.grace_until)
    return None if known or now < one.grace_until else "group secret superseded"


def bound_to(device: Device, generation: int | None, now: datetime) -> Device:
    """The device with the secret that it has proven; credentials that hang on another one are dropped."""
    if generation is None or device.secret_generation == generation:
        return device
    kept = device.credentials
    if device.secret_generation is not None:
        kept = tuple(
            moves.drop(one, now, "group_secret_changed") if one.state is CredentialState.PENDING else one
            for one in kept
        )
    return replace(device, secret_generation=generation, credentials=kept)


def leaves(group: Group, device: Device) -> bool:
    """Whether a device is to get a key of its own, because the secret that its key is made from was superseded."""
    bound = device.secret_generation
    return group.key_kind in WITH_SECRET and device.key is None and bound not in (None, group.secret_generation)
