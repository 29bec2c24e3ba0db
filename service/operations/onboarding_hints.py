"""What an operator can do about a refused label, self-registration, hook or failover. Part of hints.py."""

from __future__ import annotations

_LABEL = "Scan it again, whole; if that does not help, print a new one with `firstlight labels`."

ONBOARDING_HINTS: dict[str, str] = {
    "batch_empty": "Name the serials with --serials or --serial, or register the devices with that batch tag first.",
    "batch_illegal": "Use 1 to 64 of A-Z a-z 0-9 . _ - for a batch tag.",
    "device_key_missing": "Register the device first, or give its key with --device-key.",
    "environment_missing": "Give --environment, or bind the OU or the group to one.",
    "credential_life_illegal": "Give --credential-life-s from 3600 (an hour) to 315360000 (ten years).",
    "failover_illegal": "Give --failover-after-s from 300 (5 minutes) to 2592000 (30 days).",
    "failover_incomplete": "Give --failover-environment and --failover-after-s together, or clear both.",
    "group_change_illegal": "`firstlight group change --help` lists what can be changed.",
    "hook_denied": "The group's activation hook said no; its reason stands in the trace.",
    "hook_failed": "The group's activation hook cannot be reached or gives no legal answer: see the trace's detail.",
    "hook_timeout": "The group's activation hook did not answer in 5 s; the device asks again by itself.",
    "hook_illegal": "Give the address of an endpoint, or python: and the name that an installed package offers.",
    "label_altered": _LABEL,
    "label_cancelled": "Scan the newest label of this serial; the older one may be thrown away.",
    "label_expired": "Print a new one with `firstlight labels`.",
    "label_foreign": "It belongs to another installation of Firstlight; it is onboarded there.",
    "label_malformed": "Scan the code that begins with FL1: and not another one on the device.",
    "label_reused": "Two accounts have scanned one label: find out who had it first (`firstlight events`), before you go on.",
    "label_unknown": "It was printed after the backup that this database was restored from: print a new one.",
    "label_used": "The device is onboarded already; `firstlight device show` shows where.",
    "labels_expiry": "Give --valid-days from 1 to 3650.",
    "labels_format": "Name the file *.pdf, *.svg, *.png or *.csv.",
    "labels_many": "Print the batch in several goes.",
    "labels_need_keys": "Give --keys FILE.csv for the keys that are made, or register the devices with their keys first.",
    "labels_unwritable": "Look at the folder that --out names.",
    "onboard_blocked": "`firstlight device unblock` lets it in again; then scan it again.",
    "onboard_elsewhere": "`firstlight reprovision` moves a device that is in service.",
    "onboard_frozen": "Find out which of the two devices is the true one, then `firstlight unfreeze`.",
    "onboard_replaced": "Another device has taken its place; scan the label of that one.",
    "onboard_retired": "A retired device is registered anew before it is onboarded.",
    "seal_broken": "Use the keys.json that belongs to this database.",
    "self_quota_illegal": "Give --self-quota from 0 to 10000000.",
    "self_quota_used": "Raise it with `firstlight group change --self-quota`, or register the device.",
    "serial_not_allowed": "Register the device, widen the group's --serial-pattern, or give it a --quarantine-ou.",
    "serial_pattern_illegal": "Use shell patterns separated by blanks, such as 'TH-[0-9]* SN-??'.",
    "serial_twice": "Name each serial once.",
}
