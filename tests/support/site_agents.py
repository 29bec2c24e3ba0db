"""A site's device as `firstlight-device`: its JSON file and its process."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from pathlib import Path

from tests.support.agents import run_agent
from tests.support.site import ENVIRONMENT, FACTORY, GROUP, HARDWARE, PRODUCT, Site


def agent_file(site: Site, serial: str, group_id: str = GROUP, **fields: object) -> Path:
    """`device.json` in a folder of its own; `fields` are added, None takes one away."""
    folder = site.folder / f"agent-{group_id}-{serial}"
    folder.mkdir()
    end = site.settings.environments[ENVIRONMENT].endpoints.bootstrap
    broker: dict[str, object] = {"host": end.host, "port": end.port, "tls": end.tls}
    if end.tls:
        broker["ca"] = str(site.settings.ca_dir(ENVIRONMENT) / "ca.pem")
    key = site.keys.get((group_id, serial))
    value: dict[str, object] = {
        "group_id": group_id,
        "serial": serial,
        "key": None if key is None else base64.b64encode(key).decode(),
        "bootstrap": [broker],
        "release_keys": [base64.b64encode(site.release_key).decode()],
        "product": PRODUCT,
        "hardware": HARDWARE,
        "firmware": {"name": FACTORY, "seq": 1},
        **fields,
    }
    path = folder / "device.json"
    path.write_text(json.dumps({name: item for name, item in value.items() if item is not None}))
    return path


async def run_once(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Until nothing is left to do."""
    return await asyncio.to_thread(run_agent, config, "--once", "--timeout", "50", *options)
