"""Starting the real firstlight-device program in tests, with a scripted service behind a small MQTT server."""

from __future__ import annotations

import base64
import json
import os
import random
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_sdk.drivers import failpoints
from tests.support.mqtt_server import MqttServer
from tests.support.scripted_service import HARDWARE, PRODUCT, RELEASE_PUBLIC, ScriptedService

SERIAL = "sn-1"
KEY = bytes(range(32))
AGENT_EXIT_RESTART = 10


@contextmanager
def scripted_site(
    image_bytes: int = 300_001, seed: int = 1, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[ScriptedService, MqttServer]]:
    service = ScriptedService({SERIAL: KEY}, random.Random(seed).randbytes(image_bytes))
    with MqttServer(service.answer, tls=tls) as server:
        service.port = server.port
        server.login = service.login
        yield service, server


def write_config(folder: Path, port: int, **fields: object) -> Path:
    path = folder / "device.json"
    value = {
        "group_id": "factory-a",
        "serial": SERIAL,
        "key": base64.b64encode(KEY).decode(),
        "bootstrap": [{"host": "127.0.0.1", "port": port, "tls": False}],
        "release_keys": [base64.b64encode(RELEASE_PUBLIC).decode()],
        "product": PRODUCT,
        "hardware": HARDWARE,
        "firmware": {"name": "1.0"},
        **fields,
    }
    path.write_text(json.dumps(value))
    return path


def run_agent(
    config: Path, *options: str, failpoint: str | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    environment = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
    if failpoint is not None:
        environment[failpoints.VARIABLE] = failpoint
    command = [sys.executable, "-m", "device_sdk.drivers.agent", "--config", str(config), *options]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=_REPOSITORY
    )


_REPOSITORY = Path(__file__).parents[2]
