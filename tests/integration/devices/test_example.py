"""The example in the documentation does what it says."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from device_sdk import Endpoint
from tests.support.agents import KEY, SERIAL, scripted_site
from tests.support.scripted_service import RELEASE_PUBLIC

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "minimal_device.py"


async def test_the_minimal_device_activates_and_confirms_its_firmware(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("minimal_device", EXAMPLE)
    assert spec is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with scripted_site() as (service, server):
        stop = asyncio.Event()
        endpoint = Endpoint("127.0.0.1", server.port, tls=False)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(example.main(KEY, RELEASE_PUBLIC, endpoint, tmp_path, stop))
            while service.firmware.get(SERIAL, {}).get("state") != "confirmed":
                await asyncio.sleep(0.02)  # polls the scripted service, which runs in another thread
            stop.set()
    assert service.confirmed == {SERIAL}
    assert "the new image starts" in capsys.readouterr().out


def test_the_example_stays_about_twenty_lines():
    body = EXAMPLE.read_text().split('"""', 2)[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20


def test_importing_the_sdk_or_its_core_loads_no_library():
    code = "import sys, device_sdk, device_sdk.core.client; device_sdk.Client; print(sorted({'aiomqtt', 'paho', 'cryptography'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
        cwd=EXAMPLE.parents[2],
    )
    assert done.stdout.strip() == "[]"


def test_the_documentation_shows_the_example_as_it_is():
    shown = (EXAMPLE.parents[1] / "device-sdk.md").read_text().split("```python\n")[1].split("```")[0]
    assert shown.strip() in EXAMPLE.read_text()
