"""The base package needs nothing: installed alone into an empty environment it runs the vectors and the core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from importlib.metadata import distributions
from device_sdk.core import client
from tests.vectors import check
assert {d.name for d in distributions()} == {"firstlight"}, [d.name for d in distributions()]
assert client.__file__.startswith(sys.prefix), client.__file__
print(check.check_keys(check.read("tests/vectors", "keys.json")), check.check_packer(check.read("tests/vectors", "packer.json")))
"""


def test_the_base_package_installs_alone_and_runs_a_vector(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "device_sdk", "service"):
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif origin.exists():
            shutil.copy(origin, source / name)
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(wheels), str(source)])
    (wheel,) = wheels.iterdir()
    empty = tmp_path / "empty"
    venv.create(empty, with_pip=False)
    run([*pip, "--python", str(empty / "bin" / "python"), "install", *offline, str(wheel)])
    checks = tmp_path / "checks" / "tests" / "vectors"
    checks.mkdir(parents=True)
    for path in (ROOT / "tests" / "vectors").glob("*.json"):
        shutil.copy(path, checks)
    shutil.copy(ROOT / "tests" / "vectors" / "check.py", checks)
    folder = tmp_path / "checks"
    done = run([str(empty / "bin" / "python"), "-c", PROGRAM], cwd=folder)
    assert [int(number) for number in done.stdout.split()] > [0, 0]


def run(command, cwd=None):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_", "COV_"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
