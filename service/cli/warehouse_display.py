"""What `warehouse watch` shows: a live table in a terminal, plain or JSON lines for each change elsewhere.

Owns the looks only.
"""

from __future__ import annotations

import json
import sys
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.cli import context
from service.operations.warehouse_progress import Failure, Progress, UnitProgress

MAX_FAILURES = 8  # shown below the units; `warehouse failures` has all
_FRAME_ROWS = 7  # title, steps, heads and the cursor
_COLOURS = {
    "expected": "dim", "received": "yellow", "staged": "cyan", "out_of_box": "bold green", "shipped": "green",
    "at_site": "green",
}  # fmt: skip


class Display(Protocol):
    def show(self, found: Progress) -> None:
        """How it stands now."""
        ...

    def close(self) -> None:
        """Leave the terminal as it should be."""
        ...


def display_for(*, as_json: bool, console: Console | None = None, out: TextIO | None = None) -> Display:
    """Live where standard output is a terminal."""
    console = console or Console()
    if as_json:
        return JsonLines(out or sys.stdout)
    return LiveTable(console) if console.is_terminal else PlainLines(out or sys.stdout)


class JsonLines:
    """The whole of it as one JSON document a line, each time that it has changed."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def show(self, found: Progress) -> None:
        line = json.dumps({**context.plain(found), "done": found.is_done}, default=context.plain, ensure_ascii=False)
        if line != self._last:
            self._last = line
            print(line, file=self._out, flush=True)

    def close(self) -> None:
        pass


class PlainLines:
    """A line for each step that a unit takes and each failure, and a sum of all after them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._steps: dict[str, str] = {}
        self._failures: set[Failure] = set()
        self._sum = ""

    def show(self, found: Progress) -> None:
        for one in found.units:
            before = self._steps.get(one.unit)
            self._steps[one.unit] = one.step
            if before is not None and before != one.step:
                self._say(f"{one.unit} {one.step}")
        for failure in found.failures:
            if failure not in self._failures:
                self._say(f"{failure.unit} failed: {failed_words(failure)}")
        self._failures = set(found.failures)
        line = f"{found.order}: {sum_words(found)}"
        if line != self._sum:
            self._sum = line
            self._say(line)

    def close(self) -> None:
        pass

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class LiveTable:
    """Devices by step, a bar for each that is being staged, and the newest failures; fits the terminal's height."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, found: Progress) -> None:
        self._live.update(picture(found, self._console.size.height), refresh=True)

    def close(self) -> None:
        self._live.stop()


def picture(found: Progress, height: int) -> RenderableType:
    """All of it, cut to this many lines: what is under way and what has failed comes first."""
    failed = found.failures[:MAX_FAILURES]
    room = max(height - _FRAME_ROWS - (len(failed) + 1 if failed else 0), 3)
    order = {"staged": 0, "received": 1, "expected": 2}
    units = sorted(found.units, key=lambda one: (one.cause is None, order.get(one.step, 3), one.unit))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("unit", "step", "", "items", "at"):
        table.add_column(column, no_wrap=True)
    for one in units[:room]:
        table.add_row(*_cells(one))
    parts: list[RenderableType] = [
        Text(f"Order {found.order} for {found.site or 'no site'}", style="bold"),
        Text(sum_words(found)),
        table,
    ]
    if len(units) > room:
        parts.append(Text(f"and {len(units) - room} more", style="dim"))
    if failed:
        parts.append(Text(f"Failed ({len(found.failures)})", style="bold red"))
        parts += [Text(f"{one.unit}: {failed_words(one)}", style="red", no_wrap=True) for one in failed]
    return Group(*parts)


def sum_words(found: Progress) -> str:
    """`12 of 30 out of box or further; 2 expected, 16 staged, 12 out_of_box; 1 failed`."""
    gone = sum(found.steps.get(step, 0) for step in ("out_of_box", "shipped", "at_site"))
    steps = ", ".join(f"{count} {step}" for step, count in found.steps.items())
    failed = f"; {len(found.failures)} failed" if found.failures else ""
    return f"{gone} of {found.total} out of box{f' ({steps})' if steps else ''}{failed}"


def failed_words(one: Failure) -> str:
    return one.cause if one.item is None else f"{one.item} {one.version} ({one.cause})"


def _cells(one: UnitProgress) -> list[RenderableType]:
    colour = "red" if one.cause is not None else _COLOURS.get(one.step, "")
    return [
        Text(one.unit),
        Text(one.step, style=colour),
        ProgressBar(total=100, completed=one.percent, width=24),
        Text(f"{one.working}/{one.items}" if one.items else "-"),
        Text(one.cause or one.doing or "-"),
    ]
