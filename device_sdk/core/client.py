"""The device's side of the protocol without I/O: bytes and time in, actions out.

Owns the composition of the core and its public API. A driver calls, in any order after start(): connected(),
connect_failed(), disconnected(), received(), tick(); after each call it drains actions() and does them in order, and
sees that tick() is called at wake_at. Source: docs/protocol.md, sections 3 to 6. Runs on MicroPython.
"""

from device_sdk.core import status
from device_sdk.core.status import Status

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Callable

    from device_sdk.core.actions import Connect, Disconnect, Note, Publish, Reboot
    from device_sdk.core.identity import Identity, Policy
    from device_sdk.core.ports import Crypto, Flash, Installer


class Client:
    """One device from power-up to power-down. `now` is monotonic seconds everywhere; `random_bytes(n)` gives n bytes."""

    def __init__(
        self,
        identity: "Identity",
        policy: "Policy",
        flash: "Flash",
        installer: "Installer",
        crypto: "Crypto",
        random_bytes: "Callable[[int], bytes]",
    ) -> None:
        self._parts = (identity, policy, flash, installer, crypto, random_bytes)
        self.wake_at: float | None = None

    def start(self, now: float) -> None:
        """Once per boot, first of all: counts the boot, loads the records and decides where to go."""
        raise NotImplementedError

    def connected(self, now: float) -> None:
        """The connection of the last Connect is open and subscribed."""
        raise NotImplementedError

    def connect_failed(self, reason: str, now: float) -> None:
        """The last Connect failed: "refused", "unreachable" or "tls"."""
        raise NotImplementedError

    def disconnected(self, now: float) -> None:
        """The open connection was lost."""
        raise NotImplementedError

    def received(self, topic: str, payload: bytes, now: float) -> None:
        """A message of the open connection."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Time has passed. Too early or too often does no harm."""
        raise NotImplementedError

    def actions(self) -> "list[Connect | Disconnect | Publish | Reboot | Note]":
        """What to do now, in order; empty the next time."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        return Status(status.STARTING, None, None, None, None)
