"""The site of a test: on the embedded broker and on real Mosquitto, or on one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.support.broker_site import Site, embedded_site, mosquitto_site


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def site(request, tmp_path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        made = embedded_site() if request.param == "embedded" else mosquitto_site(tmp_path)
        yield await stack.enter_async_context(made)


@pytest.fixture
async def real_site(tmp_path) -> AsyncIterator[Site]:
    """Real Mosquitto only; the test carries the marker `mosquitto`."""
    async with mosquitto_site(tmp_path) as made:
        yield made


@pytest.fixture
async def embedded() -> AsyncIterator[Site]:
    async with embedded_site() as made:
        yield made
