"""The connection of a device that activates is cut after every single byte, of each direction, at both brokers.

Whatever was half said: the device comes in afterwards and has one confirmed credential.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from device_sdk.core.identity import Policy
from device_sdk.simulator import Fleet
from tests.support import auditor
from tests.support.cut_proxy import DOWN, UP, Cut, CutProxy, ProxiedTransport
from tests.support.site import GROUP, Site, made_site, until

BROKERS = ("bootstrap", "api_key")
AT_ONCE = 24
QUICK = Policy(
    connect_timeout_s=1.0, request_timeout_s=0.3, backoff_first_s=0.05, backoff_max_s=0.3, rung_tries=2, rung_span_s=0.0
)
Case = tuple[str, Cut] | None


async def _activates(site: Site, serial: str, case: Case, policy: Policy = QUICK) -> dict[str, CutProxy]:
    """One device powers up behind proxies of its own, of which one cuts; it must get online all the same."""
    async with AsyncExitStack() as stack:
        proxies = {}
        for broker in BROKERS:
            cut = case[1] if case is not None and case[0] == broker else None
            proxies[broker] = await stack.enter_async_context(CutProxy(site.ports[broker], cut))
        by_port = {site.ports[broker]: proxy for broker, proxy in proxies.items()}
        fleet = Fleet([site.identity(serial)], seed=1, jitter_s=0, policy=policy, transport=ProxiedTransport(by_port))
        stop = asyncio.Event()
        task = asyncio.create_task(fleet.run(stop))
        try:
            await until(lambda: fleet.devices[0].online_s is not None, 60)
        finally:
            stop.set()
            await task
        return proxies


async def _measured(site: Site) -> dict[tuple[str, str], int]:
    """Bytes of an activation that nothing disturbs, up to the answered `online`."""
    await site.register(["measured"])
    patient = Policy(request_timeout_s=30.0)  # a repeated request would count twice
    proxies = await _activates(site, "measured", None, patient)
    return {(broker, way): proxy.passed[way] for broker, proxy in proxies.items() for way in (UP, DOWN)}


async def _all_come_in(site: Site, cases: Iterable[tuple[str, Cut]]) -> int:
    """How many of them were really cut."""
    named = {f"{broker}-{cut.direction}-{cut.after}": (broker, cut) for broker, cut in cases}
    await site.register(named)
    turns, cuts = asyncio.Semaphore(AT_ONCE), 0

    async def one(serial: str, case: tuple[str, Cut]) -> None:
        nonlocal cuts
        async with turns:
            proxies = await _activates(site, serial, case)
        cuts += proxies[case[0]].cuts

    async with asyncio.TaskGroup() as group:
        for serial, case in named.items():
            group.create_task(one(serial, case))
    confirmed = dict(
        site.query(
            "SELECT d.serial, count(*) FROM device d JOIN credential c USING (device_id)"
            " WHERE c.state = 'confirmed' AND d.group_id = ? GROUP BY d.serial",
            GROUP,
        )
    )
    assert {serial: confirmed.get(serial) for serial in named} == dict.fromkeys(named, 1)
    await until(lambda: not auditor.audit(site.settings.database_path))
    return cuts


@pytest.mark.parametrize("broker", BROKERS)
async def test_a_connection_cut_here_and_there_does_not_keep_a_device_from_its_credential(
    tmp_path: Path, broker: str
) -> None:
    async with made_site(tmp_path) as site, site.serving_here():
        lengths = await _measured(site)
        cases = []
        for way in (UP, DOWN):
            length = lengths[broker, way]
            assert length > 100
            cases += [(broker, Cut(way, length * k // 8)) for k in range(8)]
        assert await _all_come_in(site, cases) == len(cases)


@pytest.mark.long
async def test_a_connection_cut_after_any_byte_does_not_keep_a_device_from_its_credential(tmp_path: Path) -> None:
    async with made_site(tmp_path) as site, site.serving_here():
        lengths = await _measured(site)
        cases = [(broker, Cut(way, n)) for (broker, way), length in lengths.items() for n in range(length)]
        cuts = await _all_come_in(site, cases)
        print(f"{len(cases)} devices, {cuts} cut: {lengths}")
        assert cuts >= len(cases) * 0.95  # the last bytes vary with the numbers in them
