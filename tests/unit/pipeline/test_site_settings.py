"""The handshake of a unit that was elsewhere before: each revision is one site's, and a site may have none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.manifest import SiteSettings
from service.domain.warehouse import Step
from tests.support.fake_link import START
from tests.support.pipeline_site import running
from tests.support.staged_peer import VALUES, StagedPeer, change_unit, handed_over, step_of
from tests.unit.pipeline.test_warehouse import at_site, shake

OTHER = {**VALUES, "payment": {"terminal": "T-other"}}


def moved(site, settings: SiteSettings | None) -> None:
    """As the warehouse's verbs leave the unit for another site."""
    change_unit(site, site="hall-2", settings=settings, step=Step.SHIPPED)


@pytest.mark.parametrize("rev", [2, 7])
async def test_a_unit_at_another_site_gets_that_one_s_settings_whether_its_revision_is_higher_or_lower(tmp_path, rev):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await at_site(site, peer)
        moved(site, SiteSettings(rev, OTHER))
        assert await shake(peer, 3) == {"rev": rev, "values": OTHER}
        assert await shake(peer, rev) == {}
        assert step_of(site) is Step.AT_SITE


async def test_a_unit_at_a_site_without_settings_is_told_so(tmp_path):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await at_site(site, peer)
        moved(site, None)
        reply = await peer.online()
        assert peer.document(reply["desired"])["handshake"] == {"settings_rev": 0}
        assert await shake(peer, 3) == {"rev": 0, "values": {}}
        assert await shake(peer, 0) == {}
        assert site.store.device("line-1", "sn-1").unit.said.sent_rev == 0


@pytest.mark.parametrize("step", [Step.RECEIVED, Step.STAGED])
async def test_a_unit_that_is_back_in_the_warehouse_gets_no_settings_by_an_older_credential(tmp_path, step):
    async with running(tmp_path, devices=[handed_over()]) as site:
        peer = StagedPeer(site)
        await at_site(site, peer)
        change_unit(site, site="hall-2", settings=SiteSettings(7, OTHER), step=step)
        device = site.store.device("line-1", "sn-1")
        equipment = replace(device.unit.equipment, stage_credential_id=None, step_at=START)
        site.store.add(replace(device, unit=replace(device.unit, equipment=equipment)))
        assert await shake(peer, 3) == {}
        assert step_of(site) is step
