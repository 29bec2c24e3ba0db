"""`firstlight demo` as an operator meets it: through a pipe, in a terminal, interrupted."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.cli.main import app
from tests.support.command_line import CliRunner
from tests.support.installation import clean_environment, firstlight


def _temporary_folders(where: Path) -> list[str]:
    return [path.name for path in where.iterdir() if path.name.startswith("firstlight-demo-")]


def _start(where: Path, *words: str, **streams) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "service", "demo", *words],
        cwd=Path(__file__).parents[3],
        env=clean_environment() | {"TMPDIR": str(where), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        **streams,
    )


def test_the_demo_ends_with_every_device_confirmed_and_a_summary_in_its_last_line(tmp_path: Path) -> None:
    done = firstlight("demo", "--devices", "3", "--image-size", "256KiB", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["devices"], summary["confirmed"], summary["bytes"]) == (3, 3, 3 * 256 * 1024)
    assert set(summary) == {
        *("devices", "confirmed", "seconds", "bytes", "activations_per_second", "megabytes_per_second", "lives")
    }
    assert summary["lives"] == {"sent": 3, "moved": 3, "replaced": True}
    assert done.stdout.count("group, key and thing are as before") == 3
    assert "T-003-NEW is" in done.stdout
    assert summary["seconds"] > 0
    assert "A release key lies on this machine while the demo runs: whoever has it can sign firmware." in done.stdout
    assert "T-003  confirmed" in done.stdout
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_in_a_terminal_the_demo_draws_a_live_table_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = _start(tmp_path, "--devices", "3", "--image-size", "64KiB", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(timeout=30) == 0, shown.decode(errors="replace")
    text = shown.decode()
    assert "\x1b[" in text
    assert "━" in text  # the progress bar
    assert "3 of 3 devices confirmed" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is back
    assert _temporary_folders(tmp_path) == []


def test_an_interrupted_demo_takes_its_service_and_folder_with_it(tmp_path: Path) -> None:
    process = _start(
        tmp_path, "--devices", "2", "--image-size", "64MiB", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    while b"downloading" not in (line := process.stdout.readline()):
        assert line, "the demo ended by itself"
    children = _children(process.pid)
    assert children
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    _gone(children)
    assert _temporary_folders(tmp_path) == []


def test_a_service_whose_demo_was_killed_ends_too(tmp_path: Path) -> None:
    process = _start(
        tmp_path, "--devices", "1", "--image-size", "64MiB", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    while b"downloading" not in (line := process.stdout.readline()):
        assert line, "the demo ended by itself"
    children = _children(process.pid)
    process.kill()
    process.communicate(timeout=30)
    _gone(children)


def test_a_demo_that_runs_out_of_time_says_how_far_it_came_and_fails(tmp_path: Path) -> None:
    done = firstlight("demo", "--devices", "1", "--image-size", "64MiB", "--timeout", "1", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["confirmed"] == 0


@pytest.mark.parametrize("words", [["--image-size", "2 miles"], ["--broker", "tcp://x"], ["--devices", "0"]])
def test_a_wrong_option_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch, words: list[str]) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    refused = CliRunner().invoke(app, ["demo", *words])
    assert refused.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def _children(of: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{of}/task/{of}/children").read_text().split()]


def _gone(pids: list[int], *, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while alive := [pid for pid in pids if _alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
