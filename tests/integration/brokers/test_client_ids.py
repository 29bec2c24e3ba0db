"""Nobody takes another's client id: whoever asks for it, the owner stays connected and loses nothing."""

from __future__ import annotations

import contextlib

import aiomqtt
import pytest

from service.brokers.gate import Login
from service.mqtt.port import Role
from tests.support.actor import Actor
from tests.support.broker_site import Site, api_key_login

A, B = api_key_login(0xA), api_key_login(0xB)


def asking_for(site: Site, login: Login, client_id: str) -> Actor:
    assert login.api_key is not None
    key = login.api_key.reveal().decode()
    return Actor(site.ports[Role.OPERATIONAL], client_id, login.credential_id, key, tls=site.tls)


async def assert_it_stays(site: Site, victim: Actor, name: str, *attackers: Actor) -> None:
    """`victim` is connected as `name`; what was sent to it before and after each attack comes to it."""
    await victim.subscribe(f"pv1/c/{name}/dn/#")
    async with site.service(Role.OPERATIONAL) as service:
        await service.subscribe("pv1/c/+/up/+")
        for number, attacker in enumerate(attackers):
            before, after = (f"pv1/c/{name}/dn/{word}{number}" for word in ("before", "after"))
            await service.say(before, b"")
            with contextlib.suppress(aiomqtt.MqttError):
                async with attacker:
                    # Let in, it is who its login says it is.
                    await attacker.subscribe(f"pv1/c/{name}/dn/#")
                    await attacker.say(f"pv1/c/{name}/up/report", b"forged")
            await service.say(after, b"")
            await victim.heard(before)
            await victim.heard(after)
            await victim.say(f"pv1/c/{name}/up/report", b"own")
            await service.heard(f"pv1/c/{name}/up/report", b"own")
            assert not victim.lost.is_set()
            assert attacker.received == []
        assert [payload for _, payload in service.received if payload == b"forged"] == []


async def test_a_device_with_another_s_client_id_does_not_put_it_out(site: Site) -> None:
    await site.gate.grant([A, B])
    async with site.device(B) as victim:
        attackers = [asking_for(site, A, B.credential_id) for _ in range(2)]
        await assert_it_stays(site, victim, B.credential_id, *attackers)


@pytest.mark.mosquitto
async def test_a_certificate_with_another_s_client_id_does_not_put_it_out(real_site: Site, tmp_path) -> None:
    await real_site.gate.grant([A, B])
    own, other = "c" * 32, "d" * 32
    real_site.certified(own, tmp_path)
    victim, _ = real_site.certified(other, tmp_path)
    async with real_site.device(B) as with_a_key, victim:
        for one, name in ((with_a_key, B.credential_id), (victim, other)):
            attacker = real_site.certified_again(own, tmp_path, client_id=name)
            await assert_it_stays(real_site, one, name, attacker, asking_for(real_site, A, name))
