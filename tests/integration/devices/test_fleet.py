"""Virtual devices, and the real firstlight-device program, against the real service on its embedded brokers."""

import base64

import pytest
import pytest_asyncio

from device_sdk.core.identity import Policy
from device_sdk.simulator import FaultPlan, Fleet, PowerPlan
from service.demo.options import DemoOptions
from service.demo.process import ServiceProcess
from service.demo.world import HARDWARE, PRODUCT, make_world
from tests.support.agents import run_agent, write_config
from tests.support.auditor import Told, audit, confirmed_devices

pytestmark = pytest.mark.asyncio(loop_scope="module")
EACH = 5  # devices of each test


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    """One service for this file, with registered devices and a target image of 300,000 bytes."""
    folder = tmp_path_factory.mktemp("site")
    made = await make_world(folder, DemoOptions(devices=3 * EACH + 1, image_bytes=300_000, timeout_s=60, broker=None))
    process = ServiceProcess(made, folder)
    await process.start()
    yield made
    await process.stop()


def told(fleet):
    return [
        Told(reply.group_id, reply.serial, reply.verb, reply.credential_id, reply.thing_id)
        for reply in fleet.replies
        if reply.ok and reply.proven and reply.verb in ("activate", "online")
    ]


async def confirm_all(world, first, **options):
    fleet = Fleet(
        world.identities[first : first + EACH],
        seed=20,
        jitter_s=0.1,
        target=world.target_version_id,
        policy=Policy(backoff_first_s=0.2, request_timeout_s=1.0),
        **options,
    )
    assert await fleet.run_until_confirmed(90), [device.status for device in fleet.devices]
    return fleet


def check(world, fleet):
    database = world.settings.database_path
    assert audit(database, told(fleet), settled=False) == []
    asked = {(device.identity.group_id, device.identity.serial) for device in fleet.devices}
    assert asked <= confirmed_devices(database)


async def test_a_fleet_powers_up_and_confirms_its_firmware(world):
    fleet = await confirm_all(world, 0)
    check(world, fleet)
    summary = fleet.summary()
    assert (summary.devices, summary.online, summary.confirmed, summary.boots) == (EACH, EACH, EACH, 2 * EACH)
    assert summary.bytes == EACH * 300_000
    assert {reply.verb for reply in fleet.replies} >= {"hello", "activate", "online", "report"}


async def test_a_fleet_under_lost_doubled_late_and_reordered_messages_confirms_its_firmware(world):
    faults = FaultPlan(drop=0.05, duplicate=0.05, reorder=0.05, delay=0.05, max_delay_s=0.2, cut=0.002)
    check(world, await confirm_all(world, EACH, faults=faults))


async def test_a_fleet_whose_power_is_cut_again_and_again_confirms_its_firmware(world):
    fleet = await confirm_all(world, 2 * EACH, power_plan=PowerPlan(cuts=3, within=60, within_s=1.0))
    check(world, fleet)
    assert fleet.summary().power_cuts > 0


async def test_the_program_confirms_its_firmware_with_the_real_service(world, tmp_path):
    identity = world.identities[-1]
    config = write_config(
        tmp_path,
        identity.bootstrap[0].port,
        group_id=identity.group_id,
        serial=identity.serial,
        key=base64.b64encode(identity.key).decode(),
        release_keys=[base64.b64encode(identity.release_keys[0]).decode()],
        product=PRODUCT,
        hardware=HARDWARE,
        firmware={"name": "1.0", "seq": 1},
    )
    done = run_agent(config, "--once", "--allow-plaintext")
    assert done.returncode == 0, done.stdout
    assert (identity.group_id, identity.serial) in confirmed_devices(world.settings.database_path)
