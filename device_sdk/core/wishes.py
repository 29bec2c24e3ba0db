"""All that the desired document may ask for besides its revision, taken together.

Owns the order in which the parts take over their fields, and which of them must wait for which: only one at a time
breaks the connection. Each part keeps its own record. Source: docs/protocol.md, section "Desired state". Runs on
MicroPython.
"""

from device_sdk.core.firmware import Firmware
from device_sdk.core.handshake import Handshake
from device_sdk.core.news import News
from device_sdk.core.placement import Placement
from device_sdk.core.ports import InstallError
from device_sdk.core.renewal import Renewal
from device_sdk.core.settings import SITE, Settings
from device_sdk.core.trust import Trust

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.credentials import Credentials
    from device_sdk.core.download import Fetch

STAY = "stay"
SET_OUT = "set_out"  # for another environment
RECONNECT = "reconnect"  # with new settings, or over to a new credential


class Wishes:
    """The parts by their names; `news` is what they want to be told of themselves."""

    def __init__(self, context: "Context", credentials: "Credentials") -> None:
        self._context = context
        self.news = News()
        self.firmware = Firmware(context)
        self.trust = Trust(context)
        self.settings = Settings(context, self.news)
        self.site = Settings(context, self.news, SITE)
        self.handshake = Handshake(context, self.site)
        self.placement = Placement(context, credentials, self.news)
        self.renewal = Renewal(context, credentials, self.news)

    def load(self, now: float) -> None:
        """Once per boot. A part whose record cannot be written costs none of the others its start."""
        for load in (self.placement.load, self.firmware.start, self.settings.load, self.site.load):
            try:
                load(now)
            except (InstallError, OSError) as error:
                cause = error.cause if isinstance(error, InstallError) else "flash_error"
                self._context.trouble(cause, str(error))
        self.trust.load()
        self.renewal.load()
        self.handshake.load()

    def offer(self, values: "dict[str, Any]", owner: str, now: float) -> None:
        """An accepted document, which came to credential `owner`."""
        self.trust.offer(values.get("trust"))
        self.settings.offer(values.get("settings"), now)
        self.handshake.offer(values.get("handshake"))
        self.firmware.offer(values.get("firmware"), now)
        self.renewal.offer(values.get("credential"), owner)
        self.placement.offer(values.get("placement"), now)

    def answered(self, credential: "dict[str, Any]", fetch: "Fetch", now: float) -> None:
        """The first `online` of a connection was answered ok, under the credential that is the current one."""
        self.trust.answered()
        self.settings.answered()
        self.site.answered()
        self.handshake.online()
        self.renewal.answered(credential)
        self.placement.answered(credential)
        self.firmware.online(fetch, now)

    def forget(self) -> None:
        """Nothing of what led to or from the credentials, which were wiped, is to be done any more."""
        for name in ("move", "renew", "shake"):
            self._context.records.delete(name)

    def told(self, sent: "dict[str, Any]") -> None:
        """A report with these fields was answered ok."""
        self.news.told(sent)
        self.placement.told(sent)

    def connecting(self, now: float) -> None:
        self.trust.connecting()
        self.settings.trying(now)
        self.site.trying(now)

    def departs(self, now: float) -> str:
        """Whether to leave the connection of one's own accord; one of the words above."""
        if self.placement.sets_out(self._free, now):
            self.placement.set_out(now)
            return SET_OUT
        if self.settings.reconnects(now) or self.site.reconnects(now) or self.renewal.goes_over(now):
            return RECONNECT
        return STAY

    def renew(self, owner: str, now: float) -> None:
        """On an answered connection."""
        if self._free:
            self.renewal.begin(owner, self.firmware.running, now)

    def wake_at(self, owner: "str | None") -> "float | None":
        """`owner`: the credential of the answered connection, None when there is none."""
        times = [self.firmware.wake_at, self.settings.wake_at, self.site.wake_at]
        if self._free:
            times.append(self.placement.wake_at)
            if owner is not None:
                times.append(self.renewal.wake_at(owner))
        due = [at for at in times if at is not None]
        return min(due) if due else None

    @property
    def _free(self) -> bool:
        """Whether neither firmware nor settings are between two states."""
        return not (
            self.firmware.update.leaving or self.firmware.on_trial or self.settings.on_trial or self.site.on_trial
        )
