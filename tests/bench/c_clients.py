"""Mosquitto's own C clients, one publishing and one subscribing: the most that this broker carries on this machine."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

TOPIC = "pv1/c/{owner}/dn/chunk"


async def rate(link: dict, payload_bytes: int, messages: int, timeout_s: float = 60.0) -> dict | None:
    """{mb_per_s, messages_per_s, lost} from mosquitto_pub to mosquitto_sub at QoS 0; None where they are not installed.

    `link`: keyword arguments of MiniClient.connect.
    """
    publisher, subscriber, stdbuf = (shutil.which(name) for name in ("mosquitto_pub", "mosquitto_sub", "stdbuf"))
    if publisher is None or subscriber is None or stdbuf is None:
        return None
    topic = TOPIC.format(owner="0" * 32)
    common = ["-h", link["host"], "-p", str(link["port"]), "-u", link["username"], "-P", link["password"], "-t", topic]
    command = [stdbuf, "-oL", subscriber, *common, "-F", "%l"]
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    listening = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=nothing)
    assert listening.stdout is not None
    try:
        await _subscribed(listening.stdout, [publisher, *common, "-m", "x"])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "payload"
            file.write_bytes(bytes(payload_bytes))
            repeat = ["-f", str(file), "--repeat", str(messages)]
            publishing = await asyncio.create_subprocess_exec(publisher, *common, *repeat)
            received, started, ended = await _count(listening.stdout, payload_bytes, messages, timeout_s)
            await publishing.wait()
    finally:
        listening.terminate()
        await listening.wait()
    seconds = max(ended - started, 1e-9)
    return {
        "mb_per_s": round(received * payload_bytes / seconds / 1e6, 1),
        "messages_per_s": round(received / seconds),
        "lost": messages - received,
    }


async def _subscribed(out: asyncio.StreamReader, probe: list[str]) -> None:
    """Publishes single bytes until one comes back."""
    for _ in range(20):
        await (await asyncio.create_subprocess_exec(*probe)).wait()
        with contextlib.suppress(TimeoutError):
            if await asyncio.wait_for(out.readline(), 0.5):
                return
    raise RuntimeError("mosquitto_sub hears nothing")


async def _count(out: asyncio.StreamReader, payload_bytes: int, messages: int, timeout_s: float):
    """(messages, first, last): what arrived until all are there or nothing has come for a second."""
    wanted = str(payload_bytes).encode()
    received, started, ended = 0, 0.0, 0.0
    deadline = time.perf_counter() + timeout_s
    while received < messages and time.perf_counter() < deadline:
        try:
            line = await asyncio.wait_for(out.readline(), 1.0 if received else 10.0)
        except TimeoutError:
            break
        if line.strip() == wanted:
            received += 1
            ended = time.perf_counter()
            started = started or ended
    return received, started, ended
