"""The activation storm: many devices over few connections, from `hello` to confirmed `online`. Its own process.

Owns a hand-made state machine per device, cheap because two cores carry broker, service and this. It speaks through a
load-test identity that exists only in the broker configuration of the bench. Prints one line of JSON.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter, deque

import msgpack

from tests.bench.material import CONFIRM, Material, make_csr
from tests.bench.mini_mqtt import MiniClient
from tests.bench.wiring import tls_of

REPEAT_S = 3.0
GIVE_UP_S = 120.0  # without any progress at all
ONLINE = msgpack.packb({"id": "3", **CONFIRM[1]})


class Powered:
    """One device that is on its way; `state` is what it waits for."""

    __slots__ = ("deadline", "material", "owner", "payload", "server_nonce", "started", "verb")

    def __init__(self, material: Material, started: float) -> None:
        self.material = material
        self.started = started
        self.owner, self.verb, self.payload = f"pv1/b/{material.session}", "hello", material.hello
        self.server_nonce = b""
        self.deadline = 0.0


class Storm:
    def __init__(self, materials: list[Material], at_once: int, *, verify: bool) -> None:
        self.waiting = deque(materials)
        self.at_once, self.verify = at_once, verify
        self.active: dict[str, Powered] = {}  # by topic prefix
        self.took_s: list[float] = []
        self.refused: Counter[str] = Counter()
        self.repeats = 0
        self.grant_bytes = 0
        self.progress = time.perf_counter()
        self.finished = asyncio.Event()

    async def connect(self, links: dict[str, dict]) -> None:
        self.links = {}
        for space, link in links.items():
            client = MiniClient(self.received)
            await client.connect(**{**link, "tls": tls_of(link.get("tls"))})
            await client.subscribe(f"pv1/{space}/+/dn/+")
            self.links[space] = client

    async def run(self) -> float:
        """Seconds from the first hello to the last confirmed online."""
        started = self.progress = time.perf_counter()
        self.fill()
        while not self.finished.is_set():
            await asyncio.sleep(0.5)
            now = time.perf_counter()
            if now - self.progress > GIVE_UP_S:
                break
            for device in list(self.active.values()):
                if now > device.deadline:
                    self.repeats += 1
                    self.send(device)
        return max(self.progress - started, 1e-9)

    def fill(self) -> None:
        while self.waiting and len(self.active) < self.at_once:
            device = Powered(self.waiting.popleft(), time.perf_counter())
            self.active[device.owner] = device
            self.send(device)
        if not self.active:
            self.finished.set()

    def send(self, device: Powered) -> None:
        device.deadline = time.perf_counter() + REPEAT_S * random.uniform(0.75, 1.25)
        self.links[device.owner[4]].publish(f"{device.owner}/up/{device.verb}", device.payload)

    def received(self, topic: str, payload: bytes) -> None:
        owner, _, verb = topic.rpartition("/dn/")
        device = self.active.get(owner)
        if device is None or verb != device.verb:
            return  # an answer to a repeat, or a push
        reply = msgpack.unpackb(payload)
        if not reply["ok"]:
            self.refused[reply["code"]] += 1
            device.deadline = time.perf_counter() + reply.get("retry_after_s", REPEAT_S)
            return
        self.progress = time.perf_counter()
        if verb == "hello":
            device.server_nonce = reply["server_nonce"]
            device.verb, device.payload = "activate", device.material.activate(device.server_nonce)
            self.send(device)
        elif verb == "activate":
            self.activated(device, reply)
        else:
            self.took_s.append(self.progress - device.started)
            del self.active[owner]
            self.fill()

    def activated(self, device: Powered, reply: dict) -> None:
        if not device.material.proven(device.server_nonce, reply) and self.verify:
            self.refused["wrong server_proof"] += 1
            return
        self.grant_bytes = len(reply["grant"])
        del self.active[device.owner]
        device.owner = "pv1/c/" + device.material.credential_id(device.server_nonce)
        device.verb, device.payload = "online", ONLINE
        self.active[device.owner] = device
        self.send(device)


def prepare(given: dict) -> list[Material]:
    secret, serials = bytes.fromhex(given["group_secret"]), given["serials"]
    return [Material.make(given["group_id"], secret, s, csr=make_csr() if given["csr"] else None) for s in serials]


async def main(given: dict) -> dict:
    """`given`: links by space, group_id, group_secret (hex), serials, csr, at_once, verify."""
    storm = Storm(prepare(given), given["at_once"], verify=given["verify"])
    await storm.connect(given["links"])
    seconds = await storm.run()
    for client in storm.links.values():
        client.close()
    hundredths = statistics.quantiles(storm.took_s, n=100) if len(storm.took_s) > 1 else [0.0] * 99
    return {
        "asked": len(given["serials"]),
        "confirmed": len(storm.took_s),
        "seconds": round(seconds, 3),
        "per_second": round(len(storm.took_s) / seconds, 1),
        "p50_s": round(hundredths[49], 3),
        "p99_s": round(hundredths[98], 3),
        "repeats": storm.repeats,
        "refused": dict(storm.refused),
        "grant_bytes": storm.grant_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.load(sys.stdin)))))
