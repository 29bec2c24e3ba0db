"""device_sdk.wire and device_sdk.core on MicroPython's WebAssembly build under node."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

pytestmark = pytest.mark.micropython


def run(program: Path) -> str:
    done = subprocess.run(
        ["node", "run.mjs", str(ROOT), str(program)], cwd=HERE, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wire_agrees_with_every_golden_vector():
    lines = run(HERE / "vectors_program.py").split("\n")
    assert [line.split()[0] for line in lines if line] == ["canon", "keys", "ids", "frames", "packer"]


def test_a_device_activates_downloads_installs_and_is_confirmed():
    assert run(HERE / "core_program.py").startswith("confirmed")


def test_a_program_that_fails_is_a_failure(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("from device_sdk.wire import keys\nassert keys.same(b'a', b'b')\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="AssertionError"):
        run(program)
