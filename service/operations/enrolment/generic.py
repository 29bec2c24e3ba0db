"""The generic form: one JSON document for any provider, as it stands in files and in batches.

Owns the models and their bounds. Strict, nothing unknown; `recordCount` is the number of orders, so that half a document
is no document. What only a provider understands stands in dep.py. Source: docs/partners/enrolment.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from device_sdk.wire import ids
from service.domain.enrolment import Answer, Answered, Asked, Problem, RequestType, Unit
from service.errors import ServiceError
from service.operations.requests import bad_request

Model = TypeVar("Model", bound=BaseModel)
MAX_ORDERS = 1000  # in one document
MAX_DEVICES = 100_000  # of one order
MAX_MESSAGE_CHARS = 1000  # of a provider's message; what is longer is cut
MAX_PROBLEMS = 100

Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -~]+$")]


class InterfaceType(StrEnum):
    REQUEST = "REQUEST"
    RESPONSE = "RESPONSE"


def one_or_many(value: Any) -> Any:
    """Errors come as an object or as an array of them, by provider and by day; None is none."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def readable(value: Any) -> Any:
    """A message that may stand in a note: printable, not too long."""
    if not isinstance(value, str):
        return value
    return "".join(char if char.isprintable() else " " for char in value[:MAX_MESSAGE_CHARS])


class Form(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
        str_strip_whitespace=False,
    )


class Error(Form):
    code: Annotated[str, BeforeValidator(readable)] = ""
    message: Annotated[str, BeforeValidator(readable)] = ""


Errors = Annotated[list[Error], BeforeValidator(one_or_many), Field(max_length=MAX_PROBLEMS)]


class Device(Form):
    group_id: Id
    serial_number: Id

    @model_validator(mode="after")
    def _named_as_ours(self) -> Device:
        if not ids.is_group_id(self.group_id) or not ids.is_serial(self.serial_number):
            raise ValueError("a device is named by group and serial number")
        return self


class Order(Form):
    """One order of a request."""

    transaction_id: Id
    order_id: Name
    request_type: RequestType
    organisation: Name
    policies: dict[str, JsonValue] = {}
    devices: Annotated[list[Device], Field(max_length=MAX_DEVICES)] = []


class DeviceStatus(StrEnum):
    DONE = "DONE"
    FAILED = "FAILED"


class DeviceAnswer(Form):
    group_id: Id | None = None  # providers know serial numbers only
    serial_number: Id
    status: DeviceStatus
    errors: Errors = []


class OrderAnswer(Form):
    """One order of a response."""

    transaction_id: Id
    order_id: Name
    status: Answer
    errors: Errors = []
    devices: Annotated[list[DeviceAnswer], Field(max_length=MAX_DEVICES)] = []


class _Document(Form):
    identifier: Id
    version: Literal["1.0"] = "1.0"
    interface_category: Literal["DEVICE_ENROLMENT"] = "DEVICE_ENROLMENT"
    batch_time: AwareDatetime
    record_count: Annotated[int, Field(ge=1, le=MAX_ORDERS)]
    provider_id: Id

    def to_bytes(self) -> bytes:
        return self.model_dump_json(by_alias=True).encode()


class Request(_Document):
    interface_type: Literal[InterfaceType.REQUEST] = InterfaceType.REQUEST
    orders: Annotated[list[Order], Field(min_length=1, max_length=MAX_ORDERS)]

    @model_validator(mode="after")
    def _whole(self) -> Request:
        _check_whole(self.record_count, [one.transaction_id for one in self.orders])
        return self


class Response(_Document):
    interface_type: Literal[InterfaceType.RESPONSE] = InterfaceType.RESPONSE
    orders: Annotated[list[OrderAnswer], Field(min_length=1, max_length=MAX_ORDERS)]

    @model_validator(mode="after")
    def _whole(self) -> Response:
        _check_whole(self.record_count, [one.transaction_id for one in self.orders])
        return self


def _check_whole(record_count: int, transactions: Sequence[str]) -> None:
    if record_count != len(transactions):
        raise ValueError("recordCount is not the number of orders")
    if len(set(transactions)) != len(transactions):
        raise ValueError("a transaction stands there twice")


def read_request(data: bytes) -> Request:
    """Raises ServiceError BAD_REQUEST."""
    return _read(Request, data)


def read_response(data: bytes) -> Response:
    """Raises ServiceError BAD_REQUEST."""
    return _read(Response, data)


def _read(model: type[Model], data: bytes) -> Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise unreadable(error, "document_illegal") from None


def unreadable(error: ValidationError, cause: str) -> ServiceError:
    """Where and by which rule; never the value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:32] for part in first["loc"]) or "document"
    return bad_request(cause, f"the document is not in its form: {where}: {first['type']}", first["msg"][:200])


def request_of(batch_id: str, provider_id: str, now: datetime, orders: Sequence[Order]) -> Request:
    return Request(
        identifier=batch_id, batch_time=now, record_count=len(orders), provider_id=provider_id, orders=list(orders)
    )


def response_of(identifier: str, provider_id: str, now: datetime, orders: Sequence[OrderAnswer]) -> Response:
    return Response(
        identifier=identifier, batch_time=now, record_count=len(orders), provider_id=provider_id, orders=list(orders)
    )


def devices_of(asked: Asked) -> list[Device]:
    return [Device(group_id=unit.group_id, serial_number=unit.serial) for unit in asked.listed]


def answered_of(answer: OrderAnswer, asked: Asked) -> Answered:
    """What the provider says, by our units. Raises ServiceError: it speaks of units that it was not asked for."""
    by_serial = {unit.serial: unit for unit in asked.units}
    failed: dict[Unit, Problem] = {}
    for device in answer.devices:
        unit = by_serial.get(device.serial_number)
        if unit is None or device.group_id not in (None, unit.group_id):
            raise bad_request("device_foreign", "the answer speaks of a device that it was not asked for")
        if device.status is DeviceStatus.FAILED:
            failed[unit] = problem_of(device.errors)
    return Answered(answer.status, tuple(Problem(one.code, one.message) for one in answer.errors), failed)


def problem_of(errors: Sequence[Error]) -> Problem:
    """Several errors as one line."""
    if not errors:
        return Problem("", "the provider gives no reason")
    return Problem(
        errors[0].code,
        "; ".join(str(Problem(one.code, one.message)) for one in errors) if len(errors) > 1 else errors[0].message,
    )
