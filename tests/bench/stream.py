"""The firmware stream: real devices on real credentials that fetch without end and count. Its own process.

Owns activation of its devices, windows and the counting; runs the measures that it is given one after another on the same
connections, each with its floor beside it. Prints one line of JSON.
"""

import asyncio
import contextlib
import json
import secrets
import sys
import time

import msgpack

from tests.bench.material import CONFIRM, Material
from tests.bench.mini_mqtt import MiniClient
from tests.bench.proxy import DelayProxy
from tests.bench.wiring import Beside, tls_of

HEADER_BYTES = 20
SILENCE_S = 2.0
WARM_UP_S = 1.0
MAX_WINDOW_CHUNKS = 256


class Receiver:
    """One device: activates once, then fetches windows for as long as `chunk_size` is set."""

    def __init__(self, serial: str, given: dict) -> None:
        self.given = given
        self.material = Material.make(given["group_id"], bytes.fromhex(given["group_secret"]), serial)
        self.answers: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.received_bytes = self.chunks = self.lost_windows = 0
        self.refused: dict[str, int] = {}
        self.chunk_size = 0
        self.stream = self.first = 0
        self.windows: dict[int, int] = {}  # stream -> chunks still to come
        self.heard = 0.0
        self.client: MiniClient | None = None

    async def activate(self) -> None:
        link, me = self.given["bootstrap"], self.material
        client = MiniClient(self._answer)
        await client.connect(link["host"], link["port"], me.session, tls=tls_of(link.get("tls")))
        prefix = f"pv1/b/{me.session}"
        await client.subscribe(prefix + "/dn/+")
        hello = await self._ask(client, prefix, "hello", me.hello)
        reply = await self._ask(client, prefix, "activate", me.activate(hello["server_nonce"]))
        client.close()
        if not me.proven(hello["server_nonce"], reply):
            raise RuntimeError("wrong server_proof")
        grant = msgpack.unpackb(reply["grant"])
        self.credential_id, self.endpoint = grant["credential_id"], grant["endpoint"]
        self.password = me.api_key(hello["server_nonce"], grant["thing_id"], grant["credential_id"])
        self.prefix = f"pv1/c/{self.credential_id}"

    async def connect(self, port: int | None = None) -> None:
        """Connects with its credential, to a proxy's port if given; an older connection is taken over."""
        if self.client is not None:
            self.client.close()
        tls = tls_of(self.given["ca_file"]) if self.endpoint["tls"] else None
        name, host = self.endpoint["host"], "127.0.0.1" if port else self.endpoint["host"]
        self.client = MiniClient(self._answer)
        login = {"username": self.credential_id, "password": self.password, "tls": tls, "server_hostname": name}
        await self.client.connect(host, port or self.endpoint["port"], self.credential_id, **login)
        await self.client.subscribe(self.prefix + "/dn/+")

    async def confirm(self) -> None:
        """Says online and learns the image."""
        assert self.client is not None
        verb, message = CONFIRM
        reply = await self._ask(self.client, self.prefix, verb, msgpack.packb({"id": "3", **message}))
        firmware = msgpack.unpackb(reply["desired"]["doc"])["firmware"]
        self.image, self.size = bytes.fromhex(firmware["image_id"])[:8], firmware["size"]

    def start(self, chunk_size: int, window_chunks: int, windows: int) -> None:
        self.window_chunks = min(window_chunks, MAX_WINDOW_CHUNKS)
        self.chunk_size, self.most_windows, self.first = chunk_size, windows, 0
        self.windows.clear()
        self._fill()

    def stop(self) -> None:
        self.chunk_size = 0

    def _fill(self) -> None:
        total = (self.size + self.chunk_size - 1) // self.chunk_size
        while len(self.windows) < self.most_windows:
            count = min(self.window_chunks, total - self.first)
            self.stream = (self.stream + 1) % 256
            self.windows[self.stream] = count
            message = {"id": secrets.token_hex(4), "image": self.image, "stream": self.stream, "first": self.first}
            assert self.client is not None
            payload = msgpack.packb({**message, "chunk_size": self.chunk_size, "count": count})
            self.client.publish(self.prefix + "/up/fetch", payload)
            self.first = (self.first + count) % total
        self.heard = time.perf_counter()

    def repair(self, now: float) -> None:
        """After a silence what is outstanding counts as lost and is asked for anew (the bench keeps no image)."""
        if self.chunk_size and now - self.heard > SILENCE_S:
            self.lost_windows += len(self.windows)
            self.windows.clear()
            self._fill()

    def _answer(self, topic: str, payload: bytes) -> None:
        if topic.endswith("/dn/chunk"):
            self.received_bytes += len(payload) - HEADER_BYTES
            self.chunks += 1
            if not self.chunk_size:
                return
            left = self.windows.get(payload[1], 0) - 1
            if left > 0:
                self.windows[payload[1]] = left
            elif left == 0:
                del self.windows[payload[1]]
                self._fill()
            self.heard = time.perf_counter()
        elif topic.endswith("/dn/fetch"):
            code = msgpack.unpackb(payload)["code"]
            self.refused[code] = self.refused.get(code, 0) + 1
        else:
            self.answers.put_nowait((topic, payload))

    async def _ask(self, client: MiniClient, prefix: str, verb: str, payload: bytes) -> dict:
        for _ in range(10):
            client.publish(f"{prefix}/up/{verb}", payload)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    while True:
                        topic, answer = await self.answers.get()
                        if topic == f"{prefix}/dn/{verb}":
                            break
                reply = msgpack.unpackb(answer)
                if reply["ok"]:
                    return reply
                await asyncio.sleep(min(reply.get("retry_after_s", 1), 5))
        raise RuntimeError(f"no good answer to {verb}")


async def count(receivers: list[Receiver], seconds: float) -> dict:
    """What arrives in `seconds` after a second of warming up."""
    end_of_warm_up, before, started = time.perf_counter() + WARM_UP_S, None, 0.0
    while True:
        await asyncio.sleep(0.1)
        now = time.perf_counter()
        for receiver in receivers:
            receiver.repair(now)
        totals = [receiver.received_bytes for receiver in receivers]
        if before is None and now >= end_of_warm_up:
            before, started = totals, now
        elif before is not None and now - started >= seconds:
            each = [after - first for after, first in zip(totals, before, strict=True)]
            rate = sum(each) / (now - started) / 1e6
            return {"mb_per_s": round(rate, 2), "bytes": sum(each), "slowest_device_bytes": min(each)}


async def measure(receivers: list[Receiver], what: dict, given: dict) -> dict:
    """One measure. `what`: mode (service, or a floor: paho, aiomqtt), devices, chunk_size, window_chunks, windows, seconds, delay_s (None:
    no proxy).
    """
    async with contextlib.AsyncExitStack() as stack:
        if what.get("delay_s") is not None:
            target = receivers[0].endpoint
            proxy = await stack.enter_async_context(DelayProxy(target["host"], target["port"], what["delay_s"]))
            await asyncio.gather(*(receiver.connect(proxy.port) for receiver in receivers))
            stack.push_async_callback(lambda: asyncio.gather(*(receiver.connect() for receiver in receivers)))
        if what["mode"] != "service":
            topics = [receiver.prefix + "/dn/chunk" for receiver in receivers]
            loop = {"link": given["floor_link"], "topics": topics, "frame_bytes": what["chunk_size"] + HEADER_BYTES}
            loop["mode"] = what["mode"]
            await stack.enter_async_context(Beside("tests.bench.publish_loop", loop))
            return await count(receivers, what["seconds"])
        for receiver in receivers:
            receiver.lost_windows, receiver.refused = 0, {}
            receiver.start(what["chunk_size"], what["window_chunks"], what["windows"])
        result = await count(receivers, what["seconds"])
        for receiver in receivers:
            receiver.stop()
        await settle(receivers)
        refused: dict[str, int] = {}
        for receiver in receivers:
            for code, times in receiver.refused.items():
                refused[code] = refused.get(code, 0) + times
        return {**result, "lost_windows": sum(r.lost_windows for r in receivers), "refused": refused}


async def settle(receivers: list[Receiver]) -> None:
    """Waits until what was still on its way has arrived."""
    before = -1
    while (now := sum(receiver.received_bytes for receiver in receivers)) != before:
        before = now
        await asyncio.sleep(0.5)


async def main(given: dict) -> dict:
    """`given`: bootstrap {host, port, tls}, ca_file, group_id, group_secret, serials, measures, floor_link."""
    receivers = [Receiver(serial, given) for serial in given["serials"]]
    for receiver in receivers:
        await receiver.activate()
        await receiver.connect()
        await receiver.confirm()
    results = []
    for what in given["measures"]:
        chosen = receivers[: what["devices"]]
        results.append({**what, **await measure(chosen, what, given)})
        await settle(chosen)
    for receiver in receivers:
        assert receiver.client is not None
        receiver.client.close()
    return {"measures": results}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.load(sys.stdin)))))
