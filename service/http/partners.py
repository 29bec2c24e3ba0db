"""The interface of partner services: set-top boxes, users, entitlements. Parameters come as query or as form.

Owns the routes and the partner's own bodies: nothing with 401, {"error": {"code", "text"}} with every other refusal,
whoever refuses. The rules stand in operations/partners; the order of their checks is told in
docs/partners/set-top-boxes.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import APIKeyHeader, APIKeyQuery
from pydantic import BaseModel, ConfigDict, SkipValidation
from starlette.responses import Response

from service.errors import ServiceError
from service.http import refusals
from service.http.access import SoapAccess
from service.http.bodies import documented, json_body
from service.http.refusals import Answered
from service.http.services import Services, services
from service.operations.partners import boxes, entitlements
from service.operations.partners import services as partners
from service.operations.partners.answers import Code, PartnerError, TokenError
from service.operations.partners.services import PartnerService

router = APIRouter()
IMPORT_PATH = "/api/management/stb/import"
MAX_IMPORT_BYTES = 8 * 1024 * 1024
MAX_IMPORT_BOXES = 5000
_access = SoapAccess()
_CODES = {404: Code.NOT_FOUND, 405: Code.METHOD, 413: Code.TOO_LARGE, 429: Code.THROTTLED}
_STATUS = {
    Code.NOT_FOUND: 404,
    Code.PURCHASE_RUNNING: 409,
    Code.PROVIDER_REFUSED: 502,
    Code.PROVIDER_UNREACHABLE: 502,
    Code.PROVIDER_SILENT: 504,
}


class Error(BaseModel):
    code: int
    text: str


class PartnerRefusal(BaseModel):
    error: Error


class LinkedUser(BaseModel):
    id: str
    email: str


class LinkedBox(BaseModel):
    id: str
    serial_no: str
    user: LinkedUser


class FactoryBox(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    serial_no: str = ""
    public_keys: list[str] | str = ""
    chipset_id: str | None = None
    mac: str | None = None


class FactoryList(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    boxes: list[SkipValidation[FactoryBox]]  # as they come: each is checked by itself, a wrong one refuses no other


class ImportedBox(BaseModel):
    serial_no: str
    result: boxes.Imported
    error: Error | None = None


class ImportedList(BaseModel):
    boxes: list[ImportedBox]


class Bought(BaseModel):
    id: str
    product_id: str
    option_id: str
    reference: str


def refused(error: ServiceError, _trace: str) -> Response:
    """The form of what is refused by others: by the bounds of size and rate, or by the framework."""
    status = refusals.STATUS.get(error.code, 500)
    if status == 401:
        return Response(status_code=401)
    code = _CODES.get(status, Code.NOT_TAKEN if status < 500 else Code.FAILED)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    body = PartnerRefusal(error=Error(code=code, text=error.public))
    return Response(body.model_dump_json(), status, headers, "application/json")


_header = APIKeyHeader(name="Service-Token", auto_error=False, scheme_name="ServiceToken")
_parameter = APIKeyQuery(
    name="service_token",
    auto_error=False,
    scheme_name="ServiceTokenParameter",
    description="Not looked at where there is the header; may stand in a form instead of the query.",
)


async def partner(
    request: Request,
    of: Annotated[Services, Depends(services)],
    token: Annotated[str | None, Depends(_header)],
    _: Annotated[str | None, Depends(_parameter)],
) -> None:
    """The guard of every route: the token, then the address. Says who it is in `request.state.partner`."""
    if token is None and "service-token" not in request.headers:  # an empty header is a token that is missing
        token = (await _fields(request)).get("service_token")
    address = request.client.host if request.client is not None else ""
    try:
        request.state.partner = await partners.admit(of.database, token, address)
    except TokenError as error:
        raise Answered(401) from error
    except PartnerError as error:
        raise _answered(error) from error


def _parameters(*names: str) -> dict[str, Any]:
    """How the document shows parameters that come as query or as form."""
    string = {"type": "string"}
    form = {"type": "object", "properties": dict.fromkeys(("service_token", *names), string)}
    return {
        "parameters": [{"name": name, "in": "query", "required": False, "schema": string} for name in names],
        "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": form}}, "required": False},
    }


_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"model": PartnerRefusal, "description": "Refused; the code says why"},
    401: {"description": "The token is nobody's; no body"},
    405: {"model": PartnerRefusal, "description": "Not with this method"},
    413: {"model": PartnerRefusal, "description": "The body is too long"},
    429: {"model": PartnerRefusal, "description": "Too many requests of this address"},
    "4XX": {"model": PartnerRefusal, "description": "Refused"},
    "5XX": {"model": PartnerRefusal, "description": "Not possible now"},
}
_LINK = _parameters("serial_no", "email", "public_keys", "chipset_id", "mac")


@router.post(
    "/api/management/stb/link_user", response_model=LinkedBox, responses=_ANSWERS, openapi_extra=_LINK, tags=["boxes"]
)
async def link_user(request: Request, of: Annotated[Services, Depends(services)]) -> LinkedBox:
    """Link a box to a user, and make it where there is none. A repeat is told 1433."""
    fields = await _fields(request)
    try:
        done = await boxes.link(of.database, _partner(request), fields, now=of.clock(), random_bytes=of.random_bytes)
    except PartnerError as error:
        raise _answered(error) from error
    user = LinkedUser(id=str(done.user.user_id), email=done.user.email)
    return LinkedBox(id=str(done.box_id), serial_no=done.serial_no, user=user)


@router.post(
    "/api/management/user", response_model=LinkedUser, responses=_ANSWERS,
    openapi_extra=_parameters("email"), tags=["boxes"],
)  # fmt: skip
async def add_user(request: Request, of: Annotated[Services, Depends(services)]) -> LinkedUser:
    """A user of the service. One that exists is found, so that a repeat is safe."""
    email = (await _fields(request)).get("email")
    try:
        user = await partners.add_user(of.database, _partner(request).name, email, now=of.clock())
    except PartnerError as error:
        raise _answered(error) from error
    return LinkedUser(id=str(user.user_id), email=user.email)


@router.post(
    IMPORT_PATH, response_model=ImportedList, responses=_ANSWERS,
    openapi_extra=documented(FactoryList), tags=["boxes"],
)  # fmt: skip
async def import_boxes(
    request: Request,
    factory: Annotated[FactoryList, Depends(json_body(FactoryList))],
    of: Annotated[Services, Depends(services)],
) -> ImportedList:
    """The factory's list, one result for each box. The same list again changes nothing."""
    if len(factory.boxes) > MAX_IMPORT_BOXES:
        raise _answered(PartnerError(Code.REQUIRED, f"parameter is required: at most {MAX_IMPORT_BOXES} boxes"))
    given: list[object] = [*factory.boxes]
    page = [boxes.fields_of(one if isinstance(one, dict) else {}) for one in given]
    results = await boxes.import_page(
        of.database, _partner(request), page, now=of.clock(), random_bytes=of.random_bytes
    )
    return ImportedList(
        boxes=[
            ImportedBox(
                serial_no=one.serial_no,
                result=one.result,
                error=None if one.error is None else Error(code=one.error.code, text=one.error.text),
            )
            for one in results
        ]
    )


@router.get(
    "/api/user/{email}/product/{product_id}/buy/option/{option_id}",
    response_model=Bought,
    responses={
        **_ANSWERS,
        **{status: {"model": PartnerRefusal, "description": "Not granted"} for status in sorted({*_STATUS.values()})},
    },
    tags=["entitlements"],
)
async def buy(
    request: Request, email: str, product_id: str, option_id: str, of: Annotated[Services, Depends(services)]
) -> Bought:
    """Buy, and have the access provider grant it: 200 only when it did. A repeat buys nothing twice."""
    try:
        done = await entitlements.buy(
            of.database, _access, _partner(request), email, product_id, option_id,
            clock=of.clock, random_bytes=of.random_bytes,
        )  # fmt: skip
    except PartnerError as error:
        raise _answered(error) from error
    return Bought(id=done.purchase_id, product_id=done.product_id, option_id=done.option_id, reference=done.reference)


async def _fields(request: Request) -> Mapping[str, str]:
    """Query and form as one; what the form says counts. Files are no values."""
    found = dict(request.query_params)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        form = await request.form(max_files=0, max_fields=100)
        found.update({name: value for name, value in form.items() if isinstance(value, str)})
    return found


def _partner(request: Request) -> PartnerService:
    found: PartnerService = request.state.partner
    return found


def _answered(error: PartnerError) -> Answered:
    status = _STATUS.get(error.code, 400)
    return Answered(status, {"error": {"code": int(error.code), "text": error.text}})


FORMS = {"/api/management/": refused, "/api/user/": refused}
