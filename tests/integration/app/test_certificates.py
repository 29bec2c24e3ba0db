"""Devices with certificates on real Mosquitto, through the whole service: every key kind from the factory to firmware
that runs, and the end of a device that is blocked.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from device_sdk.core.identity import Identity, Policy
from device_sdk.drivers.crypto import FullCrypto, SigningKey
from device_sdk.simulator.fleet import Fleet
from service.mqtt.port import EVERYWHERE
from tests.support.site import ENVIRONMENT, GROUP, OU, PRODUCT_ID, Site, made_site, until
from tests.support.site_agents import agent_file, run_once

pytestmark = [pytest.mark.mosquitto, pytest.mark.asyncio(loop_scope="module")]

IMAGE_BYTES = 100_000
DEAD_WITHIN_S = 2.0  # promise of docs/brokers.md: from the command's end
SIGNERS: dict[str, SigningKey] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}
QUICK = Policy(backoff_first_s=0.2, backoff_max_s=0.5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Both Mosquittos and the service; devices log in with certificates."""
    async with made_site(tmp_path_factory.mktemp("certificates") / "site", "mosquitto", certificates=True) as made:
        await made.add_version("2.0", 2, os.urandom(IMAGE_BYTES))
        for role in EVERYWHERE:
            await made.start_broker(role)
        await made.start_service()
        yield made
        assert await made.stop_service() == 0, made.log()


def _states(site: Site, serial: str) -> list[tuple[str, str]]:
    return site.query(
        "SELECT c.kind, c.state FROM credential c JOIN device d USING (device_id) WHERE d.serial = ? ORDER BY c.created_at",
        serial,
    )


async def _is_revoked(site: Site, serial: str, group: str = GROUP) -> None:
    """Until the broker has confirmed that no credential of this device is let in."""
    await until(
        lambda: (
            not site.query(
                "SELECT 1 FROM credential c JOIN device d USING (device_id) WHERE d.serial = ? AND d.group_id = ?"
                " AND c.revoked_at IS NULL",
                serial,
                group,
            )
        )
    )


async def test_a_simulated_device_takes_its_firmware_and_is_out_within_two_seconds_of_a_block(site: Site) -> None:
    await site.register(["sim-1"])
    lost: asyncio.Queue[float] = asyncio.Queue()
    refused: asyncio.Queue[float] = asyncio.Queue()

    def noted(_identity: Identity, note) -> None:
        queue = {"connection_lost": lost, "connect_refused": refused}.get(note.event)
        if queue is not None:
            queue.put_nowait(time.monotonic())

    crypto = FullCrypto(x509_credentials=True)
    fleet = Fleet([site.identity("sim-1")], seed=1, jitter_s=0, crypto=crypto, policy=QUICK, on_note=noted)
    stop = asyncio.Event()
    task = asyncio.create_task(fleet.run(stop))
    try:
        async with asyncio.timeout(30):
            await fleet.devices[0].confirmed.wait()
        assert _states(site, "sim-1") == [("x509", "confirmed")]
        while not lost.empty():  # those of the reboot
            lost.get_nowait()
        asked = time.monotonic()
        await site.command("device", "block", f"{GROUP}/sim-1")
        blocked = time.monotonic()
        async with asyncio.timeout(10):
            assert await lost.get() > asked
            ended = time.monotonic()
            await refused.get()
        assert ended - blocked < DEAD_WITHIN_S
        assert time.monotonic() - blocked < DEAD_WITHIN_S
        print(f"ended {ended - blocked:.2f} s, refused {time.monotonic() - blocked:.2f} s after the block")
    finally:
        stop.set()
        await task
    assert _states(site, "sim-1") == [("x509", "dropped")]


@pytest.mark.parametrize("driver", ["aio", "threaded"])
async def test_the_program_asks_for_a_certificate_and_a_block_shuts_its_certificate_out(
    site: Site, driver: str
) -> None:
    serial = f"program-{driver}"
    await site.register([serial])
    config = agent_file(site, serial, x509=True)
    done = await run_once(config, "--driver", driver)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _states(site, serial) == [("x509", "confirmed")]
    assert (config.parent / "state" / "slots" / "current").read_bytes() == site.images["2.0"]
    await site.command("device", "block", f"{GROUP}/{serial}")
    blocked = time.monotonic()
    await _is_revoked(site, serial)
    assert time.monotonic() - blocked < DEAD_WITHIN_S
    again = await run_once(config, "--driver", driver, "--timeout", "5")
    assert again.returncode == 5
    assert "connect_refused" in again.stdout, again.stdout


def _der(key: SigningKey) -> str:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(public).decode()


@pytest.mark.parametrize("kind", SIGNERS)
async def test_a_device_with_a_private_key_of_its_own_proves_itself_by_signatures(site: Site, kind: str) -> None:
    group, key = f"signers-{kind}", SIGNERS[kind]
    await site.command(
        *("group", "create", group, "--product", PRODUCT_ID, "--key-kind", "public_key"),
        *("--ou", OU, "--environment", ENVIRONMENT),
    )
    other = ed25519.Ed25519PrivateKey.generate()
    for serial in ("simulated", "program"):
        # The key in use is the second one of two, and their kinds differ.
        await site.command("device", "register", group, serial, "--public-key", _der(other), "--public-key", _der(key))
    public = json.loads(await site.command("keys", "public", "--json"))["service_public_key"]

    site.keys[group, "simulated"] = b""
    identity = site.identity("simulated", group)
    identity.key, identity.key_index, identity.service_keys = None, 1, (base64.b64decode(public),)
    crypto = FullCrypto(x509_credentials=True, signing_key=key)
    assert await Fleet([identity], seed=2, jitter_s=0, crypto=crypto).run_until_confirmed(30)

    config = agent_file(site, "program", group, private_key_file="device.pem", key_index=1, service_keys=[public])
    pem = config.with_name("device.pem")
    pem.touch(mode=0o600)
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    done = await run_once(config)
    assert done.returncode == 0, done.stdout + done.stderr
    found = site.query(
        "SELECT d.serial, d.state, c.kind FROM device d JOIN credential c USING (device_id) WHERE d.group_id = ?"
        " AND c.state = 'confirmed' ORDER BY d.serial",
        group,
    )
    assert found == [("program", "confirmed", "x509"), ("simulated", "confirmed", "x509")]
    await site.command("device", "block", f"{group}/program")
    blocked = time.monotonic()
    await _is_revoked(site, "program", group)
    assert time.monotonic() - blocked < DEAD_WITHIN_S
    assert "connect_refused" in (await run_once(config, "--timeout", "5")).stdout


async def test_a_wrong_private_key_is_refused_and_nothing_is_made_for_it(site: Site) -> None:
    group = "signers-wrong"
    await site.command(
        *("group", "create", group, "--product", PRODUCT_ID, "--key-kind", "public_key"),
        *("--ou", OU, "--environment", ENVIRONMENT),
    )
    await site.command("device", "register", group, "one", "--public-key", _der(SIGNERS["p256"]))
    public = json.loads(await site.command("keys", "public", "--json"))["service_public_key"]
    config = agent_file(site, "one", group, private_key_file="device.pem", service_keys=[public])
    config.with_name("device.pem").touch(mode=0o600)
    stranger = ec.generate_private_key(ec.SECP256R1())
    config.with_name("device.pem").write_bytes(
        stranger.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    done = await run_once(config, "--timeout", "5")
    assert done.returncode == 5
    assert "refused" in done.stdout
    assert site.query("SELECT state FROM device WHERE group_id = ?", group) == [("registered",)]


@pytest.mark.parametrize("kind", ["derived", "group"])
async def test_devices_with_a_key_from_the_group_s_secret_come_back_only_when_an_operator_approves(
    site: Site, kind: str
) -> None:
    group = f"sharing-{kind}"
    made = json.loads(
        await site.command(
            *("group", "create", group, "--product", PRODUCT_ID, "--key-kind", kind, "--reactivation", "operator"),
            *("--self-registration", "--ou", OU, "--environment", ENVIRONMENT, "--json"),
        )
    )
    secret = made["new_secret"]
    derived = base64.b64encode(hmac.digest(base64.b64decode(secret), b"one", "sha256")).decode()
    config = agent_file(
        site, "one", group, x509=True, **{"derived": {"key": derived}, "group": {"group_secret": secret}}[kind]
    )
    done = await run_once(config)
    assert done.returncode == 0, done.stdout + done.stderr
    # It loses everything and activates again: the new credential waits for an operator, the old one stays valid.
    (config.parent / "state").rename(config.parent / "lost")
    waiting = await run_once(config, "--timeout", "5")
    assert waiting.returncode == 5
    assert "conflict" in waiting.stdout
    assert _of(site, group) == ["confirmed", "pending"]
    await site.command("device", "approve", f"{group}/one")
    done = await run_once(config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _of(site, group) == ["dropped", "confirmed"]


def _of(site: Site, group: str) -> list[str]:
    found = site.query(
        "SELECT c.state FROM credential c JOIN device d USING (device_id) WHERE d.group_id = ? ORDER BY c.created_at",
        group,
    )
    return [row[0] for row in found]
