"""What enrolment's partners post: a provider's JSON about its transactions, and order dispatch responses.

Owns the two routes and their tokens (`Authorization: Bearer ...`). The rules stand in operations/enrolment.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from service.errors import ServiceError
from service.http.bodies import documented, json_body
from service.http.providers import ask
from service.http.services import Services, services
from service.operations.enrolment import dispatch, providers, tokens, transformation
from service.operations.enrolment.dispatch import Dispatch
from service.operations.enrolment.table import Table
from service.operations.enrolment.working import Working

inbound = APIRouter()
dispatching = APIRouter()
INBOUND_PATH = "/api/inboundDeviceEnrolment"
DISPATCH_PATH = "/api/orderDispatchResponse"
MAX_BODY_BYTES = 16 * 1024 * 1024
BUSINESS = "business-system"  # who stands in the audit


class Inbound(BaseModel):
    status: str  # taken, repeated, in_progress


class DispatchedOrder(BaseModel):
    """What came of one order; `code` and `reason` where it was refused."""

    order_id: str
    bound: int = 0
    already: int = 0
    enrolment: str | None = None
    code: str | None = None
    reason: str | None = None


class Dispatched(BaseModel):
    orders: list[DispatchedOrder]


_provider_token = HTTPBearer(auto_error=False, scheme_name="ProviderToken", description="An enrolment provider's.")
_dispatch_token = HTTPBearer(auto_error=False, scheme_name="DispatchToken", description="The business system's.")
Bearer = HTTPAuthorizationCredentials | None


async def provider_guard(
    request: Request, of: Annotated[Services, Depends(services)], given: Annotated[Bearer, Depends(_provider_token)]
) -> None:
    """Raises ServiceError REFUSED."""
    request.state.provider = await providers.of_token(of.database, _token(given))


async def dispatch_guard(
    of: Annotated[Services, Depends(services)], given: Annotated[Bearer, Depends(_dispatch_token)]
) -> None:
    """Raises ServiceError REFUSED."""
    await tokens.check(of.database, _token(given))


def _token(given: Bearer) -> str:
    """Raises ServiceError REFUSED: no token."""
    token = "" if given is None else given.credentials.strip()
    if not token:
        raise ServiceError("REFUSED", "refused", cause="token_missing")
    return token


@inbound.post(INBOUND_PATH, status_code=202, openapi_extra=documented(dict[str, Any]))
async def inbound_device_enrolment(
    request: Request,
    document: Annotated[dict[str, Any], Depends(json_body(dict[str, Any]))],
    of: Annotated[Services, Depends(services)],
) -> Inbound:
    """A provider's JSON about a transaction that it was given, as the answer to check transaction has it."""
    data = json.dumps(document).encode()
    return Inbound(status=await transformation.inbound(await _working(of), request.state.provider, data))


@dispatching.post(DISPATCH_PATH, openapi_extra=documented(Dispatch | list[Dispatch]))
async def order_dispatch_response(
    dispatched: Annotated[Dispatch | list[Dispatch], Depends(json_body(Dispatch | list[Dispatch]))],
    of: Annotated[Services, Depends(services)],
) -> Dispatched:
    """Bind serial numbers to the lines of sales orders. Of an array each order is taken or refused by itself."""
    several = dispatched if isinstance(dispatched, list) else [dispatched]
    if len(several) > dispatch.MAX_ORDERS:
        raise ServiceError("TOO_LARGE", f"at most {dispatch.MAX_ORDERS} orders at a time", cause="dispatch_many")
    found = []
    for one in several:
        try:
            taken = await dispatch.take(of.database, one, by=BUSINESS, now=of.clock())
            found.append(
                DispatchedOrder(
                    order_id=taken.order_id, bound=taken.bound, already=taken.already, enrolment=taken.enrolment.value
                )
            )
        except ServiceError as error:
            if not isinstance(dispatched, list) or error.code == "UNAVAILABLE":
                raise
            found.append(DispatchedOrder(order_id=one.order_id, code=error.code, reason=error.public))
    return Dispatched(orders=found)


async def _working(of: Services) -> Working:
    folder = of.settings.data_dir / "enrolment"
    return await Table(of.database, folder, ask, clock=of.clock, random_bytes=of.random_bytes).working()
