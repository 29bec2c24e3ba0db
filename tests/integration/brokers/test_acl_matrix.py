"""Every kind of principal, every kind of topic: who reaches whom, on both brokers, judged by received messages.

"Nothing arrives" is never a wait: a message that is allowed follows on the same way, and when it has come, what was
sent before it would have come too.
"""

from __future__ import annotations

import asyncio

import aiomqtt
import pytest

from service.mqtt.port import Role
from tests.support.actor import Actor
from tests.support.broker_site import Site, account_login, api_key_login

A, B = api_key_login(0xA), api_key_login(0xB)
VICTIM_SESSION, OWN_SESSION = "1" * 32, "2" * 32
WIDE = ("#", "+/#", "pv1/#", "+/+/+/+/+", "pv1/+/+/dn/#", "pv1/+/+/up/+", "$share/x/#", "$share/x/pv1/+/+/dn/+", "$SYS/#",
        "$CONTROL/#", "/#")  # fmt: skip


def foreign_topics(space: str, own: str, victim: str) -> list[str]:
    other = "c" if space == "b" else "b"
    return [
        f"pv1/{space}/{victim}/up/report",
        f"pv1/{space}/{victim}/dn/desired",
        f"pv1/{space}/{own}/dn/desired",
        f"pv1/{space}/{own}/up/a/b",
        f"pv1/{space}/{own}/up",
        f"pv1/{space}/{own}/dn/up/hello",
        f"pv1/{space}/{own}/x/up/hello",
        f"pv1/{other}/{own}/up/hello",
        f"pv1/{other}/{victim}/up/report",
        f"pv1/{other}/{victim}/dn/desired",
        f"pv1/o/{own}/up/reprovision",
        "pv1/o/alice/up/reprovision",
        "pv1/o/alice/dn/progress",
        "pv1/e/erp/activated",
        "pv1/f/" + "0" * 64 + "/4096",
        "pv1",
        f"/pv1/{space}/{victim}/dn/desired",
        "$CONTROL/dynamic-security/v1",
        "$SYS/broker/version",
        f"$share/x/pv1/{space}/{victim}/dn/desired",
    ]


async def assert_nothing_gets_through(
    site: Site, role: Role, sender: Actor, victim: Actor, own: str, other: str
) -> None:
    space = "b" if role is Role.BOOTSTRAP else "c"
    async with site.service(role) as service:
        await service.subscribe("pv1/#", "#", "$SYS/broker/version")
        await victim.subscribe(f"pv1/{space}/{other}/dn/#")
        for topic in foreign_topics(space, own, other):
            await sender.say(topic, b"forged")
        await sender.say(f"pv1/{space}/{own}/up/hello", b"allowed")
        await service.heard(f"pv1/{space}/{own}/up/hello", b"allowed")
        await service.say(f"pv1/{space}/{other}/dn/last", b"")
        await victim.heard(f"pv1/{space}/{other}/dn/last")
        assert [m for m in service.received + victim.received if m[1] == b"forged"] == []


async def test_a_device_reaches_nobody_but_the_service_and_only_as_itself(site: Site) -> None:
    await site.gate.grant([A, B])
    async with site.device(A) as device, site.device(B) as victim:
        await assert_nothing_gets_through(site, Role.OPERATIONAL, device, victim, A.credential_id, B.credential_id)
    assert await site.gate.snapshot() == {A.credential_id, B.credential_id}


async def test_a_bootstrap_session_reaches_nobody_but_the_service_and_only_as_itself(site: Site) -> None:
    async with site.session(OWN_SESSION) as device, site.session(VICTIM_SESSION) as victim:
        await assert_nothing_gets_through(site, Role.BOOTSTRAP, device, victim, OWN_SESSION, VICTIM_SESSION)


@pytest.mark.mosquitto
async def test_a_device_with_a_certificate_reaches_nobody_but_the_service(real_site: Site, tmp_path) -> None:
    await real_site.gate.grant([B])
    own = "c" * 32
    device, _ = real_site.certified(own, tmp_path)
    async with device, real_site.device(B) as victim:
        await assert_nothing_gets_through(real_site, Role.OPERATIONAL, device, victim, own, B.credential_id)


async def assert_receives_only_its_own(
    site: Site, role: Role, snoop: Actor, other: Actor, own: str, victim: str
) -> None:
    space = "b" if role is Role.BOOTSTRAP else "c"
    async with site.service(role) as service:
        await service.subscribe(f"pv1/{space}/+/up/+")
        await other.subscribe(f"pv1/{space}/{victim}/dn/+")
        for wide in WIDE:
            try:
                await snoop.subscribe(wide)
            except aiomqtt.MqttError:
                pytest.fail(f"subscribing to {wide} ended the connection")
        await snoop.subscribe(
            f"pv1/{space}/{victim}/dn/+", f"pv1/{space}/{victim}/dn/desired", f"pv1/{space}/{own}/dn/#"
        )
        await other.say(f"pv1/{space}/{victim}/up/hello", b"secret")
        await service.heard(f"pv1/{space}/{victim}/up/hello")
        await service.say(f"pv1/{space}/{victim}/dn/desired", b"secret")
        await other.heard(f"pv1/{space}/{victim}/dn/desired")
        await service.say(f"pv1/{space}/{own}/dn/last", b"")
        await snoop.heard(f"pv1/{space}/{own}/dn/last")
        assert snoop.topics() == {f"pv1/{space}/{own}/dn/last"}


ALICE, BOB = account_login("alice", "o"), account_login("bob", "o")
ERP, CRM = account_login("erp", "e"), account_login("crm", "e")


async def test_an_operator_reaches_nobody_but_the_service_and_only_as_himself(site: Site) -> None:
    await site.gate.grant([B])
    assert await site.gate.set_accounts([ALICE, BOB, ERP]) == (3, 0)
    async with (
        site.account(ALICE) as operator, site.account(BOB) as other, site.account(ERP) as integrator,
        site.device(B) as device, site.service(Role.OPERATIONAL) as service,
    ):  # fmt: skip
        await service.subscribe("pv1/#", "#")
        await other.subscribe("pv1/o/bob/dn/#")
        await integrator.subscribe("pv1/e/erp/#")
        await device.subscribe(f"pv1/c/{B.credential_id}/dn/#")
        for topic in (
            "pv1/o/bob/up/block", "pv1/o/bob/dn/block", "pv1/o/alice/dn/block", "pv1/o/alice/up/a/b",
            "pv1/e/erp/blocked", "pv1/e/alice/blocked", "pv1/b/alice/up/hello", f"pv1/c/{B.credential_id}/up/report",
            f"pv1/c/{B.credential_id}/dn/desired", "$CONTROL/dynamic-security/v1", "$share/x/pv1/o/bob/dn/block",
        ):  # fmt: skip
            await operator.say(topic, b"forged")
        for topic in ("pv1/e/erp/blocked", "pv1/e/crm/blocked", "pv1/o/erp/up/block", "pv1/o/alice/up/block"):
            await integrator.say(topic, b"forged")
        for topic in ("pv1/o/alice/up/block", "pv1/e/erp/blocked", f"pv1/o/{B.credential_id}/up/block"):
            await device.say(topic, b"forged")
        await operator.say("pv1/o/alice/up/block", b"allowed")
        await service.heard("pv1/o/alice/up/block", b"allowed")
        await service.say("pv1/o/bob/dn/last")
        await other.heard("pv1/o/bob/dn/last")
        await service.say("pv1/e/erp/last")
        await integrator.heard("pv1/e/erp/last")
        await service.say(f"pv1/c/{B.credential_id}/dn/last")
        await device.heard(f"pv1/c/{B.credential_id}/dn/last")
        everything = service.received + other.received + integrator.received + device.received
        assert [m for m in everything if m[1] == b"forged"] == []


async def test_an_account_on_every_wildcard_receives_only_its_own(site: Site) -> None:
    await site.gate.grant([B])
    await site.gate.set_accounts([ALICE, BOB, ERP, CRM])
    async with (
        site.account(ALICE) as operator, site.account(ERP) as integrator, site.account(CRM) as other,
        site.device(B) as device, site.service(Role.OPERATIONAL) as service,
    ):  # fmt: skip
        await service.subscribe("pv1/c/+/up/+")
        await other.subscribe("pv1/e/crm/+")
        for snoop in (operator, integrator, device):
            for wide in (*WIDE, "pv1/o/#", "pv1/e/#", "pv1/o/+/dn/+", "pv1/e/+/+", "pv1/o/bob/dn/+", "pv1/e/crm/+"):
                await snoop.subscribe(wide)
        await operator.subscribe("pv1/o/alice/dn/#")
        await integrator.subscribe("pv1/e/erp/#")
        await device.subscribe(f"pv1/c/{B.credential_id}/dn/#")
        await device.say(f"pv1/c/{B.credential_id}/up/online", b"secret")
        await service.heard(f"pv1/c/{B.credential_id}/up/online")
        await service.say("pv1/o/bob/dn/block", b"secret")
        await service.say("pv1/e/crm/blocked", b"secret")
        await other.heard("pv1/e/crm/blocked")
        for topic, snoop in (
            ("pv1/o/alice/dn/last", operator),
            ("pv1/e/erp/last", integrator),
            (f"pv1/c/{B.credential_id}/dn/last", device),
        ):
            await service.say(topic)
            await snoop.heard(topic)
            assert snoop.topics() == {topic}


async def test_an_account_is_in_several_places_at_once_and_the_same_name_again_ends_the_earlier(site: Site) -> None:
    await site.gate.set_accounts([ALICE, BOB, ERP])
    async with (
        site.account(ALICE) as first, site.account(ALICE, "alice.2") as second, site.account(BOB) as other,
        site.account(ERP, "erp.4") as integrator, site.service(Role.OPERATIONAL) as service,
    ):  # fmt: skip
        await service.subscribe("pv1/o/+/up/+")
        for one in (first, second):
            await one.subscribe("pv1/o/alice/dn/#")
            await one.say("pv1/o/alice/up/get", one.client_id.encode())
            await service.heard("pv1/o/alice/up/get", one.client_id.encode())
        await second.say("pv1/o/alice.2/up/get", b"forged")
        await second.say("pv1/o/bob/up/get", b"forged")
        await second.say("pv1/o/alice/up/get", b"last")
        await service.heard("pv1/o/alice/up/get", b"last")
        assert (b"forged" in {payload for _, payload in service.received}) is False
        await integrator.subscribe("pv1/e/erp/#")
        await service.say("pv1/o/alice/dn/get", b"reply")
        await service.say("pv1/e/erp/blocked", b"event")
        for one in (first, second):
            await one.heard("pv1/o/alice/dn/get", b"reply")
        await integrator.heard("pv1/e/erp/blocked", b"event")
        async with site.account(ALICE, "alice.2"):
            await second.lost.wait()
            assert not first.lost.is_set()
        with pytest.raises(aiomqtt.MqttError):
            await site.account(ALICE, "alice.5").__aenter__()
        with pytest.raises(aiomqtt.MqttError):
            await site.account(ALICE, "bob.2").__aenter__()
        assert other.received == []


async def test_an_account_that_is_gone_or_has_a_new_key_is_out_at_once(site: Site) -> None:
    await site.gate.grant([A])
    await site.gate.set_accounts([ALICE, BOB])
    assert await site.gate.set_accounts([ALICE, BOB]) == (0, 0)
    async with site.account(ALICE) as gone, site.account(ALICE, "alice.3") as too, site.account(BOB) as other:
        assert await site.gate.set_accounts([account_login("bob", "o", b"new")]) == (1, 2)
        for one in (gone, too, other):
            await one.lost.wait()
    for stranger in (
        site.account(ALICE),
        site.account(ALICE, "alice.3"),
        site.account(BOB),
        site.account(BOB, "bob.2"),
    ):
        with pytest.raises(aiomqtt.MqttError):
            await stranger.__aenter__()
    async with site.account(account_login("bob", "o", b"new")):
        pass
    # Devices and accounts are looked after apart.
    assert await site.gate.snapshot() == {A.credential_id}


async def test_a_device_on_every_wildcard_receives_only_its_own(site: Site) -> None:
    await site.gate.grant([A, B])
    async with site.device(A) as snoop, site.device(B) as other:
        await assert_receives_only_its_own(site, Role.OPERATIONAL, snoop, other, A.credential_id, B.credential_id)


async def test_a_bootstrap_session_on_every_wildcard_receives_only_its_own(site: Site) -> None:
    async with site.session(OWN_SESSION) as snoop, site.session(VICTIM_SESSION) as other:
        await assert_receives_only_its_own(site, Role.BOOTSTRAP, snoop, other, OWN_SESSION, VICTIM_SESSION)


@pytest.mark.mosquitto
async def test_a_device_with_a_certificate_on_every_wildcard_receives_only_its_own(real_site: Site, tmp_path) -> None:
    await real_site.gate.grant([B])
    snoop, _ = real_site.certified("c" * 32, tmp_path)
    async with snoop, real_site.device(B) as other:
        await assert_receives_only_its_own(real_site, Role.OPERATIONAL, snoop, other, "c" * 32, B.credential_id)


async def test_the_service_writes_answers_and_reads_requests_and_nothing_else(site: Site) -> None:
    await site.gate.grant([A])
    up, down = f"pv1/c/{A.credential_id}/up/online", f"pv1/c/{A.credential_id}/dn/online"
    async with site.service(Role.OPERATIONAL) as service, site.device(A) as device:
        await service.subscribe("pv1/c/+/up/+", "pv1/c/+/dn/+")
        await device.subscribe(f"pv1/c/{A.credential_id}/dn/+")
        await service.say(up, b"forged")
        await device.say(up, b"real")
        await service.heard(up)
        await service.say(down, b"answer")
        await device.heard(down)
        assert service.received == [(up, b"real")]
        assert device.received == [(down, b"answer")]


async def test_a_last_will_reaches_nobody_it_may_not_write_to(site: Site) -> None:
    await site.gate.grant([A, B])
    target = f"pv1/c/{B.credential_id}/dn/desired"
    async with site.service(Role.OPERATIONAL) as service, site.device(B) as victim:
        await service.subscribe("pv1/c/+/up/+")
        await victim.subscribe(f"pv1/c/{B.credential_id}/dn/+")
        for topic in (target, f"pv1/c/{B.credential_id}/up/report", "$CONTROL/dynamic-security/v1"):
            async with site.device(A, will=aiomqtt.Will(topic, b"forged")) as device:
                device.drop()
                await device.lost.wait()
        async with site.device(A, will=aiomqtt.Will(f"pv1/c/{A.credential_id}/up/bye", b"")) as device:
            device.drop()
            await device.lost.wait()
        await service.heard(f"pv1/c/{A.credential_id}/up/bye")
        await service.say(f"pv1/c/{B.credential_id}/dn/last")
        await victim.heard(f"pv1/c/{B.credential_id}/dn/last")
        assert b"forged" not in {payload for _, payload in service.received + victim.received}


async def test_nobody_else_is_let_in(site: Site) -> None:
    await site.gate.grant([A, B])
    port, tls = site.ports[Role.OPERATIONAL], site.tls
    a_key = A.api_key.reveal().decode()
    strangers = [
        Actor(port, "9" * 32, tls=tls),
        Actor(port, A.credential_id, tls=tls),
        Actor(port, "9" * 32, "9" * 32, "guess", tls=tls),
        Actor(port, A.credential_id, A.credential_id, "guess", tls=tls),
        Actor(port, A.credential_id, A.credential_id, "", tls=tls),
        Actor(port, B.credential_id, B.credential_id, a_key, tls=tls),
        Actor(port, "f" * 32, "firstlight", "guess", tls=tls),
        Actor(port, "firstlight-admin", "firstlight-admin", "guess", tls=tls),
    ]
    for stranger in strangers:
        with pytest.raises(aiomqtt.MqttError):
            await stranger.__aenter__()


async def test_a_client_id_with_a_slash_reaches_no_other_session(site: Site) -> None:
    """Under a pattern ending in `#`, the client id `{victim}/dn` could write the victim's answers."""
    async with site.service(Role.BOOTSTRAP) as service, site.session(VICTIM_SESSION) as victim:
        await service.subscribe("pv1/b/+/up/+")
        await victim.subscribe(f"pv1/b/{VICTIM_SESSION}/dn/#")
        for odd in (f"{VICTIM_SESSION}/dn", "+", "#", f"{VICTIM_SESSION}/dn/up", "a/b"):
            odd_client = Actor(site.ports[Role.BOOTSTRAP], odd, tls=site.tls)
            try:
                await odd_client.__aenter__()
            except aiomqtt.MqttError:
                continue
            for topic in (
                f"pv1/b/{odd}/up/hello".replace("+", "x").replace("#", "x"),
                f"pv1/b/{VICTIM_SESSION}/dn/x",
            ):
                await odd_client.say(topic, b"forged")
            await odd_client.__aexit__()
        await victim.say(f"pv1/b/{VICTIM_SESSION}/up/hello", b"real")
        await service.heard(f"pv1/b/{VICTIM_SESSION}/up/hello")
        await service.say(f"pv1/b/{VICTIM_SESSION}/dn/last")
        await victim.heard(f"pv1/b/{VICTIM_SESSION}/dn/last")
        assert victim.topics() == {f"pv1/b/{VICTIM_SESSION}/dn/last"}
        assert all(t.split("/")[2] == VICTIM_SESSION or p != b"forged" for t, p in service.received)


async def test_a_retained_message_is_neither_kept_nor_passed_on_later(site: Site) -> None:
    await site.gate.grant([A, B])
    down = f"pv1/c/{A.credential_id}/dn/desired"
    async with site.service(Role.OPERATIONAL) as service:
        # The embedded broker ends such a connection; Mosquitto ends it or acknowledges and keeps nothing.
        sent = asyncio.create_task(service.client.publish(down, b"kept", qos=1, retain=True))
        ended = asyncio.create_task(service.lost.wait())
        await asyncio.wait({sent, ended}, return_when=asyncio.FIRST_COMPLETED)
        sent.cancel()
        ended.cancel()
        await asyncio.gather(sent, ended, return_exceptions=True)
    async with site.service(Role.OPERATIONAL) as service, site.device(A) as device:
        await device.subscribe(f"pv1/c/{A.credential_id}/dn/+")
        await service.say(f"pv1/c/{A.credential_id}/dn/last")
        await device.heard(f"pv1/c/{A.credential_id}/dn/last")
        assert device.topics() == {f"pv1/c/{A.credential_id}/dn/last"}
