"""The bench's own tools do what they say: a rate is worth nothing when its proxy or its client is wrong."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.mini_mqtt import MiniClient, publish_packet
from tests.bench.proxy import DelayProxy
from tests.bench.report import Row, table
from tests.bench.rows import storm_row


class Echo(asyncio.Protocol):
    """Sends everything back; `lost` is done when its one connection is over."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def test_the_proxy_keeps_every_byte_in_order_and_delays_it_each_way() -> None:
    echo = Echo()
    async with await asyncio.get_running_loop().create_server(lambda: echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with DelayProxy("127.0.0.1", port, 0.05) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            sent = bytes(range(256)) * 8192
            started = time.perf_counter()
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            assert time.perf_counter() - started >= 0.1
            writer.close()
            await writer.wait_closed()
            await echo.lost


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 64, 5000])
async def test_the_small_client_reads_packets_however_they_are_cut(cut: int) -> None:
    got: list[tuple[str, bytes]] = []
    client = MiniClient(lambda topic, payload: got.append((topic, payload)))
    sizes = [0, 1, 127, 128, 16384, 70000]
    stream = b"".join(publish_packet("pv1/c/x/dn/chunk", bytes(size), qos=0) for size in sizes)
    for start in range(0, len(stream), cut):
        client.data_received(stream[start : start + cut])
    assert [(topic, len(payload)) for topic, payload in got] == [("pv1/c/x/dn/chunk", size) for size in sizes]


def test_a_row_shows_its_floor_and_the_ratio() -> None:
    shown = table([Row("stream", 60.0, 80.0, "MB/s")], {"cores": 2})
    assert "60.0 MB/s" in shown
    assert "80.0 MB/s (floor)" in shown
    assert "0.75" in shown


def test_the_row_of_several_storms_is_the_one_in_the_middle() -> None:
    def storm(rate: float) -> tuple[dict, dict]:
        told = {"asked": 10, "confirmed": 10, "p50_s": 1, "p99_s": 2, "repeats": 0, "refused": {}}
        return {**told, "per_second": rate}, {**told, "per_second": 100.0}

    row = storm_row("certificates", [storm(60.0), storm(20.0), storm(50.0)])
    assert (row.rate, row.ratio) == (50.0, 0.5)
    assert "the middle of 0.20, 0.50, 0.60" in row.note
    assert storm_row("certificates", [storm(60.0), storm(20.0)]).rate == 20.0
    assert "middle" not in storm_row("certificates", [storm(60.0)]).note


@pytest.mark.parametrize("module", ["echo", "publish_loop"])
def test_a_floor_stays_within_sixty_lines(module: str) -> None:
    assert len((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.long
def test_a_large_command_whose_process_is_killed_changes_each_device_once() -> None:
    words = [sys.executable, "-m", "tests.bench.fleet_commands", "--devices", "2000"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "then killed" in ended.stdout
    assert "each device was changed once (done)" in ended.stdout
