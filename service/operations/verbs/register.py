"""`register`: make devices known, each with its key, place and batch."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import event
from service.domain.device import Device
from service.errors import ServiceError
from service.operations import registration
from service.operations.outcomes import Outcome, Result, refused
from service.operations.registration import Registration
from service.operations.requests import bad_request, check_placement, not_found
from service.operations.selectors import SHOWN, is_within
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.storage.store import SqlBatch

NAME = "register"
ROLE = Role.OPERATOR
MAX_DEVICES = 100  # in one command; `firstlight device import` takes files
MAX_KEYS_BYTES = 10_240  # of the keys that are made, as JSON: they must fit the one reply that shows them


class One(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    serial: str
    key: str | None = None  # base64; left out for kind individual: one is made and shown once
    public_keys: Annotated[tuple[str, ...], Field(strict=False, max_length=8)] = ()
    ou: str | None = None
    environment: str | None = None


class Arguments(Arguments_):
    group: str
    devices: Annotated[tuple[One, ...], Field(strict=False, min_length=1, max_length=MAX_DEVICES)]

    def document(self) -> dict[str, Any]:
        """Without the keys."""
        return {
            "group": self.group,
            "devices": [one.model_dump(exclude_none=True, exclude={"key", "public_keys"}) for one in self.devices],
        }


async def make(batch: SqlBatch, _connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    group = world.catalogue.groups.get(arguments.group)
    if group is None:
        raise not_found("group_unknown", f"no group {arguments.group[:64]!r}")
    _check_once(arguments.devices)
    names = [(arguments.group, one.serial) for one in arguments.devices]
    known = dict((await batch.load(serials=names)).by_serial)
    outcomes: list[Outcome] = []
    new: list[Device] = []
    keys: dict[str, str] = {}
    for one in arguments.devices:
        name = (arguments.group, one.serial)
        try:
            asked = _asked(arguments.group, one, world, group.default_ou)
            (outcome,), made = registration.decide(world.catalogue, [asked], known, world.now, world.random_bytes)
        except ServiceError as error:
            outcomes.append(refused("", *name, error))
            continue
        if outcome.result is registration.Result.ERROR:
            code = registration.CODES.get(outcome.cause or "", "BAD_REQUEST")
            outcomes.append(Outcome("", *name, Result.REFUSED, code, outcome.cause, outcome.reason))
            continue
        new += made
        result = Result.CHANGED if made else Result.UNCHANGED
        outcomes.append(Outcome(known[name].device_id, *name, result))
        if outcome.new_key is not None:
            keys[one.serial] = base64.b64encode(outcome.new_key.reveal()).decode("ascii")
    if len(json.dumps(keys)) > MAX_KEYS_BYTES:
        raise bad_request("keys_many", "the keys of so many devices do not fit one reply: name fewer, or give the keys")
    events = tuple(event.of(device, "registered", world.now, command_id=world.command_id) for device in new)
    result_ = {"keys": keys} if keys else {}
    return Made(tuple(outcomes), tuple((None, device) for device in new), events, result_)


def _check_once(devices: tuple[One, ...]) -> None:
    """Raises ServiceError BAD_REQUEST."""
    twice = [serial for serial, count in Counter(one.serial for one in devices).items() if count > 1]
    if twice:
        raise bad_request("serial_twice", f"named twice: {', '.join(ascii(one)[1:-1][:64] for one in twice[:SHOWN])}")


def _asked(group_id: str, one: One, world: World, default_ou: str | None) -> Registration:
    check_placement(one.ou, one.environment)
    if not is_within(one.ou or default_ou, world.scope):
        raise ServiceError("FORBIDDEN", f"{one.ou or 'no OU'} is outside of {world.scope}", cause="out_of_scope")
    if one.environment is not None and one.environment not in world.catalogue.environments:
        raise bad_request("environment_unknown", f"no environment {one.environment}")
    return Registration(
        group_id,
        one.serial,
        key=None if one.key is None else registration.parse_key(one.key),
        public_keys=tuple(registration.parse_public_key(index, text) for index, text in enumerate(one.public_keys)),
        ou=one.ou,
        environment=one.environment,
    )
