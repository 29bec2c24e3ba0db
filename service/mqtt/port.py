"""What the rest of the service knows of MQTT: a message that came in and a link to send on.

Owns two ports; link.py implements them on aiomqtt. Nothing above this folder imports an MQTT library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from device_sdk.wire import topics


class Role(StrEnum):
    BOOTSTRAP = "bootstrap"  # topics pv1/b/...
    OPERATIONAL = "operational"  # topics pv1/c/...
    WAREHOUSE = "warehouse"  # topics pv1/b/... of the devices there, which the service sees below warehouse/


EVERYWHERE = (Role.BOOTSTRAP, Role.OPERATIONAL)  # what each environment has; a warehouse is had by some
SPACES = {
    Role.BOOTSTRAP: topics.BOOTSTRAP,
    Role.OPERATIONAL: topics.OPERATIONAL,
    Role.WAREHOUSE: topics.BOOTSTRAP,
}
MOUNT = "warehouse/"  # what the warehouse's broker puts before every topic of a device


def root_of(role: Role, root: str) -> str:
    """What topics begin with on the service's side of such a broker; `root` is what they begin with for devices."""
    return MOUNT + root if role is Role.WAREHOUSE else root


class LinkDown(Exception):  # noqa: N818 - the field's word for it
    """Not connected now; what was to be sent is dropped, because the device asks again."""


class Link(Protocol):
    environment: str
    role: Role

    @property
    def up(self) -> bool:
        """Whether it is connected now, as far as it knows."""
        ...

    async def publish(self, topic: str, payload: bytes) -> None:
        """Send at QoS 0; returns when the bytes have been handed to the socket, which is the back-pressure.

        Raises LinkDown.
        """
        ...


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message from a broker. Call `acknowledge` once, after what it asked for is committed or refused."""

    link: Link
    topic: str
    payload: bytes
    acknowledge: Callable[[], None]


Deliver = Callable[[Inbound], None]  # never blocks; drops (and counts) when its queue is full
