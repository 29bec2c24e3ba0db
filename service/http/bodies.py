"""JSON bodies of routes whose guard stands before them.

FastAPI reads and judges a body that is a parameter of the route before any dependency, so whoever has no token would be
told what is wrong with it. A body that is a dependency itself is read when the guard has let the request in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from device_sdk.wire import codes
from service.errors import ServiceError


def json_body(wanted: Any, *, optional: bool = False) -> Callable[[Request], Awaitable[Any]]:
    """A dependency: the body as this model or type; with `optional` None where there is none.

    Raises RequestValidationError, ServiceError BAD_REQUEST.
    """
    adapter = TypeAdapter[Any](wanted)

    async def read(request: Request) -> Any:
        if optional and not await request.body():
            return None
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise ServiceError(codes.BAD_REQUEST, "the body must be application/json", cause="http_request_illegal")
        try:
            return adapter.validate_json(await request.body())
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in problems]) from None

    return read


def documented(wanted: Any, *, optional: bool = False) -> dict[str, Any]:
    """What the OpenAPI document says of such a body; for models that refer to each other, but not in a circle."""
    schema = TypeAdapter[Any](wanted).json_schema()
    found = _inlined(schema, schema.get("$defs", {}))
    return {"requestBody": {"required": not optional, "content": {"application/json": {"schema": found}}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {name: _inlined(one, definitions) for name, one in schema.items() if name != "$defs"}
