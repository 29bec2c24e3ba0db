"""`firstlight doctor` beside a running service: it finds nothing wrong and disturbs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.brokers.mosquitto.certificates import revoked_serials
from service.mqtt.port import Role
from tests.support import auditor
from tests.support.site import made_site

pytestmark = pytest.mark.mosquitto


@pytest.mark.parametrize("certificates", [False, True])
async def test_the_doctor_leaves_the_running_service_its_connections(tmp_path: Path, certificates: bool) -> None:
    async with made_site(tmp_path, "mosquitto", certificates=certificates) as site:
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
        assert ("operational: a revoked certificate is out within 2 s" in checks) is certificates
        if certificates:
            assert site.mosquittos is not None
            refused = revoked_serials(site.mosquittos.plan.crl.read_bytes())
            assert len(refused) == 2  # the canaries', for ten minutes
            assert auditor.audit(site.settings.database_path, refused=refused) == []
