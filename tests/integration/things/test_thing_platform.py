"""docs/partners/things.md from its first step to its last, with the exact addresses, by a client that is not ours."""

from __future__ import annotations

import base64
import hashlib
import json

from tests.integration.things.conftest import IMAGE, Place
from tests.support.http_device import HttpDevice
from tests.support.site import GROUP


async def test_a_thing_goes_from_its_serial_number_to_its_new_version(served: Place) -> None:
    place = served
    # 1. Product, serial numbers and template versions: the site has them. The owner's account:
    owner = json.loads(await place.site.command("account", "create", "line", "--role", "operator", "--json"))["key"]
    device = await place.device("T-1")

    # 2. Create the thing before its device activates.
    url = "/v1/things/serial/T-1.json"
    assert (await place.client.post(url)).status_code == 401
    assert (await place.client.post(url, auth=("line", "0" * 64))).status_code == 401
    created = await place.client.post(url, auth=("line", owner))
    assert created.status_code == 201
    thing_id = created.json()["thingId"]
    assert created.json() == {"thingId": thing_id, "name": "Thermometer 1", "deviceKey": None}
    again = await place.client.post(url, auth=("line", owner))
    assert (again.status_code, again.json()) == (200, created.json())

    # ... and one of a serial that nobody has registered, with its key made there.
    new = await place.client.post("/v1/things/serial/T-2.json", params={"group_id": GROUP}, auth=("line", owner))
    second = HttpDevice(place.client, GROUP, "T-2", base64.b64decode(new.json()["deviceKey"]))
    assert (await second.activate()).json()["thingId"] == new.json()["thingId"]

    # 3. Activate. The thing is unchanged; one that is missing is created, named product and number.
    answer = await device.activate()
    assert answer.status_code == 200
    assert (answer.json()["thingId"], answer.json()["name"]) == (thing_id, "Thermometer 1")
    third = await place.device("T-3")
    assert (await third.activate()).json()["name"] == "Thermometer 3"

    # 4. Fetch the target version.
    target = (await device.ask("GET", "/version/target.json")).json()
    assert (target["versionId"], target["name"], target["description"]) == (place.version_id, "2.0", "")
    firmware = f"/versions/{target['versionId']}/firmware"
    whole = await device.ask("GET", f"{firmware}.bin")
    assert (whole.status_code, whole.content) == (200, IMAGE)
    first = await device.ask("GET", f"{firmware}.bin", headers={"Range": "bytes=0-99999"})
    rest = await device.ask("GET", f"{firmware}.bin", headers={"Range": "bytes=100000-"})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert hashlib.sha256(first.content + rest.content).hexdigest() == target["imageId"]
    encoded = (await device.ask("GET", f"{firmware}.json")).json()
    assert base64.b64decode(encoded.pop("firmware"), validate=True) == IMAGE
    named = {"versionId": target["versionId"], "name": "2.0", "description": ""}
    assert encoded == {**named, "size": len(IMAGE), "sha256": target["imageId"]}

    # 5. Switch to the new version, which finalises the registration.
    nothing = {"versionId": None, "name": None, "description": None}
    assert (await device.ask("GET", "/version/current.json")).json() == nothing
    body = {"versionId": target["versionId"], "bootCount": 2}
    switched = await device.ask("PUT", "/version/current.json", json=body)
    assert (switched.status_code, switched.json()) == (200, named)
    assert (await device.ask("PUT", "/version/current.json", json=body)).json() == named  # a PUT may be repeated
    assert (await device.ask("GET", "/version/current.json")).json() == named
    shown = json.loads(await place.site.command("device", "show", f"{GROUP}/T-1", "--json"))
    assert (shown["state"], shown["firmware"]["state"]) == ("confirmed", "confirmed")

    # 6. Rename.
    renamed = await device.ask("PUT", ".json", json={"name": "Boiler room"})
    assert (renamed.status_code, renamed.json()) == (200, {"thingId": thing_id, "name": "Boiler room"})

    # The earlier key is dropped at the first call with the new one.
    earlier = device.api_key
    assert (await device.activate()).json()["name"] == "Boiler room"
    assert device.api_key != earlier
    assert (await device.ask("GET", "/version/current.json", key=earlier)).status_code == 200
    assert (await device.ask("GET", "/version/current.json")).json() == named
    assert (await device.ask("GET", "/version/current.json", key=earlier)).status_code == 401

    # No key was written down on the way.
    log = place.site.log()
    assert "/v1/things/{thing_id}/version/current.json" in log
    for secret in (owner, earlier, device.api_key, second.api_key, new.json()["deviceKey"], second.key.hex()):
        assert secret not in log
