"""What stands between us and aiomqtt."""

from __future__ import annotations

import asyncio

import pytest

from service.mqtt.library import heed_cancellation


async def test_a_cancellation_that_comes_with_the_answer_is_not_lost() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect() -> None:
        await asyncio.wait_for(answer, 10)
        heed_cancellation()
        pytest.fail("went on although it was cancelled")

    task = asyncio.create_task(connect())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
