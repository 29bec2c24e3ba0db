"""Who may use the thing API, and how its requests go into the pipeline.

Owns the guards (a device by its API key, an owner by account and key) and the way from a request to its answer. No key
stays here longer than a request; none is logged.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer

from device_sdk.wire import codes
from service.errors import ServiceError
from service.http.services import Services, services, trace_of
from service.operations import things
from service.operations.accounts import Operator
from service.operations.things import Caller

_MAX_KEY_CHARS = 200
_bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="The thing's API key.")
_basic = HTTPBasic(auto_error=False, scheme_name="Owner", description="An operator's account and its key.")


class Desk:
    """One request of a device that is known by its API key."""

    def __init__(self, given: Services, caller: Caller, trace_id: str) -> None:
        self.caller = caller
        self._services = given
        self.trace_id = trace_id

    async def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        """What the pipeline answers. Raises ServiceError."""
        return await self._services.pipeline.ask(
            verb, self.caller.credential_id, fields, self.trace_id, operational=True
        )

    async def ask_confirmed(self, verb: str, **fields: Any) -> dict[str, Any]:
        """The same for a verb that confirms nothing: whichever call is a key's first, it takes over then."""
        if self.caller.is_pending:
            await self.ask("current")
        return await self.ask(verb, **fields)


async def thing_guard(
    request: Request,
    given: Annotated[Services, Depends(services)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Raises ServiceError REFUSED unless the API key is that of the thing in the path."""
    key = credentials.credentials if credentials is not None else ""
    if not 0 < len(key) <= _MAX_KEY_CHARS:
        raise _refused("thing_key_missing")
    caller = await things.caller(given.database, request.path_params["thing_id"], key.encode())
    request.state.desk = Desk(given, caller, trace_of(request))


async def owner_guard(
    request: Request,
    given: Annotated[Services, Depends(services)],
    credentials: Annotated[HTTPBasicCredentials | None, Depends(_basic)],
) -> None:
    """Raises ServiceError REFUSED unless it is an operator's account with its key."""
    if credentials is None or not 0 < len(credentials.password) <= _MAX_KEY_CHARS:
        raise _refused("owner_key_missing")
    request.state.operator = await things.owner(
        given.database, credentials.username, credentials.password.encode(), given.looks
    )


def desk_of(request: Request) -> Desk:
    found: Desk = request.state.desk
    return found


def operator_of(request: Request) -> Operator:
    found: Operator = request.state.operator
    return found


def packed(value: dict[str, Any]) -> str:
    """A map as the bytes field of a JSON message."""
    return encoded(json.dumps(value, separators=(",", ":")).encode())


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decoded(text: str) -> bytes:
    """Of what the service itself has encoded."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def unpacked(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(decoded(text))
    return found


def _refused(cause: str) -> ServiceError:
    return ServiceError(codes.REFUSED, "refused", cause=cause)
