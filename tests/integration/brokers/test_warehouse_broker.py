"""The warehouse's broker, on both kinds: its units reach the service below the mark, and nobody else can write there."""

from __future__ import annotations

import contextlib

import aiomqtt

from service.mqtt.port import EVERYWHERE, Role
from tests.support.actor import Actor
from tests.support.broker_site import Site, api_key_login
from tests.support.mosquitto import program_version

A = api_key_login(0xA)
UNIT, OTHER, ORDINARY = "1" * 32, "2" * 32, "3" * 32


async def told(site: Site, unit: Actor, topic: str, payload: bytes = b"") -> None:
    """Mosquitto before 2.0.12 leaves the mount point on what it sends to a unit; the embedded broker never does."""
    old = site.real is not None and (2, 0, 0) <= program_version() < (2, 0, 12)
    await unit.heard(f"warehouse/{topic}" if old else topic, payload)


async def test_what_a_unit_says_comes_to_the_service_below_the_mark_and_the_answer_without_it(site: Site) -> None:
    async with site.service(Role.WAREHOUSE) as service, site.session(UNIT, Role.WAREHOUSE) as unit:
        await service.subscribe("warehouse/pv1/b/+/up/+")
        await unit.subscribe(f"pv1/b/{UNIT}/dn/+")
        await unit.say(f"pv1/b/{UNIT}/up/stage", b"ask")
        await service.heard(f"warehouse/pv1/b/{UNIT}/up/stage", b"ask")
        await service.say(f"warehouse/pv1/b/{UNIT}/dn/stage", b"answer")
        await told(site, unit, f"pv1/b/{UNIT}/dn/stage", b"answer")


async def test_a_unit_reaches_nobody_but_the_service_and_only_as_itself(site: Site) -> None:
    async with (
        site.service(Role.WAREHOUSE) as service,
        site.session(UNIT, Role.WAREHOUSE) as unit,
        site.session(OTHER, Role.WAREHOUSE) as victim,
    ):
        await service.subscribe("warehouse/pv1/#")
        await victim.subscribe(f"pv1/b/{OTHER}/dn/#")
        for topic in (
            f"pv1/b/{OTHER}/up/stage",
            f"pv1/b/{OTHER}/dn/stage",
            f"pv1/b/{UNIT}/dn/stage",
            f"pv1/b/{UNIT}/up/a/b",
            f"pv1/c/{UNIT}/up/report",
            f"warehouse/pv1/b/{OTHER}/dn/stage",
            f"../pv1/b/{OTHER}/dn/stage",
            "$CONTROL/dynamic-security/v1",
        ):
            with contextlib.suppress(aiomqtt.MqttError):
                await unit.say(topic, b"forged")
        await unit.say(f"pv1/b/{UNIT}/up/hello", b"allowed")
        await service.heard(f"warehouse/pv1/b/{UNIT}/up/hello", b"allowed")
        await service.say(f"warehouse/pv1/b/{OTHER}/dn/last", b"")
        await told(site, victim, f"pv1/b/{OTHER}/dn/last")
        assert [m for m in service.received + victim.received if m[1] == b"forged"] == []


async def test_a_device_on_an_ordinary_listener_that_publishes_to_the_warehouse_reaches_nobody(site: Site) -> None:
    await site.gate.grant([A])
    forged = [
        f"warehouse/pv1/b/{owner}/{verb}"
        for owner in (UNIT, ORDINARY, A.credential_id)
        for verb in ("up/stage", "up/hello", "dn/stage")
    ]
    async with (
        site.service(Role.WAREHOUSE) as there,
        site.session(UNIT, Role.WAREHOUSE) as unit,
        site.session(ORDINARY) as session,
        site.device(A) as device,
    ):
        await there.subscribe("warehouse/pv1/#")
        await unit.subscribe(f"pv1/b/{UNIT}/dn/#")
        for role, sender, own in zip(
            EVERYWHERE, (session, device), (f"pv1/b/{ORDINARY}", f"pv1/c/{A.credential_id}"), strict=True
        ):
            async with site.service(role) as here:
                await here.subscribe("#", "warehouse/#", "pv1/#")
                for topic in forged:
                    await sender.say(topic, b"forged")
                await sender.say(f"{own}/up/hello", b"allowed")
                await here.heard(f"{own}/up/hello", b"allowed")
                assert [m for m in here.received if m[1] == b"forged"] == []
        await unit.say(f"pv1/b/{UNIT}/up/hello", b"allowed")
        await there.heard(f"warehouse/pv1/b/{UNIT}/up/hello", b"allowed")
        await there.say(f"warehouse/pv1/b/{UNIT}/dn/last", b"")
        await told(site, unit, f"pv1/b/{UNIT}/dn/last")
        assert [m for m in there.received + unit.received if m[1] == b"forged"] == []
