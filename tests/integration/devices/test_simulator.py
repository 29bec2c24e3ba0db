"""The simulator against the scripted service: shared connections, faults, power cuts, clones, the record of replies."""

import asyncio
import io
import json
import random

import pytest

from device_sdk.core.actions import Connect
from device_sdk.core.identity import Endpoint, Identity, Policy
from device_sdk.drivers import aio
from device_sdk.simulator import FaultPlan, FaultyTransport, Fleet, MultiplexTransport, PowerPlan
from tests.support.mqtt_server import MqttServer
from tests.support.scripted_service import HARDWARE, PRODUCT, RELEASE_PUBLIC, ScriptedService

COUNT = 8
QUICK = Policy(backoff_first_s=0.05, request_timeout_s=0.5)


@pytest.fixture
def site():
    keys = {f"sn-{number}": bytes([number]) * 32 for number in range(COUNT)}
    service = ScriptedService(keys, random.Random(5).randbytes(200_001))
    with MqttServer(service.answer) as server:
        service.port = server.port
        server.login = service.login
        yield service, server


def fleet_of(service, server, **options):
    identities = [
        Identity(
            "factory-a",
            serial,
            key,
            PRODUCT,
            HARDWARE,
            [Endpoint("127.0.0.1", server.port, tls=False)],
            (RELEASE_PUBLIC,),
            allow_plain=True,
        )
        for serial, key in service.device_keys.items()
    ]
    options = {"seed": 3, "jitter_s": 0.05, "target": service.version_id, "policy": QUICK, **options}
    return Fleet(identities, **options)


def shared(connect):
    """Every broker is reached by one login that may speak for all."""
    space = connect.subscribe[0].split("/")[1]
    return Connect(
        connect.host,
        connect.port,
        connect.tls,
        connect.ca_pem,
        f"load-{space}",
        None,
        None,
        None,
        None,
        30,
        [f"pv1/{space}/+/dn/+"],
    )


async def test_all_devices_share_one_connection_per_space_and_confirm(site):
    service, server = site
    server.login = lambda *_who: True
    server.answer = lambda _client, topic, payload: service.answer(topic.split("/")[2], topic, payload)
    async with MultiplexTransport(shared) as transport:
        fleet = fleet_of(service, server, transport=transport)
        assert await fleet.run_until_confirmed(30)
    assert sorted(server.connects) == ["load-b", "load-c"]
    assert service.confirmed == set(service.device_keys)
    assert fleet.summary().bytes == COUNT * 200_001


async def test_a_shared_connection_that_is_cut_is_opened_again_for_all(site):
    service, server = site
    server.login = lambda *_who: True
    cuts = iter([40, 90])
    seen = 0
    at = next(cuts)

    def answer(_client, topic, payload):
        nonlocal seen, at
        seen += 1
        if seen == at:
            server.cut()
            at = next(cuts, None)
        return service.answer(topic.split("/")[2], topic, payload)

    server.answer = answer
    async with MultiplexTransport(shared) as transport:
        assert await fleet_of(service, server, transport=transport).run_until_confirmed(30)
    assert 3 <= len(server.connects) <= 8


async def test_a_broker_that_refuses_the_shared_login_refuses_every_device(site):
    _, server = site
    server.connack = 5
    async with MultiplexTransport(shared) as transport:
        wish = Connect("127.0.0.1", server.port, False, None, "x" * 32, None, None, None, None, 30, ["pv1/b/x/dn/+"])
        for _ in range(2):
            with pytest.raises(aio.ConnectError, match="refused"):
                async with transport.open(wish):
                    pass


async def test_lost_doubled_late_and_reordered_messages_and_cuts_do_not_keep_a_fleet_from_its_firmware(site):
    service, server = site
    faults = FaultPlan(drop=0.03, duplicate=0.1, reorder=0.1, delay=0.1, max_delay_s=0.05, cut=0.005)
    fleet = fleet_of(service, server, faults=faults)
    assert await fleet.run_until_confirmed(60)
    assert service.confirmed == set(service.device_keys)


async def test_power_cuts_at_any_moment_do_not_keep_a_fleet_from_its_firmware(site):
    service, server = site
    fleet = fleet_of(service, server, power_plan=PowerPlan(cuts=4, within=15, within_s=0.05, off_s=0.01))
    assert await fleet.run_until_confirmed(60)
    summary = fleet.summary()
    assert summary.power_cuts >= 2
    assert summary.boots > COUNT
    assert service.confirmed == set(service.device_keys)


async def test_the_record_holds_every_reply_with_the_credential_it_granted(site):
    service, server = site
    fleet = fleet_of(service, server)
    assert await fleet.run_until_confirmed(30)
    activated = [reply for reply in fleet.replies if reply.verb == "activate"]
    assert {reply.credential_id for reply in activated} == set(service.api_keys)
    assert all(reply.ok and reply.proven and reply.space == "b" for reply in activated)
    online = [reply for reply in fleet.replies if reply.verb == "online"]
    assert {reply.owner for reply in online} == set(service.api_keys)
    assert not any("chunk" in reply.verb for reply in fleet.replies)


async def test_a_grant_with_a_wrong_proof_is_recorded_as_unproven_and_not_believed(site):
    service, server = site
    serial = next(iter(service.device_keys))
    right = service.device_keys
    fleet = fleet_of(service, server)
    service.device_keys = {name: bytes(32) for name in right}
    fleet.devices = [device for device in fleet.devices if device.identity.serial == serial]
    real = service._activate

    def forged(owner, request):
        service.device_keys = right
        reply = real(owner, request)
        return {**reply, "server_proof": bytes(32)}

    service._activate = forged
    assert not await fleet.run_until_confirmed(1.0)
    activated = [reply for reply in fleet.replies if reply.verb == "activate"]
    assert activated
    assert not any(reply.proven for reply in activated)
    assert fleet.devices[0].online_s is None


async def test_replies_may_go_to_a_file_of_json_lines(site):
    service, server = site
    lines = io.StringIO()
    fleet = fleet_of(service, server, reply_file=lines)
    assert await fleet.run_until_confirmed(30)
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {record["verb"] for record in records} >= {"hello", "activate", "online"}
    assert fleet.replies == []


async def test_a_clone_starts_with_the_credential_of_its_original(site):
    service, server = site
    fleet = fleet_of(service, server)
    assert await fleet.run_until_confirmed(30)
    twin = fleet.clone(fleet.devices[0])
    stop = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(twin.run(stop))
        await twin.confirmed.wait()
        stop.set()
    assert service.activations[twin.identity.serial] == 1


async def test_two_fleets_of_one_seed_draw_the_same_faults():
    class Loop:
        """A link that gives back what it is sent."""

        def __init__(self):
            self.sent = []
            self.gone = asyncio.Event()

        def publish(self, topic, payload, qos):
            self.sent.append(payload)

        async def receive(self):
            await self.gone.wait()
            raise aio.LinkLostError

    class Inner:
        def open(self, connect):
            return self

        async def __aenter__(self):
            self.link = Loop()
            return self.link

        async def __aexit__(self, *_):
            pass

    async def sent(seed):
        inner = Inner()
        async with FaultyTransport(inner, FaultPlan(drop=0.3, duplicate=0.3), random.Random(seed)).open(None) as link:
            for number in range(50):
                link.publish("t", bytes([number]), 0)
        return inner.link.sent

    assert await sent(1) == await sent(1)
    assert await sent(1) != await sent(2)
