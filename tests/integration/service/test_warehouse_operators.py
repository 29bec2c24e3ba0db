"""The warehouse's verbs on real sockets: asked, answered, refused and looked at over MQTT."""

from __future__ import annotations

import pytest

from tests.integration.service.conftest import Running
from tests.integration.service.test_operators import ask, operator
from tests.support.site import OU

pytestmark = pytest.mark.asyncio(loop_scope="module")
SITE = {"name": "hall-1", "ou": f"{OU}/hall-1", "settings": {"network": {"password": "swordfish"}}}


async def test_an_operator_makes_a_site_and_looks_at_it(running: Running) -> None:
    async with operator(running, "walter", ou=OU) as walter:
        said = await ask(walter, "create-site", {"id": "1", "arguments": {"sites": [SITE]}})
        assert (said["ok"], said["changed"], said["outcomes"]) == (
            True, 1, [{"device": "site/hall-1", "result": "changed"}],
        )  # fmt: skip
        other = {"id": "2", "arguments": {"sites": [{**SITE, "title": "another"}]}}
        refused = await ask(walter, "create-site", other)
        assert (refused["ok"], refused["code"], refused["cause"]) == (False, "CONFLICT", "site_exists")
        listed = await ask(walter, "warehouse-list", {"id": "3", "what": "sites"})
        assert [row["name"] for row in listed["rows"]] == ["hall-1"]
        shown = await ask(walter, "warehouse-show", {"id": "4", "what": "site", "name": "hall-1"})
        assert shown["row"]["settings"] == ["network.password"]
        assert "swordfish" not in str(walter.received)
        unknown = await ask(walter, "warehouse-tell", {"id": "5"})
        assert unknown["code"] == "UNKNOWN_VERB"


async def test_a_page_of_rows_is_answered_row_by_row(running: Running) -> None:
    async with operator(running, "wanda") as wanda:
        sites = [{**SITE, "name": f"hall-{number}"} for number in (7, 8)]
        sites.insert(1, {**SITE, "name": "no name"})
        said = await ask(wanda, "create-site", {"id": "1", "arguments": {"sites": sites}})
        assert [one["result"] for one in said["outcomes"]] == ["changed", "refused", "changed"]
        assert said["outcomes"][1]["cause"] == "name_illegal"
