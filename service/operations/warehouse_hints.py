"""What an operator can do about a refusal of the warehouse: one sentence for each cause. Part of hints.py."""

from __future__ import annotations

_SHOW = "`firstlight equipment show` says where the unit is."
_ORDER = "`firstlight order show` lists its lines and units."

WAREHOUSE_HINTS: dict[str, str] = {
    "build_changed": "Leave the files of a build alone while it is made; then make it again.",
    "build_malformed": "docs/partners/warehouse.md shows how a build is described.",
    "build_size": "A secret has at most 16 KiB.",
    "build_unreadable": "Look at the path: files stand beside the description of their build.",
    "device_state": "`firstlight device show` shows the device's state; unblock it, or take another unit.",
    "line_ambiguous": "Name the line by its number: `firstlight order show` lists them.",
    "line_count": "Split the order: it has too many lines.",
    "line_exists": _ORDER,
    "line_full": "Give the line a larger quantity, or assign fewer serial numbers to it.",
    "list_unknown": "Ask for device-types, sites, orders, units or manifests.",
    "manifest_exists": "A manifest never changes: give the build another name.",
    "manifest_illegal": "Mend the description of the build as the reason says, then make it again.",
    "manifest_unknown": "`firstlight manifest list` shows the manifests of each product.",
    "name_illegal": "Use 1 to 64 of A-Z a-z 0-9 . _ - for a name.",
    "order_exists": _ORDER,
    "order_state": "The order is closed to changes: enter another one.",
    "order_unknown": "`firstlight order list` shows the orders; a new one needs its site.",
    "setting_name_illegal": "Name a section (features, payment, network) or one value of it, as network.ssid.",
    "setting_twice": "Name each setting for one step only.",
    "signature_missing": "`firstlight manifest sign` signs every item of a build; sign it again.",
    "site_change_illegal": "Say --title or --settings.",
    "site_exists": "`firstlight site show` shows the site; `firstlight site set` changes it.",
    "site_unknown": "`firstlight site list` shows the sites.",
    "type_change_illegal": "Say what of the device type changes.",
    "type_exists": "`firstlight device-type show` shows it; `firstlight device-type set` changes it.",
    "type_missing": "Name the device type of the new line.",
    "type_unknown": "`firstlight device-type list` shows the device types.",
    "unit_bound": "Take the unit off that order first: `firstlight order release`.",
    "unit_not_handed_over": "Hand it over first: `firstlight order hand-over`.",
    "unit_not_ordered": "Assign it first: `firstlight order assign`.",
    "unit_step": _SHOW,
    "unit_type": _SHOW,
    "unit_unknown": "Enter it first: `firstlight equipment receive`.",
    "units_missing": "Name units as GROUP/SERIAL, or an order; not both.",
}
