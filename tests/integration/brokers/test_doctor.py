"""The doctor passes a good set-up and names what is wrong with a bad one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from service.brokers import doctor
from service.brokers.canary import Door
from service.brokers.certified import CertificateDoor
from service.brokers.doctor import examine
from service.brokers.gate import BrokerGate, Login
from service.brokers.mosquitto.control import DynsecControl
from service.brokers.mosquitto.gate import MosquittoGate
from service.brokers.mosquitto.plan import DOCTOR_USER, SERVICE_USER
from service.brokers.mosquitto.render import read_password
from service.brokers.trials import Patient
from service.credentials.authority import Authority, Issued
from service.mqtt.port import Role
from tests.support.broker_site import Site
from tests.support.mosquitto import Mosquittos


def patient_of(site: Site) -> Patient:
    return Patient(
        environment="test",
        doors={role: Door("127.0.0.1", port, site.tls) for role, port in site.ports.items()},
        service_doors={role: Door("127.0.0.1", port) for role, port in site.service_ports.items()},
        service_login={role: (SERVICE_USER, password) for role, password in site.passwords.items()},
        gate=site.gate,
        token=lambda: secrets.token_hex(16),
        plan=site.real.plan if site.real is not None else None,
        certificates=certificate_door(site),
    )


def certificate_door(site: Site) -> CertificateDoor | None:
    real = site.real
    if real is None or real.plan.x509 is None:
        return None

    async def remember(issued: Issued) -> None:
        site.revoked.now.add(int(issued.serial, 16))

    authority = Authority(real.issuer.private_key, real.issuer.certificate)
    return CertificateDoor("127.0.0.1", real.plan.x509.port, authority.ca_pem, authority, remember)


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
    assert "bootstrap: no login of the plugin has a role but the admins', and all defaults are shut" in found


async def test_a_broker_that_is_not_there_is_a_failed_check(embedded: Site) -> None:
    embedded.service_ports[Role.BOOTSTRAP] = 1
    embedded.ports[Role.OPERATIONAL] = 1
    found = await failures(embedded)
    assert any(line.startswith("bootstrap: checks ran to their end") for line in found)
    assert any(line.startswith("operational: ") for line in found)


# --- one bad set-up for each check: it is found by that check, and the others still pass --------------------------------


def _reconfigured(real: Mosquittos, role: Role, *changes: tuple[str, str]) -> None:
    """Restart one Mosquitto with another configuration."""
    real.stop(role)
    config = real.plan.config(role)
    text = config.read_text()
    for good, bad in changes:
        assert good in text
        text = text.replace(good, bad)
    config.write_text(text)
    real.start(role)


class _Careless(MosquittoGate):
    """Makes logins with something more, or less, than ours have."""

    def __init__(self, site: Site, **more: object) -> None:
        control = site.control
        assert control is not None
        super().__init__(control, site.gate._crl if isinstance(site.gate, MosquittoGate) else None)
        self._careless, self._more = control, more

    async def grant(self, logins: Sequence[Login]) -> None:
        for login in logins:
            assert login.api_key is not None
            name, password = login.credential_id, login.api_key.reveal().decode()
            command = {"command": "createClient", "username": name, "password": password, "clientid": name}
            await self._careless.ask([{**command, **self._more}])


async def _found(site: Site, role: Role, gate: BrokerGate | None = None) -> set[str]:
    patient = patient_of(site)
    patient = replace(patient, gate=gate or patient.gate)
    return {check.name async for check in doctor._broker(patient, role) if not check.ok}


@pytest.mark.mosquitto
async def test_a_client_id_with_a_slash_that_gains_something_is_found(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    acl = real.plan.acl(Role.BOOTSTRAP)
    acl.write_text(acl.read_text().replace("pattern write pv1/b/%c/up/+", "pattern write pv1/b/%c/#"))
    real.hang_up(Role.BOOTSTRAP)
    assert "bootstrap: a client id with a slash or a wildcard gains nothing" in await _found(real_site, Role.BOOTSTRAP)


@pytest.mark.mosquitto
async def test_a_login_that_may_take_another_s_client_id_is_found(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    _reconfigured(real, Role.OPERATIONAL, ("use_username_as_clientid true\n", ""))
    found = await _found(real_site, Role.OPERATIONAL, _Careless(real_site, clientid=""))
    assert found >= {"operational: a device cannot take another's client id"}


@pytest.mark.mosquitto
async def test_a_certificate_with_which_another_s_client_id_can_be_taken_is_found(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    _reconfigured(real, Role.OPERATIONAL, ("use_username_as_clientid true\n", ""))
    assert await _found(real_site, Role.OPERATIONAL) == {
        "operational: a device with a certificate cannot take another's client id"
    }


@pytest.mark.mosquitto
async def test_a_listener_that_asks_for_no_certificate_and_for_no_list_of_revoked_ones_is_found(
    real_site: Site,
) -> None:
    real = real_site.real
    assert real is not None
    open_to_all = ("require_certificate true\nuse_identity_as_username true\n", "allow_anonymous true\n")
    _reconfigured(
        real,
        Role.OPERATIONAL,
        (f"crlfile {real.plan.crl}\n", ""),
    )
    assert await _found(real_site, Role.OPERATIONAL) == {"operational: a revoked certificate is out within 2 s"}
    _reconfigured(real, Role.OPERATIONAL, open_to_all, ("allow_anonymous false\n", ""))
    found = await _found(real_site, Role.OPERATIONAL)
    assert "operational: a device with a certificate reaches the service and gets its answer" in found


@pytest.mark.mosquitto
async def test_a_broker_that_keeps_retained_messages_is_found(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    _reconfigured(real, Role.OPERATIONAL, ("retain_available false\n", ""))
    assert await _found(real_site, Role.OPERATIONAL) == {"operational: a retained message is not kept"}


@pytest.mark.mosquitto
async def test_a_broker_that_lets_strangers_in_is_found(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    anonymous = ("allow_anonymous false", "allow_anonymous true")
    _reconfigured(real, Role.OPERATIONAL, anonymous, ("use_username_as_clientid true\n", ""))
    assert "operational: nobody gets in without the right login" in await _found(real_site, Role.OPERATIONAL)


@pytest.mark.mosquitto
async def test_a_device_that_may_make_logins_is_found(real_site: Site) -> None:
    found = await _found(real_site, Role.OPERATIONAL, _Careless(real_site, roles=[{"rolename": "admin"}]))
    assert found >= {"operational: a device cannot make logins"}


@pytest.mark.mosquitto
async def test_the_doctor_s_login_does_not_throw_the_service_s_out(real_site: Site) -> None:
    real, control = real_site.real, real_site.control
    assert real is not None
    assert control is not None
    password = read_password(real.plan.doctor_password_file)
    doctors = DynsecControl("127.0.0.1", real.plan.operational_service_port, password, user=DOCTOR_USER, client_id="d")
    task = asyncio.create_task(doctors.run())
    try:
        patient = replace(patient_of(real_site), gate=MosquittoGate(doctors))
        failed = [check async for check in doctor._broker(patient, Role.OPERATIONAL, brief=True) if not check.ok]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert failed == []
    assert (control.connects, control.connected.is_set(), doctors.connects) == (1, True, 1)
