"""What the service wants of a device: the content of its desired document, and when its revision rises. Pure.

Owns the fields and their order; the exact bytes are made in handlers/, stored with the credential and sent from there.
Source: docs/protocol.md, section 5.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from device_sdk.wire.ids import release_key_id
from service.domain import group_secrets, retirement, staging
from service.domain.catalogue import Catalogue, Endpoint
from service.domain.credential import Credential, CredentialKind
from service.domain.device import Device, DeviceState, Firmware
from service.domain.device import FirmwareState as S
from service.domain.group import KeyKind
from service.domain.placement import ous_above
from service.domain.product import Endorsement, Version
from service.domain.thing import Move

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_TRUSTED = 8  # of each kind; a device keeps no more
MAX_ENDORSEMENTS = 16  # a device takes no more
UNDER_WAY = frozenset({S.ACCEPTED, S.DEFERRED, S.DOWNLOADING, S.DOWNLOADED, S.VERIFIED, S.INSTALLING, S.REBOOTING})
MAX_TRIES = 2  # how often a version may fail or be rolled back on a device before it is held back


def target_of(device: Device, catalogue: Catalogue) -> Version | None:
    """The version that this device is to run; None where there is none, or it failed too often here."""
    version = wanted_version(device, catalogue)
    return None if version is None or is_held_back(device, version.version_id) else version


def wanted_version(device: Device, catalogue: Catalogue) -> Version | None:
    """The target: the thing's own, else its OU's, its group's, its product's."""
    thing = device.thing
    if thing is None:
        return None
    group = catalogue.groups.get(device.group_id)
    own = [thing.target_version_id]
    own += [one.target_version_id for one in ous_above(catalogue, thing.ou)]
    own += [group.target_version_id if group is not None else None]
    for version_id in own:
        # An OU has things of several products; a target is one product's.
        if version_id is not None and (found := catalogue.version(thing.product_id, version_id)) is not None:
            return found
    product = catalogue.products.get(thing.product_id)
    return product.target if product is not None else None


def is_held_back(device: Device, version_id: str) -> bool:
    """Whether this version is not offered to this device any more, until an operator releases it."""
    return bool(device.tries) and device.tries.get(version_id, 0) >= MAX_TRIES


def content(
    device: Device,
    credential: Credential,
    catalogue: Catalogue,
    now: datetime,
    service_keys: tuple[bytes, ...] = (),
) -> dict[str, object]:
    """The document without its `rev`; empty when nothing is wanted. `service_keys`: see World."""
    if device.state is DeviceState.RETIRED:
        return {"retired": {"reason": device.retired_reason or retirement.REASON}}
    wanted: dict[str, Any] = {}
    version = target_of(device, catalogue)
    if version is not None:
        wanted["firmware"] = _firmware(version)
        if device.releases:
            wanted["firmware"]["release"] = device.releases
    thing = device.thing
    if thing is not None and thing.settings_rev:
        wanted["settings"] = {"rev": thing.settings_rev, "values": dict(thing.settings)}
    if thing is not None and thing.move is not None and thing.holder_device_id == device.device_id:
        wanted["placement"] = _placement(thing.move, credential.kind, catalogue)
    group = catalogue.groups.get(device.group_id)
    # A device that changes hands, or leaves a secret of its group, need not wait for its next activation if it is
    # connected.
    new_key = device.rekey or (group is not None and group_secrets.leaves(group, device))
    if new_key or is_renewal_due(credential, now, group.credential_life_s if group is not None else None):
        # Above the number of any earlier credential, and the same however often it is computed.
        wanted["credential"] = {"renew": (credential.created_at - _EPOCH) // timedelta(milliseconds=1)}
    settings_rev = staging.wanted_rev(device)
    if settings_rev is not None:
        wanted["handshake"] = {"settings_rev": settings_rev}
    trust = _trust(credential, catalogue)
    if service_keys and group is not None and group.key_kind is KeyKind.PUBLIC_KEY:
        trust["service_keys"] = list(service_keys)
    if trust:
        wanted["trust"] = trust
    return wanted


def is_busy(firmware: Firmware) -> bool:
    """Whether the device has said last that it is on its way to a version."""
    return firmware.state in UNDER_WAY


def is_renewal_due(credential: Credential, now: datetime, api_key_life_s: int | None = None) -> bool:
    """Whether two thirds of its life are over; `api_key_life_s` is the group's."""
    expires_at = credential.certificate_expires_at
    if expires_at is None and api_key_life_s is not None and credential.kind is CredentialKind.API_KEY:
        expires_at = credential.created_at + timedelta(seconds=api_key_life_s)
    return expires_at is not None and now >= credential.created_at + (expires_at - credential.created_at) * 2 / 3


def _trust(credential: Credential, catalogue: Catalogue) -> dict[str, object]:
    """What is to be trusted besides the factory's, while keys or authorities are rolled over: where there are several.

    Once a release key was retired its list is always sent, even with nothing in it: a list that is absent leaves the
    device with the one it has, and that may hold the retired key.
    """
    trust: dict[str, object] = {}
    environment = catalogue.environments.get(credential.environment)
    authorities = certificates_of(environment.ca_pem) if environment is not None and environment.ca_pem else ()
    if len(authorities) > 1 or (environment is not None and environment.ca_exchanged):
        trust["cas"] = list(authorities[:MAX_TRUSTED])
    more = catalogue.more_bootstrap.get(credential.environment)
    if more is not None:
        own = environment.ca_pem if environment is not None else None
        trust["bootstrap"] = [_endpoint(Endpoint(one.host, one.port, one.tls), one.ca_pem or own) for one in more]
    if len(catalogue.release_keys) > 1 or catalogue.retired_keys:
        known = sorted(catalogue.release_keys.values(), key=lambda one: one.key_id)
        trust["release_keys"] = [one.public_key for one in known[:MAX_TRUSTED]]
        leading = _leading_to(tuple(one.public_key for one in known), catalogue.endorsements)
        if leading:
            trust["endorsements"] = [
                {"key": one.public_key, "by": one.by, "signature": one.signature} for one in leading
            ]
    return trust


@lru_cache(maxsize=4)  # asked for with every document, and as seldom another as the catalogue is
def _leading_to(listed: tuple[bytes, ...], endorsements: tuple[Endorsement, ...]) -> tuple[Endorsement, ...]:
    """Those that lead to a listed key, over others if need be; the nearest first, as many as a device takes."""
    wanted, found = {release_key_id(one) for one in listed}, list[Endorsement]()
    left = list(endorsements)
    while wanted:
        near = [one for one in left if release_key_id(one.public_key) in wanted]
        left = [one for one in left if one not in near]
        found += near
        wanted = {one.by for one in near}
    return tuple(found[:MAX_ENDORSEMENTS])


@lru_cache(maxsize=64)
def certificates_of(pem: str) -> tuple[str, ...]:
    """The certificates of a bundle, each as it stands there."""
    end = "-----END CERTIFICATE-----"
    return tuple(one.strip() + "\n" + end + "\n" for one in pem.split(end)[:-1])


def _placement(move: Move, kind: CredentialKind, catalogue: Catalogue) -> dict[str, object]:
    """Where to go; the same bytes for as long as the move lasts."""
    wanted: dict[str, object] = {"ou": move.ou, "environment": move.environment}
    environment = catalogue.environments.get(move.environment)
    if environment is not None:
        endpoint = environment.endpoints.get(kind) or next(iter(environment.endpoints.values()), None)
        if endpoint is not None:
            wanted["endpoint"] = _endpoint(endpoint, None)
        wanted["bootstrap"] = [_endpoint(one, environment.ca_pem) for one in environment.bootstrap]
    wanted["deadline_s"] = max(1, int((move.deadline_at - move.started_at).total_seconds()))
    return wanted


def _endpoint(one: Endpoint, ca_pem: str | None) -> dict[str, object]:
    of: dict[str, object] = {"host": one.host, "port": one.port, "tls": one.tls}
    if ca_pem is not None and one.tls:
        of["ca"] = ca_pem
    return of


def _firmware(version: Version) -> dict[str, object]:
    return {
        "version_id": version.version_id,
        "name": version.name,
        "description": version.description,
        "product": version.product,
        "hardware": version.hardware,
        "seq": version.seq,
        "image_id": version.image_id,
        "size": version.size,
        "signature": version.signature,
        "key_id": version.key_id,
    }


def next_rev(stored: int, reported: int | None) -> int:
    """The revision of a document that differs: above the stored one and above what the device has seen."""
    return max(stored, reported or 0) + 1
