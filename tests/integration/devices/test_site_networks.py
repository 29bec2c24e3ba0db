"""The SDK at the customer's on real brokers: a wire or none, and settings that cut it off."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from device_sdk.core.actions import Connect
from device_sdk.core.identity import Policy
from device_sdk.core.ports import Product
from device_sdk.drivers.aio import AiomqttTransport, ConnectError, Link
from device_sdk.drivers.connection import UNREACHABLE
from device_sdk.simulator.device import VirtualDevice
from device_sdk.simulator.power import PowerLostError
from service.installation import domain_environments
from service.operations.commands import Commands
from tests.integration.devices.test_warehouse_run import a_warehouse, powered
from tests.support.site import Site
from tests.support.warehouse import SETTINGS, SITE, Warehouse

ITEMS = (("menu", "content", "7", b"soup", ()),)


class Tablet(Product):
    """Its network is that of its settings; without any it has the wire, where there is one."""

    def __init__(self, *, wired: bool) -> None:
        self.wired, self.in_warehouse = wired, True
        self.values: dict[str, Any] = {}
        self.came_by: list[str | None] = []  # the networks of its connections at the customer's

    def apply_site_settings(self, values: dict[str, Any]) -> None:
        self.values = values

    @property
    def ssid(self) -> str | None:
        ssid: str | None = self.values.get("network", {}).get("ssid")
        return ssid

    @asynccontextmanager
    async def open(self, connect: Connect) -> AsyncIterator[Link]:
        """As its transport."""
        if not self.in_warehouse and not (self.wired if self.ssid is None else self.ssid == "hall"):
            raise ConnectError(UNREACHABLE, "no network")
        async with AiomqttTransport().open(connect) as link:
            if not self.in_warehouse:
                self.came_by.append(self.ssid)
            yield link


async def until(site: Site, query: str, expected: list[tuple[Any, ...]]) -> None:
    seen: list[Any] = []
    try:
        async with asyncio.timeout(60):
            while (seen := site.query(query)) != expected:
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"{expected} expected, {seen} seen")


@asynccontextmanager
async def by_command(site: Site) -> AsyncIterator[Warehouse]:
    async with site.database() as database:
        yield Warehouse(Commands(database, domain_environments(site.settings), random_bytes=os.urandom))


@pytest.mark.parametrize("wired", [pytest.param(True, marks=pytest.mark.long), False])
async def test_the_network_or_the_first_contact_comes_first_and_what_cuts_it_off_is_given_up(
    tmp_path: Path, wired: bool
) -> None:
    async with a_warehouse(tmp_path, "embedded", ["T-1"], ITEMS) as site, by_command(site) as warehouse:
        if not wired:
            await warehouse.done(
                "set-type", type="tablet", warehouse_settings=["network"], handshake_settings=["features", "payment"]
            )
        tablet = Tablet(wired=wired)
        policy = Policy(backoff_first_s=0.1, request_timeout_s=5.0)
        device = VirtualDevice(
            site.identity("T-1"), rng=random.Random(1), policy=policy, product=tablet, transport=tablet
        )
        async with powered([device]):
            async with asyncio.timeout(60):
                await device.boxed.wait()
            # 1. In the warehouse nothing of the site is in force yet.
            assert (tablet.values, site.query("SELECT step FROM equipment")) == ({}, [("out_of_box",)])
            tablet.in_warehouse = False
            device.unpacked.set()
            said = "SELECT step, settings_rev, settings_state, settings_cause FROM equipment"
            await until(site, said, [("at_site", 1, "applied", None)])
            # 2. By wire it came first and got its network then, which was tried; without one the network came first.
            assert list(dict.fromkeys(tablet.came_by)) == ([None, "hall"] if wired else ["hall"])
            assert tablet.values == SETTINGS
            # 3. Settings that cut it off: it is back with the last good ones, and says so.
            policy.settings_trial_s = 1.0
            wrong = {"network": {"ssid": "gone"}, "payment": {"terminal": "T9"}}
            await warehouse.done("set-site", site=SITE["name"], settings=wrong)
            await until(site, said, [("at_site", 2, "failed", "connect_unreachable")])
            assert tablet.values == SETTINGS
            assert site.query("SELECT cause FROM equipment") == [("settings: connect_unreachable",)]
            # 4. Others that work.
            policy.settings_trial_s = 60.0
            await warehouse.done("set-site", site=SITE["name"], settings={**wrong, "network": {"ssid": "hall"}})
            await until(site, said, [("at_site", 3, "applied", None)])
            assert tablet.values["payment"] == {"terminal": "T9"}


@pytest.mark.long
@pytest.mark.parametrize("wired", [True, False])
async def test_a_unit_that_lost_power_before_it_stored_its_box_and_was_shipped_lives_at_its_second_start(
    tmp_path: Path, wired: bool
) -> None:
    async with a_warehouse(tmp_path, "embedded", ["T-1"], ITEMS) as site, by_command(site) as warehouse:
        await warehouse.done(
            "set-type", type="tablet", warehouse_settings=["network"], handshake_settings=["features", "payment"]
        )
        tablet = Tablet(wired=wired)
        policy = Policy(backoff_first_s=0.1, rung_span_s=0.5)
        device = VirtualDevice(
            site.identity("T-1"), rng=random.Random(1), policy=policy, product=tablet, transport=tablet
        )
        save = device.flash.save

        def cut(name: str, data: bytes) -> None:
            if name.startswith(("site", "boxed")) and tablet.in_warehouse:
                tablet.in_warehouse = False  # packed and shipped: the service has it out of box
                device.power.cut()
                raise PowerLostError
            save(name, data)

        device.flash.save = cut  # type: ignore[method-assign]
        async with powered([device]), asyncio.timeout(60):
            await device.boxed.wait()
            assert site.query("SELECT step FROM equipment") == [("out_of_box",)]
            assert (device.power.cuts, tablet.came_by) == (1, [None if wired else "hall"])
            device.unpacked.set()
            await until(site, "SELECT step, settings_state FROM equipment", [("at_site", "applied")])
            assert tablet.values == SETTINGS
