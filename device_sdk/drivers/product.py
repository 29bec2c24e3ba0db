"""The product's part in `firstlight-device`: settings in a file, and two commands that the product may bring.

Owns the files `settings.json` and `site.json` (those of the place where it stands) and the running of the commands; which settings there are is the product's business. Sits
below device_sdk.core as its `product`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from device_sdk.core.ports import Product, SettingsError
from device_sdk.drivers.store import write_whole

COMMAND_TIMEOUT_S = 60
NETWORK = "network"  # the connection may hang on settings of this name
NOT_NOW = 75  # the exit code of a defer command that puts an update off (EX_TEMPFAIL of sysexits.h)
DEFER_S = 3600
_POINTS = ("settings.written", "settings.synced", "settings.renamed", "settings.dir_synced")


class CommandProduct(Product):
    """`settings_command` is run with the file's path after each change and at each start, and says with code 0 that it
    took the settings over. `defer_command` is run with a version's name; code 75 puts it off, and what it prints is the
    seconds and the reason.
    """

    def __init__(self, directory: Path, *, settings_command: str | None, defer_command: str | None) -> None:
        self._path = directory / "settings.json"
        self._site_path = directory / "site.json"
        self._settings_command = settings_command
        self._defer_command = defer_command

    def apply_settings(self, values: dict[str, Any]) -> None:
        self._apply(self._path, values)

    def apply_site_settings(self, values: dict[str, Any]) -> None:
        self._apply(self._site_path, values)

    def _apply(self, path: Path, values: dict[str, Any]) -> None:
        data = json.dumps(_plain(values), indent=1, sort_keys=True).encode() + b"\n"
        write_whole(path, data, sync_writes=True, points=_POINTS)
        if self._settings_command is None:
            return
        done = _run(self._settings_command, str(path))
        if done is None or done.returncode != 0:
            raise SettingsError("settings_command")

    def needs_trial(self, before: dict[str, Any], values: dict[str, Any]) -> bool:
        return before.get(NETWORK) != values.get(NETWORK)

    def defer(self, version: dict[str, Any]) -> tuple[int, str] | None:
        if self._defer_command is None:
            return None
        done = _run(self._defer_command, version["name"])
        if done is None or done.returncode != NOT_NOW:
            return None
        seconds, _, reason = done.stdout.strip().partition(" ")
        return (int(seconds) if seconds.isascii() and seconds.isdecimal() else DEFER_S), reason[:64] or "deferred"


def _run(command: str, argument: str) -> subprocess.CompletedProcess[str] | None:
    """None when it could not be run or took too long."""
    try:
        return subprocess.run(  # noqa: S603  # the device's own owner named it
            [*shlex.split(command), argument],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _plain(value: Any) -> Any:
    """Bytes become hex: JSON has none."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
