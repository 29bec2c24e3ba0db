"""The exact bytes of a credential's desired document and their mac. Pure.

Owns the step from domain/desired's content to bytes and the rise of the revision; sends nothing.
Source: docs/protocol.md, section 5.1.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from device_sdk.wire import keys
from service.credentials import proofs
from service.domain import desired
from service.domain.credential import Credential
from service.domain.device import Device
from service.handlers.decision import Push, World
from service.protocol import encode


def refreshed(
    device: Device,
    credential: Credential,
    world: World,
    encoding: str,
    now: datetime,
    reported_rev: int | None = None,
) -> Credential:
    """The credential with the document that is right now; the same object when its stored bytes are.

    A new revision is above the stored one and above `reported_rev`, what the device says it has. Where nothing is wanted
    there is none, but for a device that is still busy with what was wanted over an earlier credential.
    """
    content = desired.content(device, credential, world.catalogue, now, world.told_service_keys)
    ahead = reported_rev is not None and reported_rev > credential.desired_rev
    if not content and credential.desired_doc is None and not ahead and not desired.is_busy(device.firmware):
        return credential
    if not ahead and credential.desired_doc == _pack(credential.desired_rev, content, encoding):
        return credential
    rev = desired.next_rev(credential.desired_rev, reported_rev)
    return replace(credential, desired_rev=rev, desired_doc=_pack(rev, content, encoding), encoding=encoding)


def heard(
    device: Device, credential: Credential, world: World, encoding: str, now: datetime, reported_rev: int
) -> Credential:
    """`refreshed`, when the device has just said which revision it has."""
    if reported_rev != credential.heard_rev:
        credential = replace(credential, heard_rev=reported_rev)
    return refreshed(device, credential, world, encoding, now, reported_rev)


def is_unheard(credential: Credential) -> bool:
    """Whether there is a document that the device has not said to have: a push that nobody may have got."""
    return credential.desired_doc is not None and credential.heard_rev != credential.desired_rev


def signed(device: Device, credential: Credential, world: World) -> dict[str, object]:
    """`{doc, mac}` of the stored document."""
    doc = credential.desired_doc
    assert doc is not None
    return {"doc": doc, "mac": _mac(device, credential, world, doc)}


def push(device: Device, credential: Credential, world: World) -> Push:
    """The stored document as a push to its own credential."""
    doc = credential.desired_doc
    assert doc is not None
    payload = encode.desired(doc, _mac(device, credential, world, doc), credential.encoding)
    return Push(credential.environment, credential.credential_id, payload)


def _mac(device: Device, credential: Credential, world: World, doc: bytes) -> bytes:
    assert device.thing is not None
    group = world.catalogue.groups[device.group_id]
    message = keys.desired_message(device.thing.thing_id, credential.credential_id, doc)
    return proofs.signer_of(group, device, world.service_key).prove(message)


def _pack(rev: int, content: dict[str, object], encoding: str) -> bytes:
    return encode.pack({"rev": rev, **content}, encoding)


def first(credential: Credential) -> Credential:
    """The credential with an empty first document, for a push when nothing is wanted."""
    rev = desired.next_rev(credential.desired_rev, None)
    return replace(credential, desired_rev=rev, desired_doc=_pack(rev, {}, credential.encoding))
