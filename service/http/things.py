"""The thing API: provisioning by serial number for devices and owners that have no MQTT.

Owns the routes below /v1. What they ask goes through the pipeline (things_calls.py), so that an activation, a key or a
confirmed version over HTTP is the same as over MQTT. Source: docs/partners/things.md.

Three routers: `opening` needs no login, because `hello` gives a nonce to anybody (it looks nothing up) and an
activation is what gives the first key (its proof is in its body); `owning` an operator's account; `serving` the
thing's API key.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from device_sdk.wire import keys
from service.http import things_firmware
from service.http import things_models as models
from service.http.bodies import documented, json_body
from service.http.services import Services, services, trace_of
from service.http.things_calls import Desk, decoded, desk_of, encoded, operator_of, packed, unpacked
from service.operations import bare_serials, things

opening = APIRouter(tags=["things"])
owning = APIRouter(tags=["things"])
serving = APIRouter(tags=["things"])

Given = Annotated[Services, Depends(services)]
TheDesk = Annotated[Desk, Depends(desk_of)]


@opening.post("/v1/hello")
async def hello(asked: models.Hello, given: Given, request: Request) -> models.Nonces:
    """A nonce for the proof of an activation. Says nothing of whether the device exists."""
    fields = {"group_id": asked.group_id, "serial": asked.serial, "nonce": asked.nonce}
    reply = await given.pipeline.ask("hello", asked.session, fields, trace_of(request), operational=False)
    return models.Nonces.model_validate(reply)


@opening.put("/v1/things/activate/{serial}.json")
async def activate(
    serial: models.Serial,
    given: Given,
    request: Request,
    asked: models.Activation | None = None,
    group_id: models.Group = None,
) -> models.Activated:
    """A key for the device of this serial. Its thing is created if missing, otherwise unchanged.

    The earlier key works until the first call with the new one. Without the body only where the group allows the bare
    serial, which is unsafe.
    """
    trace_id = trace_of(request)
    if asked is None:
        session, fields = await _spoken_for(given, serial, group_id, trace_id)
    else:
        session = asked.session
        fields = {"claim": asked.claim, "server_nonce": asked.server_nonce, "proof": asked.proof}
    fields |= {"serial": serial} | ({} if group_id is None else {"group_id": group_id})
    reply = await given.pipeline.ask("http-activate", session, fields, trace_id, operational=False)
    return models.Activated(
        thingId=reply["thing_id"],
        apiKey=reply["api_key"],
        name=reply["name"],
        grant=reply["grant"],
        server_proof=reply["server_proof"],
    )


@owning.post(
    "/v1/things/serial/{serial}.json",
    status_code=201,
    responses={200: {"model": models.Created, "description": "It was there"}},
    openapi_extra=documented(models.NewThing | None, optional=True),
)
async def create(
    serial: models.Serial,
    given: Given,
    request: Request,
    response: Response,
    asked: Annotated[models.NewThing | None, Depends(json_body(models.NewThing | None, optional=True))],
    group_id: models.Group = None,
) -> models.Created:
    """The thing of this serial, before its device activates; the serial is registered if it is not."""
    done = await things.create(
        given.database,
        given.environments,
        given.looks,
        operator_of(request),
        serial,
        group_id=group_id,
        key=asked.key if asked is not None else None,
        now=given.clock(),
        random_bytes=given.random_bytes,
        trace_id=trace_of(request),
    )
    if not done.is_new:
        response.status_code = 200
    shown = None if done.device_key is None else base64.b64encode(done.device_key.reveal()).decode("ascii")
    return models.Created(thingId=done.thing.thing_id, name=done.thing.name, deviceKey=shown)


@serving.put("/v1/things/{thing_id}.json", openapi_extra=documented(models.NewName))
async def rename(
    thing_id: models.ThingId, asked: Annotated[models.NewName, Depends(json_body(models.NewName))], desk: TheDesk
) -> models.Named:
    """The thing's new name."""
    reply = await desk.ask_confirmed("rename", name=asked.name)
    return models.Named(thingId=thing_id, name=reply["name"])


@serving.get("/v1/things/{thing_id}/version/target.json")
async def target(thing_id: models.ThingId, desk: TheDesk) -> models.Target:  # noqa: ARG001 - the guard has read it
    """The version that the thing is to have."""
    return await _target(desk)


@serving.get("/v1/things/{thing_id}/version/current.json")
async def current(thing_id: models.ThingId, desk: TheDesk) -> models.Current:  # noqa: ARG001
    """The version that the service believes installed."""
    found = (await desk.ask("current")).get("version")
    return models.Current() if found is None else models.Current(**_version(found))


@serving.put("/v1/things/{thing_id}/version/current.json", openapi_extra=documented(models.Installed))
async def installed(
    thing_id: models.ThingId,  # noqa: ARG001
    asked: Annotated[models.Installed, Depends(json_body(models.Installed))],
    desk: TheDesk,
) -> models.Version:
    """The device has switched to this version: its registration is final, and the version confirmed."""
    boot = {} if asked.bootCount is None else {"boot_count": asked.bootCount}
    reply = await desk.ask("installed", version_id=asked.versionId, **boot)
    return models.Version(**_version(reply["version"]))


@serving.get(
    "/v1/things/{thing_id}/versions/{version_id}/firmware.json",
    response_class=Response,
    responses={200: {"model": models.Firmware, "description": "The firmware in base64"}},
)
async def firmware_json(
    thing_id: models.ThingId,
    version_id: models.VersionId,
    desk: TheDesk,
    given: Given,
) -> Response:
    """The firmware of a version that the thing is to have or has, encoded in the response string."""
    found = await _fetchable(desk, version_id)
    return await things_firmware.as_json(given, desk, thing_id, found)


@serving.get(
    "/v1/things/{thing_id}/versions/{version_id}/firmware.bin",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The firmware"},
        206: {"content": {"application/octet-stream": {}}, "description": "A range of it"},
    },
)
async def firmware_bin(
    thing_id: models.ThingId,
    version_id: models.VersionId,
    desk: TheDesk,
    given: Given,
    request: Request,
) -> Response:
    """The firmware of a version that the thing is to have or has; one range of it with the header Range."""
    found = await _fetchable(desk, version_id)
    return await things_firmware.as_bytes(given, desk, thing_id, found, request.headers)


async def _target(desk: Desk) -> models.Target:
    desired = (await desk.ask("target"))["desired"]
    found = unpacked(desired["doc"])["firmware"]
    return models.Target(
        **_version(found),
        product=found["product"],
        hardware=found["hardware"],
        seq=found["seq"],
        imageId=found["image_id"],
        size=found["size"],
        signature=found["signature"],
        keyId=found["key_id"],
        desired=models.Document(**desired),
    )


async def _fetchable(desk: Desk, version_id: str) -> models.Fetchable:
    """The version, if the thing is to have it or has it. Raises ServiceError NOT_FOUND."""
    await desk.ask("current")  # the device was heard, and its key is confirmed
    return await things_firmware.fetchable(desk, version_id)


def _version(found: dict[str, Any]) -> dict[str, Any]:
    return {"versionId": found["version_id"], "name": found["name"], "description": found["description"]}


async def _spoken_for(given: Services, serial: str, group_id: str | None, trace_id: str) -> tuple[str, dict[str, Any]]:
    """Session and message of an activation by the bare serial: the service proves what the device cannot."""
    spoken = await bare_serials.spoken_for(given.database, serial, group_id, given.keys.service_private_key())
    session, nonce = given.random_bytes(16).hex(), encoded(given.random_bytes(16))
    who = {"group_id": spoken.group_id, "serial": serial, "nonce": nonce}
    server_nonce = (await given.pipeline.ask("hello", session, who, trace_id, operational=False))["server_nonce"]
    claim = packed({**who, "boot_count": spoken.boot_count, "caps": []})
    proof = spoken.prove(keys.http_activate_message(session, decoded(server_nonce), decoded(claim)))
    return session, {"claim": claim, "server_nonce": server_nonce, "proof": encoded(proof)}
