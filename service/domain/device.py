"""A device with its thing and credentials: the aggregate that every rule works on.

Values and the TRANSITIONS tables of device and firmware states; no I/O, no clock. Source: docs/protocol.md, sections
4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from service.domain.credential import Credential
from service.domain.staging import Unit
from service.domain.thing import Scalar, Thing
from service.errors import Secret


class DeviceState(StrEnum):
    REGISTERED = "registered"  # the device's turn: power up and activate
    ACTIVATED = "activated"  # the device's turn: confirm its first credential
    CONFIRMED = "confirmed"  # in service
    BLOCKED = "blocked"  # the operator's turn
    REPLACED = "replaced"  # nobody's turn: another device holds its thing
    RETIRED = "retired"  # nobody's turn: told to wipe its credentials


class FirmwareState(StrEnum):
    OFFERED = "offered"  # the device's turn
    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    VERIFIED = "verified"
    INSTALLING = "installing"
    REBOOTING = "rebooting"
    CONFIRMED = "confirmed"  # booted and reported itself
    FAILED = "failed"  # the device keeps its old firmware and says why
    ROLLED_BACK = "rolled_back"  # the old version was seen again after rebooting
    TIMED_OUT = "timed_out"  # silent in a state with a deadline, also after having been asked again


TRANSITIONS: dict[DeviceState, frozenset[DeviceState]] = {
    DeviceState.REGISTERED: frozenset({DeviceState.ACTIVATED, DeviceState.BLOCKED, DeviceState.RETIRED}),
    DeviceState.ACTIVATED: frozenset(
        {DeviceState.REGISTERED, DeviceState.CONFIRMED, DeviceState.BLOCKED, DeviceState.REPLACED, DeviceState.RETIRED}
    ),
    DeviceState.CONFIRMED: frozenset({DeviceState.BLOCKED, DeviceState.REPLACED, DeviceState.RETIRED}),
    DeviceState.BLOCKED: frozenset(
        {
            DeviceState.REGISTERED,
            DeviceState.ACTIVATED,
            DeviceState.CONFIRMED,
            DeviceState.REPLACED,
            DeviceState.RETIRED,
        }
    ),
    DeviceState.REPLACED: frozenset(),
    DeviceState.RETIRED: frozenset({DeviceState.REGISTERED}),
}


class KeyAlgorithm(StrEnum):
    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa_p256"  # SHA-256, signature r||s, 64 bytes
    RSA_PSS = "rsa_pss"  # SHA-256


@dataclass(frozen=True, slots=True)
class PublicKey:
    index: int  # 0..7
    algorithm: KeyAlgorithm
    spki: bytes  # DER SubjectPublicKeyInfo


@dataclass(frozen=True, slots=True)
class Firmware:
    """What the device last said of its firmware."""

    state: FirmwareState | None = None
    version_id: str | None = None  # which version that state is about
    progress: int | None = None  # percent
    cause: str | None = None
    installing_boot_count: int | None = None  # confirmed needs a boot above this
    confirmed_seq: int = 0
    reported_at: datetime | None = None
    since: datetime | None = None  # when it entered this state with this version
    notified: int = 0  # how often it was asked again since then
    deferred_until: datetime | None = None
    deferred_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    device_id: str
    group_id: str
    serial: str
    state: DeviceState
    registered_at: datetime
    key: Secret | None = None  # K: kind individual; for derived and group it is derived from the group's secret
    public_keys: tuple[PublicKey, ...] = ()
    ou: str | None = None  # its own allocation, before the group's default
    environment: str | None = None
    boot_count: int = 0  # highest proven
    model: str | None = None
    caps: tuple[str, ...] = ()
    firmware: Firmware = Firmware()
    thing: Thing | None = None
    batch: str | None = None  # the tag it is monitored by
    attributes: Mapping[str, Scalar] = field(default_factory=dict, hash=False)  # for the thing that it will become
    frozen: bool = False  # two devices speak under this serial; nothing is let in or confirmed until `unfreeze`
    replaced_by: str | None = None  # device_id of the device that took over its thing
    tries: Mapping[str, int] = field(default_factory=dict, hash=False)  # version_id -> failed or rolled back so often
    releases: int = 0  # how often an operator released a version here; the device forgets its own count with it
    clone_signs: int = 0  # evidence of a second device since the last `unfreeze`
    clone_at: datetime | None = None  # of the newest evidence
    rekey: bool = False  # an operator opened the next activation for a new key
    rekey_deadline_at: datetime | None = None  # when that ends; None: it stays open
    rekey_command_id: str | None = None  # which command opened it
    retire_deadline_at: datetime | None = None  # retired: when its credential goes, heard or not
    retired_reason: str | None = None
    secret_generation: int | None = None  # which secret of its group K is made from; None: it has not proven one yet
    credentials: tuple[Credential, ...] = ()  # every row that is still kept, oldest first
    unit: Unit | None = field(default=None, hash=False)  # as the warehouse knows it; None: it was never handed over
