"""What all parts of one device's core share.

Owns the list of actions to come, the numbers of this boot (boot_count, n, request ids), the counters and the newest
trouble. Decides nothing. Runs on MicroPython.
"""

from device_sdk.core.actions import Note
from device_sdk.core.backoff import jittered
from device_sdk.core.identity import Prover
from device_sdk.core.records import Records
from device_sdk.wire.ids import hex_of

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Callable

    from device_sdk.core.actions import Connect, Disconnect, Publish, Reboot, Shutdown
    from device_sdk.core.identity import Identity, Policy
    from device_sdk.core.ports import Crypto, Flash, Installer, Product

    Action = Connect | Disconnect | Publish | Reboot | Shutdown | Note


class Context:
    """`counters`: how often each lower_snake trouble came up; `cause`: the newest, None while all is well."""

    def __init__(
        self,
        identity: "Identity",
        policy: "Policy",
        flash: "Flash",
        installer: "Installer",
        crypto: "Crypto",
        random_bytes: "Callable[[int], bytes]",
        product: "Product | None" = None,
    ) -> None:
        self.identity = identity
        self.policy = policy
        self.records = Records(flash)
        self.installer = installer
        self.crypto = crypto
        self.random_bytes = random_bytes
        self.product = product
        self.prover = Prover(identity, crypto)
        self.release_keys = list(identity.release_keys)  # those in force; the factory's until told otherwise
        self.must_be_signed = bool(identity.release_keys)  # for good, once the device has known a release key
        self.outbox: list[Action] = []
        self.counters: dict[str, int] = {}
        self.cause: str | None = None
        self.boot_count = 0
        self.n = 0
        # Distinct in each boot: a stored reply to an older request must not pass for an answer to this one.
        self._tag = hex_of(random_bytes(3))
        self._request = 0

    def count_boot(self) -> None:
        """Raise boot_count durably, before anything is sent."""
        stored = self.records.load("boot")
        count = stored["count"] + 1 if stored is not None else 1
        try:
            self.raise_boot_count(count)
        except OSError as error:
            # Better to speak under a number used before (the service then says CONFLICT and names its own) than not.
            self.trouble("flash_error", str(error))

    def raise_boot_count(self, count: int) -> None:
        self.boot_count = count
        self.n = 0
        self.records.save("boot", {"count": count})

    def next_n(self) -> int:
        self.n += 1
        return self.n

    def next_id(self) -> str:
        self._request += 1
        return "%s-%d" % (self._tag, self._request)

    def act(self, action: "Action") -> None:
        self.outbox.append(action)

    def note(self, level: str, event: str, detail: str = "") -> None:
        self.outbox.append(Note(level, event, detail))

    def trouble(self, cause: str, detail: str = "") -> None:
        """Count it, keep it as the newest cause and write it to the log."""
        self.counters[cause] = self.counters.get(cause, 0) + 1
        self.cause = cause
        self.note("warning", cause, detail)

    def jittered(self, wait_s: float) -> float:
        return jittered(wait_s, self.random_bytes)
