"""What a refusal looks like over HTTP: a status, and a JSON body with the house's error codes.

Owns the table from code to status and the form {"code", "reason", "trace", "retry_after_s"?}. Never sends a detail, a
value that was given, or what an exception says. An interface whose partner wants other bodies raises `Answered`, and
says by a `Form` what those refusals look like there that are not its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from device_sdk.wire import codes
from service.errors import ServiceError

STATUS: Mapping[str, int] = {
    codes.BAD_REQUEST: 400,
    codes.TOO_LARGE: 413,
    codes.UNKNOWN_VERB: 405,
    codes.THROTTLED: 429,
    codes.REFUSED: 401,
    codes.NONCE_EXPIRED: 401,
    codes.NOT_ALLOCATED: 403,
    codes.BLOCKED: 403,
    codes.REPLACED: 403,
    codes.RETIRED: 403,
    codes.CONFLICT: 409,
    codes.FORBIDDEN: 403,
    codes.NOT_FOUND: 404,
    codes.NOT_IN_WAREHOUSE: 403,
    codes.ALREADY_STAGED: 409,
    codes.NO_TARGET: 404,
    codes.IMAGE_UNKNOWN: 404,
    codes.RANGE: 416,
    codes.HOOK_DENIED: 403,
    codes.HOOK_TIMEOUT: 504,
    codes.UNAVAILABLE: 503,
    codes.INTERNAL: 500,
}
_CODES = {
    400: codes.BAD_REQUEST,
    401: codes.REFUSED,
    403: codes.FORBIDDEN,
    404: codes.NOT_FOUND,
    405: codes.UNKNOWN_VERB,
    409: codes.CONFLICT,
    413: codes.TOO_LARGE,
    416: codes.RANGE,
    429: codes.THROTTLED,
    503: codes.UNAVAILABLE,
}


class Refusal(BaseModel):
    """The body of every answer that is not one of success, unless an interface documents another."""

    code: str
    reason: str
    trace: str
    retry_after_s: int | None = None


class Answered(Exception):  # noqa: N818 - it is an answer
    """Ends a request with exactly this answer, for interfaces whose bodies are their partner's. None: no body at all."""

    def __init__(
        self, status: int, document: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status)
        self.status = status
        self.document = document
        self.headers = dict(headers or {})


Form = Callable[[ServiceError, str], Response]  # the answer to a request that was refused so; the text: its trace id


class Forms:
    """Which form a refusal has: that of the longest prefix of the path that was asked for, else the house's."""

    def __init__(self, by_prefix: Mapping[str, Form] | None = None) -> None:
        self._forms = sorted((by_prefix or {}).items(), key=lambda one: len(one[0]), reverse=True)

    def response_of(self, path: str, error: ServiceError, trace: str) -> Response:
        form = next((one for prefix, one in self._forms if path.startswith(prefix)), response_of)
        return form(error, trace)


def response_of(error: ServiceError, trace: str) -> Response:
    """The answer to a request that was refused with this error, in the house's form."""
    body: dict[str, Any] = {"code": error.code, "reason": error.public, "trace": trace}
    headers = {}
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
        headers["Retry-After"] = str(error.retry_after_s)
    if error.code in (codes.REFUSED, codes.NONCE_EXPIRED):
        headers["WWW-Authenticate"] = "Firstlight"
    return _json(STATUS.get(error.code, 500), body, headers)


def internal() -> ServiceError:
    return ServiceError(codes.INTERNAL, "something went wrong here", cause="http_internal")


def install(app: FastAPI, forms: Forms) -> None:
    """Have every error of this app answered in the form of the path that was asked for."""

    async def refused(request: Request, error: ServiceError) -> Response:
        request.state.cause = error.cause
        return forms.response_of(request.scope["path"], error, request.state.trace)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await refused(request, _illegal(codes.BAD_REQUEST, _words(error)))

    async def plain(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, codes.INTERNAL if error.status_code >= 500 else codes.BAD_REQUEST)
        reason = {404: "there is nothing here", 405: "not with this method"}.get(error.status_code, "refused")
        response = await refused(request, _illegal(code, reason))
        response.headers.update(error.headers or {})
        return response

    async def answered(_request: Request, answer: Answered) -> Response:
        if answer.document is None:
            return Response(status_code=answer.status, headers=answer.headers)
        return _json(answer.status, answer.document, answer.headers)

    async def failed(request: Request, _error: Exception) -> Response:
        return forms.response_of(request.scope["path"], internal(), request.state.trace)  # guards.py logs it

    app.exception_handler(ServiceError)(refused)
    app.exception_handler(Exception)(failed)
    app.exception_handler(RequestValidationError)(invalid)
    app.exception_handler(HTTPException)(plain)
    app.exception_handler(Answered)(answered)


def _illegal(code: str, reason: str) -> ServiceError:
    return ServiceError(code, reason, cause="http_request_illegal")


def _words(error: RequestValidationError) -> str:
    """The first problem as `where: what`. Values are not repeated: they may be secrets."""
    problem = error.errors()[0]
    if problem["type"] == "json_invalid":
        return "the body is no JSON"
    where = ".".join(str(part)[:64] for part in problem["loc"][1:]) or "body"
    return f"{where}: {problem['msg']}" if problem["type"] in _OWN_WORDS else f"{where}: is not as it must be"


# Kinds of problems whose words name a rule of ours and nothing that was given.
_OWN_WORDS = frozenset({"missing", "extra_forbidden", "string_too_long", "string_too_short", "string_pattern_mismatch"})


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    return Response(json.dumps(body), status, headers=dict(headers), media_type="application/json")
