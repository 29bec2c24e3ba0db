"""The doctor passes a good set-up and names what is wrong with a bad one."""

from __future__ import annotations

import secrets
from contextlib import suppress

import pytest

from service.brokers import doctor
from service.brokers.canary import Door
from service.brokers.doctor import Patient, examine
from service.brokers.mosquitto.plan import SERVICE_USER
from service.mqtt.port import Role
from tests.support.broker_site import Site


def patient_of(site: Site) -> Patient:
    return Patient(
        environment="test",
        doors={role: Door("127.0.0.1", port, site.tls) for role, port in site.ports.items()},
        service_doors={role: Door("127.0.0.1", port) for role, port in site.service_ports.items()},
        service_login={role: (SERVICE_USER, password) for role, password in site.passwords.items()},
        gate=site.gate,
        token=lambda: secrets.token_hex(16),
        plan=site.real.plan if site.real is not None else None,
    )


async def failures(site: Site) -> list[str]:
    return [f"{check.name}: {check.reason}" async for check in examine(patient_of(site)) if not check.ok]


async def test_a_good_set_up_passes_and_no_canary_stays_behind(site: Site) -> None:
    checks = [check async for check in examine(patient_of(site))]
    assert [check for check in checks if not check.ok] == []
    assert len(checks) > 15
    assert await site.gate.snapshot() == frozenset()


async def test_a_short_check_proves_publish_subscribe_grant_and_drop_only(site: Site) -> None:
    checks = [check async for check in examine(patient_of(site), brief=True)]
    assert [(check.name, check.ok) for check in checks] == [
        ("bootstrap: the service gets in", True),
        ("bootstrap: a device reaches the service and gets its answer", True),
        ("operational: the service gets in", True),
        ("operational: a device reaches the service and gets its answer", True),
        ("operational: a revoked device is out within 2 s", True),
        ("warehouse: the service gets in", True),
        ("warehouse: a device reaches the service and gets its answer", True),
    ]
    assert await site.gate.snapshot() == frozenset()


def test_the_known_traps_of_a_broker_are_named_and_a_new_one_has_fewer() -> None:
    old, new = doctor.version_traps("mosquitto version 2.0.11"), doctor.version_traps("mosquitto version 2.1.2")
    assert old.ok
    assert "render before each start" in old.reason
    assert new.reason == ""
    assert "not known" in doctor.version_traps("").reason


FAULTS = {
    "a pattern that ends in #": ("pattern read pv1/c/%u/dn/+", "pattern read pv1/c/%u/#"),
    "a load-test identity": ("user firstlight\n", "user loadtest\ntopic readwrite pv1/#\n\nuser firstlight\n"),
    "everything for everybody": (
        "pattern read pv1/c/%u/dn/+\n",
        "pattern read pv1/c/%u/dn/+\npattern readwrite pv1/c/+/+/+\n",
    ),
    "answers of others can be written": (
        "pattern write pv1/c/%u/up/+",
        "pattern write pv1/c/+/dn/+\npattern write pv1/c/%u/up/+",
    ),
}


@pytest.mark.mosquitto
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_bad_acl_file_is_found(real_site: Site, fault: str) -> None:
    real = real_site.real
    assert real is not None
    acl = real.plan.acl(Role.OPERATIONAL)
    good, bad = FAULTS[fault]
    assert good in acl.read_text()
    acl.write_text(acl.read_text().replace(good, bad))
    found = [check for check in doctor.files(real.plan) if not check.ok]
    assert [check.name.split(":")[0] for check in found] == ["operational"]
    assert "the ACL file is whole" in found[0].name


@pytest.mark.mosquitto
async def test_a_broker_that_is_shut_is_found_without_waiting_for_every_check(real_site: Site, monkeypatch) -> None:
    real = real_site.real
    assert real is not None
    real.plan.acl(Role.OPERATIONAL).write_text("nonsense\n")
    real.hang_up(Role.OPERATIONAL)
    found = []
    async for check in examine(patient_of(real_site)):
        if check.name == "operational: the service gets in":  # from here on nothing arrives
            monkeypatch.setattr("service.brokers.canary.WAIT_S", 0.5)
        found += [] if check.ok else [f"{check.name}: {check.reason}"]
    assert any("damaged" in line or "no ACL rule" in line for line in found)
    assert any("operational: a device reaches the service" in line for line in found)
    assert len(found) == 2


@pytest.mark.mosquitto
async def test_an_acl_that_lets_one_device_write_and_read_another_s_topics_is_found_by_the_canaries(
    real_site: Site,
) -> None:
    """Without looking at files, as on a broker elsewhere."""
    real = real_site.real
    assert real is not None
    acl = real.plan.acl(Role.OPERATIONAL)
    acl.write_text(acl.read_text() + "pattern readwrite pv1/c/+/dn/+\npattern write $CONTROL/#\n")
    real.hang_up(Role.OPERATIONAL)
    found = []
    patient = patient_of(real_site)
    with suppress(StopAsyncIteration):
        found = [c.name async for c in doctor._broker(patient, Role.OPERATIONAL, brief=False) if not c.ok]
    assert {"operational: a device cannot write another's requests or answers",
            "operational: a second device on # receives nothing",
            "operational: a last will does not reach another device"} <= set(found)  # fmt: skip


@pytest.mark.mosquitto
async def test_a_missing_guard_and_a_login_with_a_role_are_found(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    config, dynsec = real.plan.config(Role.BOOTSTRAP), real.plan.dynsec(Role.BOOTSTRAP)
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("plugin ")))
    dynsec.write_text(
        dynsec.read_text().replace('"roles": [],\n   "password"', '"roles": [{"rolename": "x"}],\n   "password"')
    )
    found = [check.name for check in doctor.files(real.plan) if not check.ok]
    assert "bootstrap: the guard plugin and the ACL file are in the configuration" in found
    assert "bootstrap: no login of the plugin has a role but the admin's, and all defaults are shut" in found


async def test_a_broker_that_is_not_there_is_a_failed_check(embedded: Site) -> None:
    embedded.service_ports[Role.BOOTSTRAP] = 1
    embedded.ports[Role.OPERATIONAL] = 1
    found = await failures(embedded)
    assert any(line.startswith("bootstrap: checks ran to their end") for line in found)
    assert any(line.startswith("operational: ") for line in found)
