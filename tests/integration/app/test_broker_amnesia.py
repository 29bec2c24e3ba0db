"""A Mosquitto whose files are gone: rendered again from the database, who was let in is, and who was refused is not."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
import pytest

from device_sdk.aiomqtt_mended import mend
from device_sdk.wire import keys
from service.brokers.mosquitto import certificates
from service.domain.changes import Changes
from service.domain.credential import Credential, CredentialKind, CredentialState
from service.domain.device import Device, DeviceState
from service.domain.thing import Thing
from service.mqtt.library import close_socket
from service.mqtt.port import Role
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support import auditor
from tests.support.mosquitto import device_certificate
from tests.support.site import ENVIRONMENT, GROUP, OU, PRODUCT_ID, Site, made_site, until

pytestmark = pytest.mark.mosquitto

PAGE = 500
SAMPLE = 40


async def _activated(site: Site, count: int) -> dict[str, str]:
    """So many devices with a confirmed credential each: API keys by credential id, as the devices compute them."""
    logins: dict[str, str] = {}
    for page in _pages([f"sn-{number:05}" for number in range(count)]):
        await site.register(page)
        async with site.database() as database, SqlStore(database, {}).batch() as batch:
            loaded = await batch.load(serials=[(GROUP, serial) for serial in page])
            changed = []
            for (_, serial), device in loaded.by_serial.items():
                after, api_key = _with_credential(device, site.keys[GROUP, serial])
                logins[after.credentials[0].credential_id] = api_key
                changed.append((device, after))
            await batch.save(Changes(devices=tuple(changed)))
    assert len(logins) == count
    return logins


def _pages(serials: list[str]) -> list[list[str]]:
    return [serials[start : start + PAGE] for start in range(0, len(serials), PAGE)]


def _with_credential(device: Device, key: bytes) -> tuple[Device, str]:
    now, nonce, server_nonce = datetime.now(UTC), os.urandom(16), os.urandom(16)
    thing = Thing(
        os.urandom(16).hex(), GROUP, PRODUCT_ID, f"Thermometer of {device.serial}", OU, ENVIRONMENT,
        holder_device_id=device.device_id, created_at=now,
    )  # fmt: skip
    credential_id = os.urandom(16).hex()
    api_key = keys.api_key(key, nonce, server_nonce, thing.thing_id, credential_id)
    credential = Credential(
        credential_id, device.device_id, CredentialKind.API_KEY, CredentialState.CONFIRMED, ENVIRONMENT, now,
        now + timedelta(days=1), 1, nonce, server_nonce, b"grant", "msgpack",
        api_key_sha256=hashlib.sha256(api_key.encode()).digest(), confirmed_at=now, last_boot_count=1,
    )  # fmt: skip
    return replace(device, state=DeviceState.CONFIRMED, thing=thing, credentials=(credential,)), api_key


async def _is_let_in(site: Site, name: str, password: str) -> bool:
    assert site.mosquittos is not None
    tls = site.mosquittos.tls()
    client = aiomqtt.Client(
        "localhost", site.ports["api_key"], identifier=name, username=name, password=password, tls_context=tls
    )
    try:
        async with client:
            return True
    except aiomqtt.MqttError:
        client._client.disconnect()  # aiomqtt leaves the socket of a refused connection open
        client._client.loop_write()
        return False


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.long)])
async def test_a_deleted_list_of_logins_is_rendered_again_from_the_database(tmp_path: Path, count: int) -> None:
    async with made_site(tmp_path, "mosquitto") as site:
        logins = await _activated(site, count)
        await site.start_broker(Role.OPERATIONAL)
        await site.stop_broker(Role.OPERATIONAL)
        site.dynsec_file.unlink()

        began = time.monotonic()
        await site.command("broker", "render")  # as the unit does before each start
        rendered = time.monotonic()
        await site.start_broker(Role.OPERATIONAL, rendered=False)
        started = time.monotonic()
        sample = random.Random(1).sample(sorted(logins), min(count, SAMPLE))
        assert [name for name in sample if not await _is_let_in(site, name, logins[name])] == []
        assert not await _is_let_in(site, sample[0], logins[sample[1]])
        print(f"{count} logins: rendered in {rendered - began:.1f} s, broker up after {started - rendered:.1f} s more")


async def _certified(site: Site, serials: list[str]) -> dict[str, str]:
    """Devices with a confirmed credential that has a certificate: credential ids by serial."""
    assert site.mosquittos is not None
    names: dict[str, str] = {}
    await site.register(serials)
    async with site.database() as database, SqlStore(database, {}).batch() as batch:
        loaded = await batch.load(serials=[(GROUP, serial) for serial in serials])
        changed = []
        for (_, serial), device in loaded.by_serial.items():
            after, _ = _with_credential(device, site.keys[GROUP, serial])
            (one,) = after.credentials
            _, _, number = device_certificate(site.mosquittos.issuer, one.credential_id, site.folder)
            end = datetime.now(UTC) + timedelta(days=1)
            certified = replace(
                one, kind=CredentialKind.X509, certificate_serial=number, spki_sha256=os.urandom(32),
                certificate_expires_at=end, api_key_sha256=None,
            )  # fmt: skip
            changed.append((device, replace(after, credentials=(certified,))))
            names[serial] = one.credential_id
        await batch.save(Changes(devices=tuple(changed)))
    return names


async def _blocked_and_forgotten(site: Site, serials: list[str]) -> None:
    """Blocked, revoked at the broker and so long ago that their credentials' rows are deleted."""
    for serial in serials:
        await site.command("device", "block", f"{GROUP}/{serial}")
    async with site.database() as database:
        upkeep, now = Upkeep(database), datetime.now(UTC)
        await upkeep.mark_revoked([one.credential_id for one in await upkeep.unrevoked()], now)
        assert await upkeep.delete_dropped(now + timedelta(days=1)) == len(serials)


async def _certificate_is_let_in(site: Site, name: str) -> bool:
    assert site.mosquittos is not None
    tls = site.mosquittos.tls(site.folder / f"{name}.pem", site.folder / f"{name}.key")
    client = aiomqtt.Client("localhost", site.ports["api_key"], identifier=name, tls_context=tls)
    mend(client)  # a refusal is noticed at once
    try:
        async with client:
            return True
    except aiomqtt.MqttError:
        close_socket(client)
        return False


def _lose(site: Site, what: str) -> None:
    assert site.mosquittos is not None
    crl = site.mosquittos.plan.crl
    if what == "every file":
        shutil.rmtree(site.mosquittos.plan.directory)
    elif what == "the list":
        crl.unlink()
    else:
        empty = certificates.revocation_list(site.mosquittos.issuer, (), datetime.now(UTC))
        crl.write_bytes(empty if what == "its entries" else crl.read_bytes()[:99])


async def test_a_revoked_certificate_stays_refused_whatever_becomes_of_the_broker_s_files(tmp_path: Path) -> None:
    async with made_site(tmp_path, "mosquitto", certificates=True) as site:
        assert site.mosquittos is not None
        names = await _certified(site, ["sn-1", "sn-2", "sn-3"])
        await site.command("broker", "render")
        await _blocked_and_forgotten(site, ["sn-1", "sn-2"])
        for lost in ("the list", "half of the list", "its entries", "every file"):
            _lose(site, lost)
            await site.start_broker(Role.OPERATIONAL)
            let_in = [serial for serial in names if await _certificate_is_let_in(site, names[serial])]
            assert let_in == ["sn-3"], lost
            refused = certificates.revoked_serials(site.mosquittos.plan.crl.read_bytes())
            assert auditor.audit(site.settings.database_path, refused=refused) == []
            await site.stop_broker(Role.OPERATIONAL)


async def test_a_list_of_a_running_broker_that_is_lost_is_made_again_and_said_so(tmp_path: Path, caplog) -> None:
    async with made_site(tmp_path, "mosquitto", certificates=True) as site:
        assert site.mosquittos is not None
        names = await _certified(site, ["sn-1"])
        await _blocked_and_forgotten(site, ["sn-1"])
        for role in (Role.BOOTSTRAP, Role.OPERATIONAL):
            await site.start_broker(role)
        site.mosquittos.plan.crl.unlink()
        async with site.serving_here() as service:
            (deployment,) = service.deployments
            await until(lambda: deployment.reconciled == 1)
            assert not await _certificate_is_let_in(site, names["sn-1"])
        assert "revocation list of" in caplog.text
