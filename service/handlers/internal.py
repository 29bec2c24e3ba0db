"""What the clock asks of a device: lapse what is over, push what has changed. Pure; there is no request and no reply."""

from __future__ import annotations

from service.domain import moves, updates
from service.domain.device import Device
from service.handlers import documents
from service.handlers.decision import Context, Decision, Step


def expire(device: Device, context: Context) -> Decision:
    """Drop the pending credentials whose time is over, and an API key that has come to the end of its life."""
    after = moves.drop_expired(device, context.now)
    steps = [Step("pending_expired")] if after is not device else []
    group = context.world.catalogue.groups.get(device.group_id)
    left = moves.drop_outlived(after, group.credential_life_s if group is not None else None, context.now)
    if left is not after:
        steps.append(Step("api_key_outlived"))
    if not steps:
        return Decision()
    return Decision(device=left, steps=tuple(steps), counters=tuple(one.step for one in steps))


def refresh(device: Device, context: Context) -> Decision:
    """Push the desired document to the credential `context.owner` if it has changed, or was not heard of yet."""
    credential = moves.find(device, context.owner)
    if credential is None or credential is not moves.confirmed_of(device.credentials):
        return Decision()
    after = documents.refreshed(device, credential, context.world, credential.encoding, context.now)
    if not documents.is_unheard(after):
        return Decision()
    changed = updates.offered(moves.put(device, after), context.world.catalogue, context.now)
    return Decision(
        device=changed,
        steps=(Step("desired_pushed", f"rev {after.desired_rev}"),),
        counters=("desired_pushed",),
        effects=(documents.push(changed, after, context.world),),
    )
