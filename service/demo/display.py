"""What the demo shows while it runs: a live table in a terminal, plain lines elsewhere.

Owns the looks only; reads the devices' public status and changes nothing.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from device_sdk.core import status
from device_sdk.simulator.device import OFF, VirtualDevice

REFRESH_S = 0.15
PLAIN_DEVICES = 50  # up to this many devices plain output has a line for each change of state
PLAIN_SUMMARY_S = 2.0
_FRAME_ROWS = 4  # title, head, summary and the cursor: 20 devices fit a terminal of 24 lines
_COLOURS = {
    "confirmed": "bold green",
    status.DOWNLOADING: "cyan",
    status.VERIFYING: "cyan",
    status.INSTALLING: "magenta",
    status.REBOOTING: "magenta",
    status.ACTIVATING: "yellow",
    status.CONNECTING: "yellow",
    status.WAITING: "red",
}
_ORDER = (
    OFF,
    status.STARTING,
    status.CONNECTING,
    status.WAITING,
    status.ACTIVATING,
    status.ONLINE,
    status.DOWNLOADING,
    status.VERIFYING,
    status.INSTALLING,
    status.REBOOTING,
    status.RETIRED,
    "confirmed",
)


class Display(Protocol):
    def say(self, line: str) -> None:
        """One line of its own, above whatever is shown."""
        ...

    def update(self) -> None:
        """Show how things are now."""
        ...

    def close(self) -> None:
        """Leave the terminal as it should be."""
        ...


def state_of(device: VirtualDevice) -> str:
    """The device's state, or "confirmed" once it runs the target and has said so."""
    return "confirmed" if device.confirmed_s is not None else device.status.state


def percent_of(device: VirtualDevice) -> int:
    """How much of the target is there: 100 from the end of the download on."""
    if device.confirmed_s is not None:
        return 100
    if device.status.state in (status.VERIFYING, status.INSTALLING, status.REBOOTING):
        return 100
    return device.status.progress or 0


def tally(devices: Sequence[VirtualDevice]) -> str:
    counts = Counter(state_of(device) for device in devices)
    return ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])


class LiveDisplay:
    """A table that is drawn again and again; with more devices than rows, those that are at work."""

    def __init__(self, devices: Sequence[VirtualDevice], title: str, console: Console) -> None:
        self._devices = devices
        self._title = title
        self._console = console
        self._started = time.monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=False, vertical_overflow="crop")
        self._live.start()

    def say(self, line: str) -> None:
        self._live.console.print(line, highlight=False, markup=False)

    def update(self) -> None:
        self._live.update(self.frame(), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def frame(self) -> RenderableType:
        table = Table(title=self._title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for name in ("device", "state", "firmware"):
            table.add_column(name, no_wrap=True)
        table.add_column("download", width=30, no_wrap=True)
        table.add_column("", justify="right", width=4)
        table.add_column("", overflow="ellipsis", no_wrap=True)
        shown = self._window()
        for device in shown:
            state, percent = state_of(device), percent_of(device)
            table.add_row(
                device.identity.serial,
                Text(state, _COLOURS.get(state, "")),
                device.installer.booted()["name"] or device.identity.factory_name or "",
                ProgressBar(total=100, completed=percent, width=30),
                f"{percent}%",
                Text("" if state == "confirmed" else device.status.cause or "", "dim"),
            )
        hidden = len(self._devices) - len(shown)
        more = f"  ({hidden} more not shown)" if hidden else ""
        line = f"{time.monotonic() - self._started:.1f} s   {tally(self._devices)}{more}"
        return Group(table, Text(line, "bold"))

    def _window(self) -> list[VirtualDevice]:
        room = max(3, self._console.size.height - _FRAME_ROWS)
        if len(self._devices) <= room:
            return list(self._devices)
        at_work = [d for d in self._devices if state_of(d) not in (OFF, "confirmed")]
        others = [d for d in self._devices if state_of(d) in (OFF, "confirmed")]
        return (at_work + others)[:room]


class PlainDisplay:
    """Lines for a pipe or a log file: each change of state, or with many devices a summary every two seconds."""

    def __init__(self, devices: Sequence[VirtualDevice]) -> None:
        self._devices = devices
        self._last: dict[str, str] = {}
        self._started = time.monotonic()
        self._summary_at = 0.0

    def say(self, line: str) -> None:
        print(line, flush=True)

    def update(self) -> None:
        elapsed = time.monotonic() - self._started
        if len(self._devices) <= PLAIN_DEVICES:
            for device in self._devices:
                state = state_of(device)
                if state != self._last.get(device.identity.serial, OFF):
                    self._last[device.identity.serial] = state
                    cause = f" ({device.status.cause})" if device.status.cause and state != "confirmed" else ""
                    self.say(f"{elapsed:7.2f} s  {device.identity.serial}  {state}{cause}")
        elif elapsed >= self._summary_at:
            self._summary_at = elapsed + PLAIN_SUMMARY_S
            self.say(f"{elapsed:7.2f} s  {tally(self._devices)}")

    def close(self) -> None:
        """Nothing to restore."""


def make_display(devices: Sequence[VirtualDevice], title: str) -> Display:
    """The live table where standard output is a terminal, else plain lines."""
    console = Console(highlight=False)
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        return LiveDisplay(devices, title, console)
    return PlainDisplay(devices)
