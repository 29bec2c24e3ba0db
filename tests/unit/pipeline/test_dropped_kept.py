"""How long a dropped credential is remembered: what a repeated activate is promised."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from device_sdk.wire import limits
from service.domain.catalogue import Catalogue
from service.pipeline.bounds import Bounds
from service.pipeline.record import Record
from service.pipeline.ticker import Ticker
from tests.support.fake_link import FakeUpkeep
from tests.support.fake_store import FakeStore

NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def test_the_clock_keeps_a_dropped_row_for_as_long_as_the_protocol_promises() -> None:
    asked: list[datetime] = []

    class Noting(FakeUpkeep):
        async def delete_dropped(self, dropped_before, *, limit: int = 1000) -> int:
            asked.append(dropped_before)
            return 0

    store = FakeStore(Catalogue(1, {}, {}, {}, {}))
    ticker = Ticker(Noting(store), Bounds(), Record(1), clock=lambda: NOW, submit=lambda _: True)
    await ticker.tick()
    (before,) = asked
    assert NOW - before >= timedelta(seconds=600)


@pytest.mark.parametrize("kept_s", [0, 5, limits.DROPPED_KEPT_S - 1])
def test_no_installation_keeps_it_for_less(kept_s: int) -> None:
    with pytest.raises(ValueError, match="600 s at least"):
        replace(Bounds(), dropped_kept_s=kept_s)
    assert replace(Bounds(), dropped_kept_s=limits.DROPPED_KEPT_S).dropped_kept_s == 600
    assert limits.DROPPED_KEPT_S == 600  # docs/protocol.md, sections 4.4 and 8
