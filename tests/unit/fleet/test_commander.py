"""What the commander does when the work on a command meets a fault of the service."""

from __future__ import annotations

import asyncio

from service.fleet import commander
from service.fleet.commander import Commander


class Stored:
    """Two commands that run until their work has gone well once; that of the first fails at first."""

    def __init__(self) -> None:
        self.left = ["poison", "good"]
        self.faults = 1
        self.finished = asyncio.Event()

    async def running(self) -> list[str]:
        return list(self.left)

    async def run(self, command_id: str, _progress) -> None:
        if command_id == "poison" and self.faults:
            self.faults -= 1
            raise KeyError("a bug")
        self.left.remove(command_id)
        if not self.left:
            self.finished.set()


async def test_a_fault_in_one_command_leaves_the_others_and_is_tried_again(monkeypatch) -> None:
    monkeypatch.setattr(commander, "FAULT_S", 0.001)
    monkeypatch.setattr(commander, "WATCH_S", 0.001)
    stored, counted = Stored(), list[str]()
    running = asyncio.create_task(Commander(None, stored, [], count=counted.append).run())
    try:
        async with asyncio.timeout(20):
            await stored.finished.wait()
        assert counted == ["internal_fault"]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
