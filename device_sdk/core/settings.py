"""The product's settings: taken over, tried, kept or taken back.

Owns record "settings", and once more "site" for those of the place where the device stands. What happens in which order, so that power may go between any two: "applying" saved | given to
the product | "applied" saved; or, where the connection may hang on them, "trial" saved | given to the product | a new
connection | its online answered | "applied" saved. No answer within the trial, or too many starts: the values before are given back, and
"failed" is told with the cause. Knows no setting. Source: docs/protocol.md, section "Settings". Runs on MicroPython.
"""

from device_sdk.core import fields
from device_sdk.core.fields import MalformedError
from device_sdk.core.ports import SettingsError
from device_sdk.wire import limits
from device_sdk.wire.packer import packb

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.news import News
    from device_sdk.core.ports import Product

SETTINGS = "settings"  # of the thing: they come in the document
SITE = "site"  # of the place where it stands: a handshake brings them

APPLYING = "applying"
TRIAL = "trying"
APPLIED = "applied"
FAILED = "failed"

_ANNOUNCE_S = 10.0
_MAX_BOOTS = 3  # starts before values that were never settled are taken back
_MAX_BYTES = 6 * 1024  # encoded; the record holds them twice


class Settings:
    """`on_trial`: the values wait for an `online` on a new connection."""

    def __init__(self, context: "Context", news: "News", name: str = SETTINGS) -> None:
        self._context = context
        self._name = name  # of the record and of the field in a report
        self._news = news
        self._record: dict[str, Any] | None = None
        self._until = 0.0
        self._reconnect_at: float | None = None

    @property
    def on_trial(self) -> bool:
        return self._record is not None and self._record["state"] == TRIAL

    @property
    def wake_at(self) -> "float | None":
        if not self.on_trial:
            return None
        return self._until if self._reconnect_at is None else self._reconnect_at

    def load(self, now: float) -> None:
        """Once per boot: the product gets its values again, and the service hears which."""
        self._record = self._context.records.load(self._name)
        if self._record is None or self._context.product is None:
            return
        if self._record["state"] in (APPLYING, TRIAL):
            self._record["boots"] += 1
            if self._record["boots"] > _MAX_BOOTS:
                self._take_back("power")
                return
            self._save()
            self._until = now + self._context.policy.settings_trial_s
        self._tell()
        self._apply()

    def offer(self, offer: object, now: float) -> None:
        """The `settings` of an accepted document; None: as they are."""
        if offer is None or self._context.product is None:
            return
        try:
            if not isinstance(offer, dict):
                raise MalformedError("settings")
            rev = fields.integer(offer, "rev", 0, limits.MAX_INT)
            values = fields.submap(offer, "values")
        except MalformedError as error:
            self._context.trouble("settings_refused", str(error))
            return
        if self._record is not None and self._record["rev"] == rev:
            self._tell()
            return
        old = {} if self._record is None else self._record["old"] if self._unsettled() else self._record["values"]
        if len(packb(values)) > _MAX_BYTES:
            self._record = {"rev": rev, "values": old, "old": old, "state": FAILED, "cause": "too_large", "boots": 0}
            self._save()
            self._tell()
            return
        state = TRIAL if self._needs_trial(old, values) else APPLYING
        self._record = {"rev": rev, "values": values, "old": old, "state": state, "cause": None, "boots": 0}
        self._save()
        self._reconnect_at = now + _ANNOUNCE_S
        self._apply()

    def reconnects(self, now: float) -> bool:
        """Whether to leave this connection and try the new values on another."""
        if not self.on_trial or self._reconnect_at is None:
            return False
        return now >= self._reconnect_at or not self._news.waits(self._name)

    def trying(self, now: float) -> None:
        """A new connection is made; the trial counts from the first."""
        if self._reconnect_at is not None:
            self._reconnect_at = None
            self._until = now + self._context.policy.settings_trial_s

    def lapses(self, now: float) -> bool:
        return self.on_trial and self._reconnect_at is None and now >= self._until

    def fail(self, cause: str) -> None:
        self._take_back(cause)

    def answered(self) -> None:
        """An `online` was answered ok."""
        if self.on_trial and self._reconnect_at is None:
            self._settle(APPLIED, None)

    def _apply(self) -> None:
        record, product = self._record, self._context.product
        assert record is not None
        assert product is not None
        try:
            self._give(product, record["values"])
        except SettingsError as error:
            if record["state"] in (APPLYING, TRIAL):
                self._take_back(error.cause)
            else:
                self._context.trouble("settings_refused", error.cause)
            return
        if record["state"] == TRIAL:
            self._tell()
        elif record["state"] == APPLYING:
            self._settle(APPLIED, None)

    def _give(self, product: "Product", values: "dict[str, Any]") -> None:
        if self._name == SITE:
            product.apply_site_settings(values)
        else:
            product.apply_settings(values)

    def _needs_trial(self, old: "dict[str, Any]", values: "dict[str, Any]") -> bool:
        assert self._context.product is not None
        if self._name == SITE:
            return self._context.product.site_needs_trial(old, values)
        return self._context.product.needs_trial(old, values)

    @property
    def rev(self) -> int:
        """Of the newest that were judged, taken over or not; 0 before the first."""
        return self._record["rev"] if self._record is not None else 0

    def _take_back(self, cause: str) -> None:
        record, product = self._record, self._context.product
        assert record is not None
        assert product is not None
        self._context.trouble("settings_failed", cause)
        record["values"] = record["old"]
        self._settle(FAILED, cause)
        try:
            self._give(product, record["values"])
        except SettingsError as error:
            self._context.trouble("settings_refused", error.cause)

    def _settle(self, state: str, cause: "str | None") -> None:
        assert self._record is not None
        self._record["state"] = state
        self._record["cause"] = cause
        self._record["old"] = {}
        self._record["boots"] = 0
        self._reconnect_at = None
        self._save()
        self._tell()

    def _unsettled(self) -> bool:
        return self._record is not None and self._record["state"] in (APPLYING, TRIAL)

    def _tell(self) -> None:
        assert self._record is not None
        said = {"rev": self._record["rev"], "state": self._record["state"]}
        if self._record["cause"] is not None:
            said["cause"] = self._record["cause"]
        self._news.tell(self._name, said)

    def _save(self) -> None:
        self._context.records.save(self._name, self._record)
