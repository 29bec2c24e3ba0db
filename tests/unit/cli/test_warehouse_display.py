"""What watching an order shows: a table that fits the terminal, lines for what changes, JSON for programs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from service.cli.warehouse_display import JsonLines, LiveTable, PlainLines, display_for, picture
from service.operations.warehouse_progress import Failure, Progress, UnitProgress

AT = datetime(2030, 1, 2, tzinfo=UTC)
FAILURE = Failure("g/t-01", "staged", "app", "2.1.0", "wrong_hash", AT)
UNITS = (
    UnitProgress("g/t-00", "out_of_box", 100, 5, 5),
    UnitProgress("g/t-01", "staged", 62, 1, 5, "app 2.1.0 failed", "app: wrong_hash"),
    UnitProgress("g/t-02", "staged", 40, 0, 5, "runtime 1.10 fetched"),
    UnitProgress("g/t-03", "expected"),
)
FOUND = Progress("SO-1", "hall-1", 4, {"expected": 1, "staged": 2, "out_of_box": 1}, UNITS, (FAILURE,))


def drawn(found, height=24):
    console = Console(file=io.StringIO(), width=100, height=height, force_terminal=False)
    console.print(picture(found, height))
    return console.file.getvalue()


def test_the_table_shows_failures_and_what_is_under_way_first():
    text = drawn(FOUND)
    assert "1 of 4 out of box (1 expected, 2 staged, 1 out_of_box); 1 failed" in text
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("g/t")]
    assert rows[:4] == ["g/t-01", "g/t-02", "g/t-03", "g/t-00"]
    assert "runtime 1.10 fetched" in text
    assert "g/t-01: app 2.1.0 (wrong_hash)" in text


@pytest.mark.parametrize("height", [10, 24, 50])
def test_the_table_fits_the_height_of_the_terminal(height):
    units = tuple(UnitProgress(f"g/u-{number:03}", "staged", number % 100) for number in range(200))
    failures = tuple(replace(FAILURE, unit=f"g/u-{number:03}") for number in range(20))
    text = drawn(Progress("SO-1", None, 200, {"staged": 200}, units, failures), height)
    assert "more" in text
    assert len(text.splitlines()) <= max(height, 18)


def test_plain_lines_tell_each_step_and_each_failure_once():
    out = io.StringIO()
    display = PlainLines(out)
    display.show(replace(FOUND, failures=()))
    display.show(FOUND)
    display.show(FOUND)
    moved = (*UNITS[:2], replace(UNITS[2], step="out_of_box"), UNITS[3])
    display.show(replace(FOUND, units=moved, steps={"expected": 1, "staged": 1, "out_of_box": 2}, failures=()))
    display.show(FOUND)
    display.close()
    assert out.getvalue().splitlines() == [
        "SO-1: 1 of 4 out of box (1 expected, 2 staged, 1 out_of_box)",
        "g/t-01 failed: app 2.1.0 (wrong_hash)",
        "SO-1: 1 of 4 out of box (1 expected, 2 staged, 1 out_of_box); 1 failed",
        "g/t-02 out_of_box",
        "SO-1: 2 of 4 out of box (1 expected, 1 staged, 2 out_of_box)",
        "g/t-02 staged",
        "g/t-01 failed: app 2.1.0 (wrong_hash)",
        "SO-1: 1 of 4 out of box (1 expected, 2 staged, 1 out_of_box); 1 failed",
    ]


def test_json_lines_come_when_something_has_changed():
    out = io.StringIO()
    display = JsonLines(out)
    for found in (FOUND, FOUND, replace(FOUND, failures=())):
        display.show(found)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["order"], first["done"], first["failures"][0]["cause"]) == ("SO-1", False, "wrong_hash")
    assert second["failures"] == []


def test_the_live_table_is_for_terminals_only():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100, height=24)
    live = display_for(as_json=False, console=terminal)
    assert isinstance(live, LiveTable)
    live.show(FOUND)
    live.close()
    assert "SO-1" in terminal.file.getvalue()
    pipe = Console(file=io.StringIO())
    assert isinstance(display_for(as_json=False, console=pipe), PlainLines)
    assert isinstance(display_for(as_json=True, console=terminal), JsonLines)
