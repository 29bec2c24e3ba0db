"""An environment's certificate authority is exchanged under devices with certificates, on Mosquitto."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.brokers.mosquitto.certificates import load_issuer
from service.mqtt.port import EVERYWHERE
from tests.support.site import ENVIRONMENT, GROUP, Site, made_site, until
from tests.support.site_agents import agent_file, run_once

pytestmark = [pytest.mark.mosquitto, pytest.mark.long, pytest.mark.timeout(600)]
REFUSED = 5


async def stepped(site: Site, *command: str) -> dict[str, object]:
    """The service and the brokers stopped, that command done, everything rendered and back."""
    assert await site.stop_service() == 0, site.log()
    said = json.loads(await site.command("environment", *command, "--json"))
    assert site.mosquittos is not None
    site.mosquittos.issuer = load_issuer(site.settings.ca_dir(ENVIRONMENT))
    for role in EVERYWHERE:
        await site.stop_broker(role)
        await site.start_broker(role)
    await site.start_service()
    return dict(said)


async def works(config: Path) -> None:
    done = await run_once(config)
    assert done.returncode == 0, done.stdout + done.stderr


async def blocked(site: Site, serial: str, config: Path) -> None:
    await site.command("device", "block", f"{GROUP}/{serial}")
    await until(lambda: site.query("SELECT 1 FROM credential WHERE state = 'dropped' AND revoked_at IS NULL") == [])
    assert (await run_once(config, "--timeout", "5")).returncode == REFUSED


async def test_devices_follow_to_the_next_authority_and_what_the_old_one_revoked_stays_out(tmp_path):
    async with made_site(tmp_path / "site", "mosquitto", certificates=True) as site:
        await site.add_version("2.0", 2, b"firmware" * 1000)
        for role in EVERYWHERE:
            await site.start_broker(role)
        await site.start_service()
        await site.register(["one", "out", "late", "late-out"])
        one, out = agent_file(site, "one", x509=True), agent_file(site, "out", x509=True)
        for config in (one, out):
            await works(config)
        await blocked(site, "out", out)
        first = await stepped(site, "rotate-ca", ENVIRONMENT)

        async def has_heard() -> bool:
            await works(one)
            return site.query("SELECT heard_rev = desired_rev FROM credential WHERE state = 'confirmed'") == [(1,)]

        await until(has_heard, 120)
        told = json.loads(await site.command("environment", "authorities", ENVIRONMENT, "--json"))
        assert [first[one] for one in ("waiting", "blocked", "not_activated")] == [1, 1, 2]
        assert [told[one] for one in ("waiting", "blocked", "not_activated")] == [0, 1, 2]
        used = await stepped(site, "use-ca", ENVIRONMENT)
        assert used["current"] == told["next"] != first["current"]
        # 1. Whoever has heard believes the brokers' new certificates, and is let in with one of the old authority.
        await works(one)
        # 2. What the old authority gave and was revoked stays out.
        assert (await run_once(out, "--timeout", "5")).returncode == REFUSED
        # 3. Who comes now has a certificate of the new one, which can be revoked too.
        late, late_out = agent_file(site, "late", x509=True), agent_file(site, "late-out", x509=True)
        for config in (late, late_out):
            await works(config)
        await blocked(site, "late-out", late_out)
        # 4. The old one is forgotten; who is of the new one goes on.
        await stepped(site, "forget-ca", ENVIRONMENT, "--at-most", "1")
        await works(late)
        assert (await run_once(late_out, "--timeout", "5")).returncode == REFUSED
