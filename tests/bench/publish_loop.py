"""The floor of the firmware stream: a bare publish loop of the same library, to the same topics, in frames of the same size.

Its own process. No file, no credits, no accounting: what aiomqtt and the broker can carry. Prints "ready" once connected
and publishes until it is ended.
"""

import asyncio
import itertools
import json
import sys

import aiomqtt


async def main(given: dict) -> None:
    """`given`: link (keyword arguments of aiomqtt.Client), topics, frame_bytes."""
    frame = bytes(given["frame_bytes"])
    async with aiomqtt.Client(**given["link"]) as client:
        print("ready", flush=True)
        for topic in itertools.cycle(given["topics"]):
            await client.publish(topic, frame, qos=0)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
