"""The service key is exchanged under a real device with a private key, on Mosquitto, while the service runs; short cases
are unit tests.
"""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from service.mqtt.port import EVERYWHERE
from tests.support.site import ENVIRONMENT, OU, PRODUCT_ID, Site, made_site, until
from tests.support.site_agents import agent_file, run_once

pytestmark = [pytest.mark.mosquitto, pytest.mark.long, pytest.mark.timeout(600)]

GROUP = "signers"


async def public_keys(site: Site) -> dict[str, object]:
    return dict(json.loads(await site.command("keys", "public", "--json")))


async def test_a_device_follows_to_the_next_service_key_and_believes_it_alone(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    async with made_site(tmp_path / "site", "mosquitto", certificates=True) as site:
        await site.add_version("2.0", 2, b"firmware" * 1000)
        for role in EVERYWHERE:
            await site.start_broker(role)
        await site.start_service()
        await site.command(
            *("group", "create", GROUP, "--product", PRODUCT_ID, "--key-kind", "public_key"),
            *("--ou", OU, "--environment", ENVIRONMENT),
        )
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        await site.command("device", "register", GROUP, "one", "--public-key", base64.b64encode(der).decode())
        first = str((await public_keys(site))["service_public_key"])
        config = agent_file(site, "one", GROUP, private_key_file="device.pem", service_keys=[first])
        pem = config.with_name("device.pem")
        pem.touch(mode=0o600)
        pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

        async def device_is_told() -> bool:
            done = await run_once(config)
            assert done.returncode == 0, done.stdout + done.stderr
            return site.query("SELECT heard_rev = desired_rev FROM credential WHERE state = 'confirmed'") == [(1,)]

        await until(device_is_told, 120)
        await site.command("keys", "rotate-service")
        assert (await public_keys(site))["untold"] == 1
        await until(device_is_told, 120)
        found = await public_keys(site)
        assert (found["service_public_key"], found["untold"]) == (first, 0)
        await site.command("keys", "use-service")
        second = str((await public_keys(site))["service_public_key"])
        assert second == found["next"]
        # Its document is proven by the next key now, which the device's file has never named.
        await site.add_version("3.0", 3, b"newer firmware" * 1000)
        await until(device_is_told, 120)
        assert site.query("SELECT fw_state, fw_confirmed_seq FROM device WHERE serial = 'one'") == [("confirmed", 3)]
        (doc,) = site.query("SELECT desired_doc FROM credential WHERE state = 'confirmed'")[0]
        assert base64.b64decode(second) in doc
        assert base64.b64decode(first) not in doc
