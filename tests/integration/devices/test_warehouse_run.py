"""A whole warehouse on real brokers: units are handed over, staged through power cuts, boxed, and started at their site."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from device_sdk.core.identity import Policy
from device_sdk.core.ports import Product
from device_sdk.drivers import failpoints
from device_sdk.simulator.device import PowerPlan, VirtualDevice
from device_sdk.simulator.power import PowerLostError
from device_sdk.wire.keys import item_key, item_nonce
from service.images.files import ImageFiles
from service.installation import domain_environments
from service.mqtt.port import EVERYWHERE, Role
from service.operations import builds, manifests
from service.operations.commands import Commands
from tests.support.agents import run_agent
from tests.support.builds import SECRET, write_build
from tests.support.site import ENVIRONMENT, GROUP, PRODUCT, PRODUCT_ID, Site
from tests.support.site_agents import agent_file, run_once
from tests.support.warehouse import SETTINGS, SITE, Warehouse

IMAGE = random.Random(8).randbytes(300_000)
LARGE = random.Random(9).randbytes(150_000)
VAULT = random.Random(10).randbytes(120_000)  # a secret that is an image of its own
ITEMS = (
    ("app", "software", "2.1.0", IMAGE, ("runtime>=1.2", "wifi>=3")),
    ("runtime", "software", "1.10", LARGE, ()),
    ("menu", "content", "7", b"soup", ("app>=2",)),
    ("ca", "certificate", "1", b"-----BEGIN" * 1200, ()),  # in two pieces
    ("wifi", "secret", "3", SECRET, ()),
    ("vault", "secret", "1.4", VAULT, ()),
)
INSTALLED = {name: (version, data) for name, _, version, data, _ in ITEMS}
STREAMED = [hashlib.sha256(one).hexdigest() for one in (IMAGE, LARGE)]
CUT_WITHIN = 120  # operations of flash and installer; a staging takes more, so that each unit is cut at least once


class Tablet(Product):
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def apply_site_settings(self, values: dict[str, Any]) -> None:
        self.values = values


class Unit(VirtualDevice):
    """Counts the power cuts within a download by the chunk stream: some chunks of this boot there, and not all."""

    cuts_in_download = 0
    cuts_in_secret = 0  # of those, in that of the sealed image

    async def _life(self, stop: asyncio.Event) -> str:
        before = self.items.bytes_written
        try:
            return await super()._life(stop)
        except PowerLostError:
            started = self.items.bytes_written > before
            sealed = started and self.items.arriving == self.sealed_image()
            self.cuts_in_secret += sealed
            self.cuts_in_download += sealed or (started and self.items.arriving in STREAMED)
            raise

    def sealed_image(self) -> str:
        """The id of the vault as it is for this unit, made from its key by hand."""
        key = item_key(self.identity.key, "vault", "1.4")
        nonce = item_nonce(key, hashlib.sha256(VAULT).digest())
        return hashlib.sha256(nonce + AESGCM(key).encrypt(nonce, VAULT, None)).hexdigest()


@asynccontextmanager
async def a_warehouse(
    folder: Path, broker: str, serials: list[str], items: tuple[Any, ...] = ITEMS
) -> AsyncIterator[Site]:
    """A site with a build, an order and its units handed over; brokers and service run."""
    site = Site(folder, broker, warehouse=True)
    try:
        await site.make()
        await site.register(serials)
        async with site.database() as database:
            commands = Commands(database, domain_environments(site.settings), random_bytes=os.urandom)
            warehouse = Warehouse(commands)
            parts = await asyncio.to_thread(lambda: builds.read(write_build(folder, items)))
            signatures = builds.sign(parts, site.folder / "release.key", product=PRODUCT)
            await manifests.build(
                database, ImageFiles(site.settings.images_dir), product_id=PRODUCT_ID, name="build-7", parts=parts,
                signatures=signatures, static=True, now=datetime.now(UTC),
            )  # fmt: skip
            await warehouse.furnish(*serials, group=GROUP)
            await warehouse.done("set-site", site=SITE["name"], settings=SETTINGS)
            await warehouse.done("hand-over", order="SO-1")
        if broker == "mosquitto":
            for role in (*EVERYWHERE, Role.WAREHOUSE):
                await site.start_broker(role)
        async with site.serving_here():
            yield site
    finally:
        await site.close()


@asynccontextmanager
async def powered(devices: Sequence[VirtualDevice]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(one.run(stop)) for one in devices]
    try:
        yield
    finally:
        stop.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one for one in done if one is not None] == []


def units(site: Site, serials: list[str], cuts: int, timed: float, within: int = CUT_WITHIN) -> list[Unit]:
    return [
        Unit(
            site.identity(serial),
            rng=random.Random(serial),
            policy=Policy(chunk_size=4096, window_chunks=8, backoff_first_s=0.2, request_timeout_s=5.0),
            power_plan=PowerPlan(cuts=cuts, within=within, timed=timed),
            product=Tablet(),
        )
        for serial in serials
    ]


async def all_of(devices: list[Unit], site: Site, step: str, within_s: float) -> None:
    query = "SELECT count(*) FROM equipment WHERE step = ?"
    async with asyncio.timeout(within_s):
        while site.query(query, step) != [(len(devices),)]:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("broker", "count", "cuts", "timed"),
    [
        pytest.param("embedded", 2, 2, 0.0),
        pytest.param("mosquitto", 3, 3, 0.0, marks=pytest.mark.mosquitto),
        pytest.param(
            "mosquitto", 30, 4, 0.3, marks=[pytest.mark.mosquitto, pytest.mark.long, pytest.mark.timeout(900)]
        ),
    ],
)
async def test_units_are_staged_through_power_cuts_and_come_to_life_at_their_site(
    tmp_path: Path, broker: str, count: int, cuts: int, timed: float
) -> None:
    serials = [f"T-{number:04}" for number in range(count)]
    within_s = 60.0 + 20.0 * count
    async with a_warehouse(tmp_path, broker, serials) as site:
        devices = units(site, serials, cuts, timed)
        async with powered(devices):
            await all_of(devices, site, "out_of_box", within_s)
            async with asyncio.timeout(within_s):
                for one in devices:
                    await one.boxed.wait()
            for one in devices:
                # Everything is there, byte for byte, each after what it needs.
                assert one.items.installed == INSTALLED
                order = list(dict.fromkeys(one.items.order))
                assert order.index("app") > max(order.index("runtime"), order.index("wifi"))
                assert order.index("menu") > order.index("app")
            # Nobody has confirmed anything yet: the credentials wait for the customer.
            assert site.query("SELECT DISTINCT state FROM credential WHERE dropped_at IS NULL") == [("pending",)]
            assert site.query("SELECT DISTINCT cause FROM equipment") == [(None,)]
            for one in devices:
                one.unpacked.set()
            await all_of(devices, site, "at_site", within_s)
            async with asyncio.timeout(within_s):
                while site.query("SELECT count(*) FROM equipment WHERE settings_state = 'applied'") != [(count,)]:
                    await asyncio.sleep(0.1)
            assert all(one._product.values == SETTINGS for one in devices)
        assert sum(one.power.cuts for one in devices) >= count
        assert sum(one.cuts_in_download for one in devices) >= max(1, count // 3)
        # One credential a unit was ever used, and what is stored says nothing of the secrets.
        used = site.query("SELECT count(*) FROM credential WHERE confirmed_at IS NOT NULL")
        assert used == [(count,)]
        assert_nothing_leaks(site)


def assert_nothing_leaks(site: Site) -> None:
    raw = site.settings.database_path.read_bytes()
    with contextlib.suppress(FileNotFoundError):
        raw += site.settings.database_path.with_name("firstlight.db-wal").read_bytes()
    assert SECRET not in raw
    assert VAULT[:64] not in raw
    files = [one for one in site.settings.images_dir.rglob("*") if one.is_file()]
    assert sorted(one.stat().st_size for one in files) == sorted([len(IMAGE), len(LARGE)])
    assert b'"terminal"' not in raw
    assert ENVIRONMENT.encode() in raw  # what is looked at is the database


@pytest.mark.parametrize(
    "broker", ["embedded", pytest.param("mosquitto", marks=[pytest.mark.mosquitto, pytest.mark.long])]
)
async def test_a_large_secret_is_downloaded_through_power_cuts_and_opened(tmp_path: Path, broker: str) -> None:
    serials = ["T-1", "T-2"]
    async with a_warehouse(tmp_path, broker, serials, (ITEMS[-1],)) as site:
        devices = units(site, serials, 6, 0.0, within=40)  # its download alone takes as many operations
        async with powered(devices):
            await all_of(devices, site, "out_of_box", 100.0)
        assert [one.items.installed for one in devices] == [{"vault": ("1.4", VAULT)}] * 2
        assert sum(one.cuts_in_secret for one in devices) >= 1
        assert len({one.sealed_image() for one in devices}) == 2
        assert [one for one in site.settings.images_dir.rglob("*") if one.is_file()] == []


@pytest.mark.mosquitto
async def test_a_unit_on_the_ordinary_listener_is_not_staged_and_lives_without(tmp_path: Path) -> None:
    async with a_warehouse(tmp_path, "mosquitto", ["T-1"]) as site:
        identity = site.identity("T-1")
        identity.warehouse = tuple(identity.bootstrap)  # it was told the wrong address
        heard: list[str] = []
        device = VirtualDevice(identity, rng=random.Random(1), on_note=lambda note: heard.append(note.event))
        async with powered([device]), asyncio.timeout(60):
            while device.online_s is None:
                await asyncio.sleep(0.05)
        assert "not_in_warehouse" in heard
        assert site.query("SELECT step FROM equipment") == [("received",)]
        assert device.items.installed == {}


_LONG = pytest.mark.long


@pytest.mark.parametrize(
    "point", ["items.linked:2", *(pytest.param(f"{one}:1", marks=_LONG) for one in failpoints.WAREHOUSE_NAMES)]
)
async def test_the_device_program_is_staged_killed_at_an_installation_and_says_when_to_switch_off(
    tmp_path: Path, point: str
) -> None:
    async with a_warehouse(tmp_path, "embedded", ["T-1"]) as site:
        there = {"host": "127.0.0.1", "port": site.ports["warehouse"], "tls": False}
        config = agent_file(site, "T-1", warehouse=[there])
        killed = await asyncio.to_thread(run_agent, config, "--allow-plaintext", failpoint=point)
        assert killed.returncode == -9, killed.stdout
        staged = await asyncio.to_thread(run_agent, config, "--allow-plaintext")
        assert staged.returncode == 11, staged.stdout
        assert SECRET.decode() not in killed.stdout + staged.stdout
        installed = config.parent / "state" / "items" / "installed"
        assert {one.name: (one / "content").read_bytes() for one in installed.iterdir()} == {
            name: data for name, (_, data) in INSTALLED.items()
        }
        assert site.query("SELECT step FROM equipment") == [("out_of_box",)]
        unpacked = await run_once(config, "--allow-plaintext")
        assert unpacked.returncode == 0, unpacked.stdout
        assert site.query("SELECT count(*) FROM credential WHERE confirmed_at IS NOT NULL") == [(1,)]
