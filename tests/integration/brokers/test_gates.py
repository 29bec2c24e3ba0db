"""A credential works when its holder is told, and is dead within two seconds of being dropped, live session included."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import aiomqtt
import pytest

from service.brokers import doctor
from service.brokers.expiry import End, shown_until
from service.brokers.gate import CANARY_PREFIX, GateError, Login
from service.brokers.mosquitto import certificates
from service.brokers.mosquitto.gate import MosquittoGate, reload_by_command, reload_by_signal
from service.brokers.mosquitto.revocation import RevocationList
from service.domain.credential import CredentialKind
from service.mqtt.port import Role
from service.pipeline.bounds import Bounds
from service.pipeline.granter import Granter
from service.pipeline.record import Record
from tests.support.broker_site import Site, account_login, api_key_login
from tests.support.mosquitto import Remembered

A, B, C = (api_key_login(n) for n in (0xA, 0xB, 0xC))
DEAD_WITHIN_S = 2.0


async def expected(*logins: Login):
    for login in logins:
        yield login


async def reconcile(site: Site, logins) -> tuple[int, int]:
    return await Granter(site.gate, Bounds(), Record(10)).reconcile(logins)


async def test_a_granted_login_works_at_once_and_a_second_grant_does_not_disturb_it(site: Site) -> None:
    await site.gate.grant([A])
    async with site.device(A) as device, site.service(Role.OPERATIONAL) as service:
        await device.subscribe(f"pv1/c/{A.credential_id}/dn/+")
        await site.gate.grant([A, B])
        await service.say(f"pv1/c/{A.credential_id}/dn/online")
        await device.heard(f"pv1/c/{A.credential_id}/dn/online")
        assert not device.lost.is_set()


async def test_a_revoked_login_is_dead_within_two_seconds_and_the_others_live_on(site: Site) -> None:
    await site.gate.grant([A, B])
    async with site.device(A) as device, site.device(B) as other:
        started = time.monotonic()
        await site.gate.revoke([A])
        async with asyncio.timeout(DEAD_WITHIN_S):
            await device.lost.wait()
        with pytest.raises(aiomqtt.MqttError):
            await site.device(A).__aenter__()
        assert time.monotonic() - started < DEAD_WITHIN_S
        await other.subscribe(f"pv1/c/{B.credential_id}/dn/+")
        assert not other.lost.is_set()
    await site.gate.revoke([A])  # a repeat is no error
    assert await site.gate.snapshot() == {B.credential_id}


async def test_reconcile_deletes_what_the_database_does_not_know_and_grants_what_the_broker_lost(site: Site) -> None:
    await site.gate.grant([A, B])
    async with site.device(B) as extra:
        assert await reconcile(site, expected(A, C)) == (1, 1)
        async with asyncio.timeout(DEAD_WITHIN_S):
            await extra.lost.wait()
    assert await site.gate.snapshot() == {A.credential_id, C.credential_id}
    async with site.device(C):
        pass
    assert await reconcile(site, expected(A, C)) == (0, 0)


async def test_a_login_whose_key_is_not_at_hand_is_not_granted_in_silence(site: Site) -> None:
    with pytest.raises(GateError):
        await site.gate.grant([Login("9" * 32, CredentialKind.API_KEY)])
    assert await site.gate.snapshot() == frozenset()


@pytest.mark.mosquitto
async def test_a_revoked_certificate_is_dead_within_two_seconds(real_site: Site, tmp_path) -> None:
    device, login = real_site.certified("c" * 32, tmp_path)
    other, _ = real_site.certified("d" * 32, tmp_path)
    async with device, other:
        started = time.monotonic()
        await real_site.gate.revoke([login])
        async with asyncio.timeout(DEAD_WITHIN_S):
            await device.lost.wait()
        assert time.monotonic() - started < DEAD_WITHIN_S
        refused = real_site.certified_again("c" * 32, tmp_path)
        refused.client.timeout = 2
        with pytest.raises(aiomqtt.MqttError):
            await refused.__aenter__()
        renewed, _ = real_site.certified("c" * 32, tmp_path)  # a new certificate of the same name is another matter
        async with renewed:
            pass
        await other.subscribe(f"pv1/c/{'d' * 32}/dn/+")
        assert not other.lost.is_set()
    assert await real_site.gate.snapshot() == frozenset()  # the kick left no login behind


@pytest.mark.mosquitto
async def test_a_thousand_and_more_logins_are_listed_by_pages(real_site: Site) -> None:
    logins = [api_key_login(n) for n in range(1, 1102)]
    real, control = real_site.real, real_site.control
    assert real is not None
    assert control is not None
    await control.connected.wait()
    real.stop(Role.OPERATIONAL)
    real.render(logins)
    real.start(Role.OPERATIONAL)
    assert await real_site.gate.snapshot() == {login.credential_id for login in logins}


@pytest.mark.mosquitto
async def test_the_broker_s_file_lost_or_emptied_is_rebuilt_before_its_next_start(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    for break_it in (lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
        real.stop(Role.OPERATIONAL)
        break_it(real.plan.dynsec(Role.OPERATIONAL))
        real.render([A, B])
        real.start(Role.OPERATIONAL)
        async with real_site.device(A), real_site.device(B):
            pass


@pytest.mark.mosquitto
async def test_a_broker_that_starts_from_its_file_has_the_accounts_and_they_are_left_alone(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    alice, erp = account_login("alice", "o"), account_login("erp", "e")
    await real_site.gate.set_accounts([alice, account_login("gone", "o")])
    real.stop(Role.OPERATIONAL, 9)
    real.render(accounts=[alice, erp, account_login("late", "o", b"old")])
    real.start(Role.OPERATIONAL)
    async with real_site.account(alice) as one, real_site.account(erp, "erp.2") as two:
        assert real_site.control is not None
        await real_site.control.connected.wait()
        late = account_login("late", "o", b"new")
        assert await real_site.gate.set_accounts([alice, erp, late]) == (1, 1)
        async with real_site.account(late):
            pass
        await one.subscribe("pv1/o/alice/dn/#")
        assert not one.lost.is_set()
        assert not two.lost.is_set()


DRIFTS = {
    "a login is gone": {"command": "deleteClient", "username": "alice.3"},
    "a login is disabled": {"command": "disableClient", "username": "alice"},
    "a login may use any client id": {"command": "setClientId", "username": "alice", "clientid": ""},
    "a role reaches further": {
        "command": "addRoleACL", "rolename": "account-alice", "acltype": "publishClientSend", "topic": "#", "allow": True
    },
    "another account's role": {
        "command": "modifyClient", "username": "alice.2", "roles": [{"rolename": "account-bob"}]
    },
    "a stranger": {"command": "createClient", "username": "mallory", "password": "m"},
}  # fmt: skip


@pytest.mark.mosquitto
async def test_an_account_that_somebody_has_changed_at_the_broker_is_mended(real_site: Site, monkeypatch) -> None:
    monkeypatch.setattr("service.brokers.mosquitto.accounts.LOOK_AGAIN_S", 0)
    alice, bob = account_login("alice", "o"), account_login("bob", "o")
    control = real_site.control
    assert control is not None
    assert await real_site.gate.set_accounts([alice, bob]) == (2, 0)
    for drift, command in DRIFTS.items():
        (answer,) = await control.ask([command])
        assert "error" not in answer, (drift, answer)
        mended = await real_site.gate.set_accounts([alice, bob])
        assert mended == ((0, 1) if drift == "a stranger" else (1, 1)), drift
        assert await real_site.gate.set_accounts([alice, bob]) == (0, 0), drift
    assert [check for check in doctor.files(real_site.real.plan) if not check.ok] == []


@pytest.mark.mosquitto
async def test_a_comparison_leaves_the_doctors_logins_alone(real_site: Site) -> None:
    canary = replace(A, credential_id=CANARY_PREFIX + A.credential_id[len(CANARY_PREFIX) :])
    await real_site.gate.grant([canary])
    assert await reconcile(real_site, expected(B)) == (1, 0)
    assert canary.credential_id in await real_site.gate.snapshot()


async def test_a_killed_broker_comes_back_and_the_drift_is_mended(real_site: Site) -> None:
    real, control = real_site.real, real_site.control
    assert real is not None
    assert control is not None
    await real_site.gate.grant([A])
    real.stop(Role.OPERATIONAL, 9)
    real.render([])  # as if the file had been written before A
    real.start(Role.OPERATIONAL)
    assert await reconcile(real_site, expected(A)) == (1, 0)
    assert control.connects == 2
    async with real_site.device(A):
        pass


@pytest.mark.mosquitto
async def test_a_broker_that_is_gone_is_a_gate_error(real_site: Site, monkeypatch) -> None:
    real = real_site.real
    assert real is not None
    await real_site.gate.grant([A])
    real.stop(Role.OPERATIONAL)
    monkeypatch.setattr("service.brokers.mosquitto.control.ANSWER_TIMEOUT_S", 0.3)
    with pytest.raises(GateError):
        await real_site.gate.revoke([A])


@pytest.mark.mosquitto
async def test_a_reload_that_is_not_possible_is_a_gate_error_and_the_next_try_succeeds(
    real_site: Site, tmp_path
) -> None:
    real, control = real_site.real, real_site.control
    assert real is not None
    assert control is not None
    device, login = real_site.certified("c" * 32, tmp_path)
    async with device:
        for reload in (reload_by_signal(tmp_path / "no.pid"), reload_by_command("false"), reload_by_command("/no")):
            gate = MosquittoGate(control, RevocationList(real.plan.crl, real.issuer, Remembered(), reload))
            with pytest.raises(GateError):
                await gate.revoke([login])
        pid = str(real.processes[Role.OPERATIONAL].pid)
        gate = MosquittoGate(
            control, RevocationList(real.plan.crl, real.issuer, Remembered(), reload_by_command("kill", "-HUP", pid))
        )
        await gate.revoke([login])
        async with asyncio.timeout(DEAD_WITHIN_S):
            await device.lost.wait()


@pytest.mark.mosquitto
@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "bad keyword", "unreadable"])
async def test_acl_reload_faults_keep_the_broker_shut(real_site: Site, fault: str) -> None:
    """Without the guard plugin each of these opens a Mosquitto 2.0 to everybody at SIGHUP."""
    real = real_site.real
    assert real is not None
    await real_site.gate.grant([A, B])
    acl = real.plan.acl(Role.OPERATIONAL)
    text = acl.read_text()
    if fault == "missing":
        acl.unlink()
    else:
        broken = {"empty": "", "truncated": text[:-30], "bad keyword": "topc read #\n" + text, "unreadable": "\0"}
        acl.write_text(broken[fault])
    async with real_site.device(A) as snoop, real_site.device(B) as victim:
        await snoop.subscribe("#")
        real.hang_up(Role.OPERATIONAL)
        await real_site.gate.snapshot()  # the broker's loop has been round: the reload is done
        await victim.say(f"pv1/c/{B.credential_id}/up/report", b"secret")
        await snoop.say(f"pv1/c/{B.credential_id}/dn/desired", b"forged")
        await real_site.gate.snapshot()
        acl.write_text(text)
        real.hang_up(Role.OPERATIONAL)
        await real_site.gate.snapshot()
        async with real_site.service(Role.OPERATIONAL) as service:
            await service.say(f"pv1/c/{A.credential_id}/dn/last")
            await snoop.heard(f"pv1/c/{A.credential_id}/dn/last")
            assert {payload for _, payload in snoop.received + victim.received} == {b""}


@pytest.mark.mosquitto
async def test_a_new_certificate_of_the_broker_is_shown_after_a_reload_that_ends_no_session(real_site: Site) -> None:
    real = real_site.real
    assert real is not None
    await real_site.gate.grant([A])
    end = End("127.0.0.1", real_site.ports[Role.OPERATIONAL])
    before = await shown_until(end)
    assert before is not None
    pem, key = certificates.server_certificate(real.issuer, real.plan.hostnames, before)
    async with real_site.device(A) as device, real_site.service(Role.OPERATIONAL) as service:
        real.plan.private_key.write_bytes(key)
        real.plan.certificate.write_bytes(pem)
        assert await shown_until(end) == before
        real.hang_up(Role.OPERATIONAL)
        await real_site.gate.snapshot()  # the broker's loop has been round: the reload is done
        assert await shown_until(end) == before + certificates.SERVER_LIFE
        await device.subscribe(f"pv1/c/{A.credential_id}/dn/#")
        await service.say(f"pv1/c/{A.credential_id}/dn/still", b"")
        await device.heard(f"pv1/c/{A.credential_id}/dn/still")
