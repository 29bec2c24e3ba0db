"""`firstlight doctor` beside a running service: it finds nothing wrong and disturbs nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.brokers.mosquitto import certificates
from service.mqtt.port import Role
from tests.support import auditor
from tests.support.site import made_site

pytestmark = pytest.mark.mosquitto


@pytest.mark.parametrize("certified", [False, True])
async def test_the_doctor_leaves_the_running_service_its_connections(tmp_path: Path, certified: bool) -> None:
    async with made_site(tmp_path, "mosquitto", certificates=certified) as site:
        for role in (Role.BOOTSTRAP, Role.OPERATIONAL):
            await site.start_broker(role)
        async with site.serving_here() as service:
            (deployment,) = service.deployments
            control = deployment._control
            assert control is not None
            await control.connected.wait()
            report = json.loads(await site.command("doctor", "--json"))
            checks = [one["check"] for one in report["checks"]]
            assert [one for one in report["checks"] if not one["ok"]] == []
            assert (control.connects, control.connected.is_set()) == (1, True)
            assert [link.state.connects for link in deployment.links] == [1, 1]
        assert ("operational: a revoked certificate is out within 2 s" in checks) is certified
        if certified:
            assert site.mosquittos is not None
            refused = certificates.revoked_serials(site.mosquittos.plan.crl.read_bytes())
            assert len(refused) == 2  # the canaries', for ten minutes
            assert auditor.audit(site.settings.database_path, refused=refused) == []


async def test_health_warns_of_every_listener_whose_certificate_soon_ends(tmp_path: Path, monkeypatch) -> None:
    async with made_site(tmp_path, "mosquitto") as site:
        for role in (Role.BOOTSTRAP, Role.OPERATIONAL):
            await site.start_broker(role)
        async with site.serving_here() as service:
            await service.certificates.look()
            assert (await service.health_report({}))["warnings"] == []
            monkeypatch.setattr("service.brokers.expiry.ENOUGH", certificates.SERVER_LIFE)
            health = await service.health_report({})
            assert (health["ok"], len(health["warnings"])) == (True, 2)
            assert all("ends in 396 days" in one for one in health["warnings"])
            monkeypatch.setattr(
                service.certificates, "_clock", lambda: datetime.now(UTC) + certificates.SERVER_LIFE + timedelta(days=1)
            )
            health = await service.health_report({})
            assert (health["ok"], len(health["problems"])) == (False, 2)
