"""The floor of the activation storm: answers each message with canned bytes of the real reply's size. Its own process.

No validation, no storage, no logging: what aiomqtt and the brokers cost, and nothing else. Prints "ready" when subscribed.
"""

import asyncio
import json
import sys

import aiomqtt
import msgpack


def canned(grant_bytes: int) -> dict[str, bytes]:
    hello = {
        "id": "1",
        "ok": True,
        "server_nonce": bytes(16),
        "expires_s": 120,
        "time": 1_790_000_000,
        "trace": "0" * 16,
    }
    activate = {"id": "2", "ok": True, "grant": bytes(grant_bytes), "server_proof": bytes(32), "trace": "0" * 16}
    online = {"id": "3", "ok": True, "name": "Thermometer 2", "ou": "bench", "environment": "bench", "trace": "0" * 16}
    return {verb: msgpack.packb(body) for verb, body in (("hello", hello), ("activate", activate), ("online", online))}


async def echo(link: dict, space: str, replies: dict[str, bytes]) -> None:
    async with aiomqtt.Client(**link) as client:
        await client.subscribe(f"pv1/{space}/+/up/+", qos=1)
        print("ready", flush=True)
        async for message in client.messages:
            head, _, verb = str(message.topic).rpartition("/up/")
            await client.publish(f"{head}/dn/{verb}", replies[verb], qos=0)


async def main(given: dict) -> None:
    """`given`: links (keyword arguments of aiomqtt.Client, by space "b" and "c") and grant_bytes."""
    replies = canned(given["grant_bytes"])
    async with asyncio.TaskGroup() as group:
        for space, link in given["links"].items():
            group.create_task(echo(link, space, replies), name=space)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
