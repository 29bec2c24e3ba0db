"""What all tests share: which programs they need, and what is said of those that could not run.

A test marked `mosquitto`, `micropython` or `chromium` is skipped where its program is missing, and the last lines of the run say so.
With FIRSTLIGHT_REQUIRE_ALL or CI set, every skip is a failure.

Of the cases of a test marked `sampled(n)` only n are run, drawn by FIRSTLIGHT_SEED (or a new seed, which is said); with
FIRSTLIGHT_SOAK set, as `make soak` does, all of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import sample
from tests.support.auditor import audit

# Some environments forbid Python to keep compiled modules. Then every program that a test starts would compile all of
# the service anew, half a second each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A run under nohup or in the background ignores these signals, and so would every program that a test starts.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# How quick a machine is says nothing about the code under test.
settings.register_profile("firstlight", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("firstlight")

# Where tests have databases. Rows that are written by hand are to be as the service would have written them; the few
# tests that begin with less are marked `unaudited`.
AUDITED = (
    *("integration", "faults", "property"),
    *(f"unit/{one}" for one in ("pipeline", "fleet", "cli", "operations", "storage", "http", "things")),
)
HERE = Path(__file__).parent
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
REQUIRE_ALL = bool(os.environ.get("FIRSTLIGHT_REQUIRE_ALL")) or os.environ.get("CI") == "true"


def _missing(marker: str) -> str | None:
    if marker == "mosquitto" and shutil.which("mosquitto", path=SEARCH) is None:
        return "the mosquitto program is not installed"
    if marker == "chromium" and not (shutil.which("chromium") and shutil.which("chromedriver")):
        return "chromium or its chromedriver is not installed"
    if marker == "micropython":
        if shutil.which("node", path=SEARCH) is None:
            return "node is not installed"
        if not (HERE / "micropython" / "node_modules").is_dir():
            return "the MicroPython build for node is not installed (npm ci in tests/micropython)"
    return None


@pytest.fixture(autouse=True)
def _audited(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the auditor looks at the databases that it left in its folder."""
    audited = request.path.relative_to(HERE).as_posix().startswith(AUDITED)
    audited = audited and request.node.get_closest_marker("unaudited") is None
    wanted = audited and "tmp_path" in request.fixturenames
    folder: Path | None = request.getfixturevalue("tmp_path") if wanted else None
    yield
    for path in folder.rglob("firstlight.db") if folder is not None else ():
        if path.stat().st_size:
            assert audit(path, settled=False) == [], f"the auditor on {path.relative_to(folder)}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in ("mosquitto", "micropython", "chromium"):
        if item.get_closest_marker(marker) is not None and (reason := _missing(marker)):
            pytest.skip(reason)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the sample does not take, of what -m and -k have left."""
    seed = sample.seed_of()
    if out := set(sample.left_out(items, seed)):
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=list(out))
        if (terminal := config.pluginmanager.get_plugin("terminalreporter")) is not None:
            terminal.write_line(f"sampled: {len(out)} cases are left to `make soak`; FIRSTLIGHT_SEED={seed}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    result = yield
    skipped = Counter(
        (report.nodeid.split("::")[0], _reason(report))
        for report in terminalreporter.stats.get("skipped", [])
        if hasattr(report, "nodeid")
    )
    if skipped:
        terminalreporter.write_line("")
        terminalreporter.write_line(f"NOT RUN: {sum(skipped.values())} tests were skipped:")
        for (file, reason), count in sorted(skipped.items()):
            terminalreporter.write_line(f"  {file}: {count}: {reason}")
    return result


def _reason(report) -> str:
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")
