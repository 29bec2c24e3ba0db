"""The two ways in, `activate` and `stage`: what differs between them. Values and hooks; activate.py has what they share.

Source: docs/protocol.md, sections 4 and 9.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from device_sdk.wire import keys
from service.credentials import proofs
from service.domain.device import Device
from service.domain.group import Group
from service.handlers.decision import Context, Decision

Prover = proofs.Prover


class Door:
    """The ordinary way in, over a bootstrap broker or a credential that is renewed."""

    verb = "activated"
    is_ordinary = True  # clones are looked for, hook and failover are asked, newcomers may register themselves

    def asked(self, session: str, server_nonce: bytes, claim: bytes) -> bytes:
        """What the device proves."""
        return keys.activate_message(session, server_nonce, claim)

    def granted(self, session: str, server_nonce: bytes, claim: bytes, grant: bytes) -> bytes:
        """What the service proves."""
        return keys.activated_message(session, server_nonce, claim, grant)

    def judge(self, device: Device | None, group: Group) -> Decision | None:  # noqa: ARG002
        """A refusal of a proven device that this door has and the other has not; None: it may come in."""
        return None

    def prepared(self, device: Device, context: Context) -> Device:  # noqa: ARG002
        """The device just before it gets a new credential."""
        return device

    def admitted(self, device: Device, credential_id: str, context: Context) -> Device:  # noqa: ARG002
        """The device that has just got this credential."""
        return device

    def told(
        self,
        device: Device,  # noqa: ARG002
        credential_id: str,  # noqa: ARG002
        prover: Prover,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> Mapping[str, object]:
        """What the reply has besides grant and proof."""
        return {}

    def expires_at(self, group: Group, context: Context) -> datetime:
        """When an unused credential lapses, if its certificate does not end before."""
        return context.now + timedelta(seconds=group.pending_expiry_s)


ORDINARY = Door()
