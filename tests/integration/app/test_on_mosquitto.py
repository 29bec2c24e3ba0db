"""An installation on real Mosquittos, by the operator's commands only: init, broker render, serve, and a small fleet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_sdk.simulator.fleet import Fleet
from service.demo.options import DemoOptions
from service.demo.world import World, populate
from service.installation import broker_plan
from service.mqtt.port import EVERYWHERE
from service.settings import load_settings
from tests.support.installation import firstlight, serving, wait_for_port
from tests.support.mosquitto import SEARCH, Mosquittos
from tests.support.ports import free_ports

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[World, Mosquittos]]:
    """Initialised, filled and with both brokers running."""
    made = firstlight("init", tmp_path, "--broker", "mosquitto", "--host", "localhost")
    assert made.returncode == 0, made.stderr
    config = tmp_path / "firstlight.toml"
    _use_free_ports(config)
    rendered = firstlight("--config", config, "broker", "render")
    assert rendered.returncode == 0, rendered.stderr
    settings = load_settings(config)
    ca_pem = (settings.ca_dir("local") / "ca.pem").read_text()
    world = asyncio.run(populate(settings, config, DemoOptions(devices=3, image_bytes=128 * 1024), ca_pem=ca_pem))
    brokers = Mosquittos(tmp_path / "unused")
    brokers.plan = broker_plan(settings, "local")
    try:
        for role in EVERYWHERE:
            brokers.start(role)
        yield world, brokers
    finally:
        for role in [*brokers.processes]:
            brokers.stop(role)


def _use_free_ports(config: Path) -> None:
    """Ports of this test; and brokers started by root stay root, so that they read the test's folder."""
    ports = iter(free_ports(5))
    text = re.sub(r"^port = (?!8787)\d+", lambda _: f"port = {next(ports)}", config.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^port = 8787", f"port = {free_ports(1)[0]}", text, flags=re.MULTILINE)
    config.write_text(text.replace('run_as = "mosquitto"', 'run_as = "root"'))


def test_a_fleet_comes_in_over_tls_and_the_service_outlives_a_restart_of_both_brokers(
    site: tuple[World, Mosquittos],
) -> None:
    world, brokers = site
    with serving(world.config, world.settings.http.port) as serve:
        serve.wait_until(200)
        assert asyncio.run(_confirmed(world, count=2))
        examined = firstlight(
            "--config", world.config, "doctor"
        )  # beside the service, whose comparison leaves it alone
        assert examined.returncode == 0, examined.stdout + examined.stderr
        for role in EVERYWHERE:
            brokers.stop(role, signal.SIGKILL)
        serve.wait_until(503)
        assert firstlight("--config", world.config, "broker", "render").returncode == 0
        for role in EVERYWHERE:
            brokers.start(role)
        serve.wait_until(200)
        assert asyncio.run(_confirmed(world, count=3))
        assert serve.stop()[0] == 0


async def _confirmed(world: World, *, count: int) -> bool:
    """Whether the first `count` devices confirm the target, each from the factory on."""
    fleet = Fleet(world.identities[count - 1 : count], seed=count, jitter_s=0.1, target=world.target_version_id)
    return await fleet.run_until_confirmed(60)


def test_the_demo_runs_on_a_broker_that_somebody_else_runs(tmp_path: Path) -> None:
    with _open_broker(tmp_path) as port:
        done = firstlight(
            *("demo", "--devices", "2", "--image-size", "64KiB", "--broker", f"mqtt://127.0.0.1:{port}"), cwd=tmp_path
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Access control is not exercised" in done.stdout
    assert "2 of 2 devices confirmed" in done.stdout


@contextlib.contextmanager
def _open_broker(folder: Path) -> Iterator[int]:
    """A Mosquitto as it comes, without any access control."""
    (port,) = free_ports(1)
    config = folder / "open.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{'user root' if os.geteuid() == 0 else ''}\n")
    process = subprocess.Popen(
        [shutil.which("mosquitto", path=SEARCH), "-c", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)
