"""The floor of the firmware stream: a bare publish loop, to the same topics, in frames of the same size. Its own process.

No file, no credits, no accounting. Mode "paho" is the library under aiomqtt, driven by hand: the strictest floor there is
in this language; mode "aiomqtt" is its publish(). Prints "ready" once connected and publishes until it is ended.
"""

import asyncio
import itertools
import json
import select
import sys

import aiomqtt
import paho.mqtt.client as mqtt


async def through_aiomqtt(given: dict) -> None:
    frame = bytes(given["frame_bytes"])
    async with aiomqtt.Client(**given["link"]) as client:
        print("ready", flush=True)
        for topic in itertools.cycle(given["topics"]):
            await client.publish(topic, frame, qos=0)


def through_paho(given: dict) -> None:
    frame, link = bytes(given["frame_bytes"]), given["link"]
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=link["identifier"])
    client.username_pw_set(link["username"], link["password"])
    client.connect(link["hostname"], link["port"])
    while not client.is_connected():
        client.loop(0.1)
    print("ready", flush=True)
    for count, topic in enumerate(itertools.cycle(given["topics"])):
        client.publish(topic, frame, 0)
        while client.want_write():  # the socket is full: this is the back-pressure
            select.select([], [client.socket()], [])
            client.loop_write()
        if count % 1000 == 0:
            client.loop_misc()


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    if told["mode"] == "paho":
        through_paho(told)
    else:
        asyncio.run(through_aiomqtt(told))
