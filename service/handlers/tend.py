"""What the clock, or an operator's change, asks of a device: lapse what is over, push what has changed. Pure.

There is no request and no reply. Works on the device whatever credentials it has; internal.py looks after a single one.
"""

from __future__ import annotations

from service.domain import moves, placement, replacement, retirement, transfer, updates
from service.domain.device import Device
from service.domain.event import Event
from service.handlers import documents
from service.handlers.decision import Context, Decision, Effect, Step


def handle(device: Device, context: Context) -> Decision:
    """Deadlines first, because what they end changes the document."""
    before, events, steps = device, list[Event](), list[Step]()
    device, partner = _lapse(device, context, events, steps)
    device, told, again = updates.look_after(device, context.world.catalogue, context.now)
    events += told
    if told:
        steps.append(Step("firmware_timed_out"))
    effects: list[Effect] = []
    confirmed = moves.confirmed_of(device.credentials)
    if confirmed is not None and device.thing is not None:
        fresh = documents.refreshed(device, confirmed, context.world, confirmed.encoding, context.now)
        if documents.is_unheard(fresh) or (again and fresh.desired_doc is not None):
            device = updates.offered(moves.put(device, fresh), context.world.catalogue, context.now)
            effects.append(documents.push(device, fresh, context.world))
            steps.append(Step("desired_pushed", f"rev {fresh.desired_rev}"))
    return Decision(
        device=device if device is not before else None,
        partner=partner,
        steps=tuple(steps),
        counters=tuple(step.step for step in steps),
        effects=tuple(effects),
        events=tuple(events),
    )


def _lapse(device: Device, context: Context, events: list[Event], steps: list[Step]) -> tuple[Device, Device | None]:
    """The device without the move or the successor whose time is over, and the partner if it has changed."""
    device, told = placement.lapse(device, context.now)
    if told:
        events += told
        steps.append(Step("move_failed", "deadline"))
    device, told = retirement.lapse(device, context.now)
    if told:
        events += told
        steps.append(Step("retirement_unheard", "deadline"))
    device, told = transfer.lapse(device, context.now)
    if told:
        events += told
        steps.append(Step("transfer_failed", "deadline"))
    partner = context.partner
    if partner is None or replacement.is_successor(device):
        return device, None
    device, after, told = replacement.lapse(device, partner, context.now)
    if not told:
        return device, None
    events += told
    steps.append(Step("replacement_failed", "deadline"))
    return device, after
