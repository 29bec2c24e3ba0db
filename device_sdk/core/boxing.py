"""The box: whether a unit is still to be staged, what it takes along, and how it finds out where it is.

Owns record "boxed" (in its box for good, or going without the warehouse for one boot) and what the warehouse leaves in
record "site". What is stored in which order, so that power may go between any two: "site" (the settings of the warehouse
step) | "boxed" | off. A unit that lost power before "boxed" says `staged` again and is answered alike, wherever it is by
then. Source: docs/protocol.md, sections "Items" and "At the customer's". Runs on MicroPython.
"""

from device_sdk.core import ladder
from device_sdk.core.ports import SettingsError
from device_sdk.core.settings import APPLIED, SITE

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context


class Box:
    """`is_open`: the unit is still to be staged, in this boot."""

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._given = False
        record = context.records.load("boxed")
        skips = record is not None and record.get("skip", False) is True
        self.is_open = record is None or not skips and record.get("boxed") is not True
        if skips:
            self._forget_skip()
        if record is None and context.records.load(ladder.CURRENT) is not None:
            self.is_open = False  # in service already, whatever became of the records of the warehouse

    def skip(self, values: "dict[str, Any]") -> None:
        """The next boot goes without the warehouse; with those settings of its site, if there are any."""
        if values:
            self._leave(values)
        self._context.records.save("boxed", {"skip": True})

    def close(self, values: "dict[str, Any]") -> None:
        """It is staged for good. `values`: the settings of the warehouse step, in force from the next start on."""
        self._leave(values)
        self._context.records.save("boxed", {"boxed": True})

    def other_network(self, values: "dict[str, Any]") -> None:
        """Nobody can be reached: with the settings of the warehouse step, or, when that is so already, without.

        A unit that was packed before it had its answer finds its service only through the network of its site.
        """
        product = self._context.product
        if product is None or not values:
            return
        self._given = not self._given
        self._context.note("info", "other_network", "of its site" if self._given else "as in the warehouse")
        try:
            product.apply_site_settings(values if self._given else {})
        except SettingsError as error:
            self._context.trouble("settings_refused", error.cause)

    def _leave(self, values: "dict[str, Any]") -> None:
        records = self._context.records
        site = {"rev": 0, "values": values, "old": {}, "state": APPLIED, "cause": None, "boots": 0}
        before = records.load(SITE)
        if values and before != site:
            records.save(SITE, site)
        elif not values and before is not None:
            records.delete(SITE)  # of a staging that an operator has done over

    def _forget_skip(self) -> None:
        """It was for this boot only."""
        try:
            self._context.records.delete("boxed")
        except OSError as error:
            self._context.trouble("flash_error", str(error))
