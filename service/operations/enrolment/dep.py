"""The transformation for providers that speak JSON as Apple's Device Enrollment Program does for resellers.

Owns the mapping in both directions: bulk enrol, check transaction, show order, and what such a provider posts to us by
itself. Pure; transformation.py does the sending. Providers differ in details, so answers are read leniently where that
is safe (unknown fields, errors as object or array, `Id` or `ID`) and strictly where it matters: which order and which
device an answer is about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from device_sdk.wire import ids
from service.domain.enrolment import Answer, Problem
from service.operations.enrolment.generic import (
    MAX_DEVICES,
    MAX_PROBLEMS,
    DeviceAnswer,
    DeviceStatus,
    Error,
    Order,
    OrderAnswer,
    Request,
    one_or_many,
    readable,
)
from service.operations.requests import bad_request

BULK_ENROL = "bulk-enroll-devices"
CHECK_TRANSACTION = "check-transaction-status"
SHOW_ORDER = "show-order-details"
_IN_PROGRESS = frozenset({"IN_PROGRESS", "PENDING", "PROCESSING", "SUBMITTED"})
_FINAL: Mapping[str, Answer] = {
    "COMPLETE": Answer.COMPLETE,
    "COMPLETE_WITH_ERRORS": Answer.COMPLETE_WITH_ERRORS,
    "ERROR": Answer.ERROR,
}
_REFERENCES = ("deviceEnrollmentTransactionId", "deviceEnrollmentTransactionID")
_ERRORS = ("errors", "error", "enrollDeviceErrorResponse", "checkTransactionErrorResponse", "showOrderErrorResponse")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Party:
    """Who we are at the provider."""

    reseller_id: str

    def context(self) -> dict[str, Any]:
        return {
            "requestContext": {"shipTo": self.reseller_id, "timeZone": "0", "langCode": "en"},
            "depResellerId": self.reseller_id,
        }


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider works on it; `reference` is its name for the transaction."""

    reference: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing of the whole batch was taken."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class HeldOrder:
    """An order as the provider has it; `held` is false where it knows none, or a voided one."""

    held: bool
    serials: tuple[str, ...] = ()


def bulk_enrol(request: Request, party: Party) -> dict[str, Any]:
    at = request.batch_time.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        **party.context(),
        "transactionId": request.identifier,
        "orders": [_order(one, at) for one in request.orders],
    }


def check_transaction(reference: str, party: Party) -> dict[str, Any]:
    return {**party.context(), _REFERENCES[0]: reference}


def show_orders(order_ids: Sequence[str], party: Party) -> dict[str, Any]:
    return {**party.context(), "orderNumbers": list(order_ids)}


def read_json(data: bytes) -> Json:
    """Raises ServiceError BAD_REQUEST."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_request("provider_answer", "the provider's answer is no JSON") from error
    if not isinstance(found, dict):
        raise bad_request("provider_answer", "the provider's answer is no JSON object")
    return found


def read_bulk_answer(answer: Json) -> Accepted | Refused:
    """Raises ServiceError BAD_REQUEST: neither a transaction nor an error stands in it."""
    reference = reference_of(answer)
    if reference is not None:
        return Accepted(reference)
    problems = _problems(answer)
    if not problems:
        raise bad_request("provider_answer", "the provider names neither a transaction nor an error")
    return Refused(problems)


def reference_of(answer: Json) -> str | None:
    """The provider's transaction that an answer is about."""
    for name in _REFERENCES:
        found = answer.get(name)
        if isinstance(found, str) and 0 < len(found) <= 128 and found.isprintable():
            return found
    return None


def read_check(answer: Json, request: Request) -> list[OrderAnswer] | None:
    """What became of each order of the request; None while the provider is still at it.

    Raises ServiceError BAD_REQUEST: it speaks of an order or a device that was not in the request.
    """
    status, problems = _word(answer, "statusCode"), _problems(answer)
    orders = answer.get("orders")
    if status in _IN_PROGRESS or (orders is None and _says_in_progress(problems)):
        return None
    if not status and problems:
        status = Answer.ERROR.value
    if status not in _FINAL:
        raise bad_request("provider_answer", "the provider's answer has no status that we know")
    said = _by_number(one_or_many(orders), request)
    if any(_word(one, "orderPostStatus") in _IN_PROGRESS for one in said.values()):
        return None
    return [_order_answer(one, said.get(one.order_id), _FINAL[status], problems) for one in request.orders]


def read_show(answer: Json, order_id: str) -> HeldOrder:
    """What the provider holds of one order. Raises ServiceError BAD_REQUEST."""
    found = [one for one in one_or_many(answer.get("orders")) if isinstance(one, dict)]
    mine = [one for one in found if one.get("orderNumber") == order_id]
    if not mine:
        if found or not _problems(answer):
            raise bad_request("provider_answer", "the provider's answer is not about this order")
        return HeldOrder(held=False)
    if mine[0].get("showOrderStatusCode") == Answer.ERROR.value or mine[0].get("orderType") == "VD":
        return HeldOrder(held=False)
    return HeldOrder(True, tuple(sorted({_serial(one) for one in _devices(mine[0])})))


def _order(of: Order, at: str) -> dict[str, Any]:
    order: dict[str, Any] = {
        "orderNumber": of.order_id,
        "orderDate": at,
        "orderType": of.request_type.value,
        "customerId": of.organisation,
        "poNumber": of.transaction_id,
    }
    if of.policies:
        order["policies"] = of.policies
    if of.devices:
        devices = [{"deviceId": one.serial_number} for one in of.devices]
        order["deliveries"] = [{"deliveryNumber": f"{of.order_id}.1", "shipDate": at, "devices": devices}]
    return order


def _by_number(orders: Sequence[Any], request: Request) -> dict[str, Json]:
    known = {one.order_id for one in request.orders}
    found: dict[str, Json] = {}
    for one in orders:
        number = _word(one, "orderNumber") if isinstance(one, dict) else ""
        if number not in known or number in found:
            raise bad_request("order_foreign", "the provider's answer is about an order that was not in the request")
        found[number] = one
    return found


def _order_answer(asked: Order, said: Json | None, overall: Answer, problems: tuple[Problem, ...]) -> OrderAnswer:
    if said is None:
        status: Answer = Answer.ERROR if overall is Answer.COMPLETE_WITH_ERRORS else overall
        silent = (Problem("", "the provider did not mention this order"),) if status is not overall else ()
        return _made(asked, status, (*problems, *silent), [])
    status = overall if "orderPostStatus" not in said else _FINAL.get(_word(said, "orderPostStatus"), Answer.ERROR)
    message = said.get("orderPostStatusMessage")
    own = _problems(said) or ((Problem("", str(readable(message))),) if isinstance(message, str) else ())
    devices = [_device_answer(one, asked) for one in _devices(said)]
    if status is Answer.COMPLETE and any(one.status is DeviceStatus.FAILED for one in devices):
        status = Answer.COMPLETE_WITH_ERRORS
    return _made(asked, status, own if status is not Answer.COMPLETE else (), devices)


def _made(asked: Order, status: Answer, problems: tuple[Problem, ...], devices: list[DeviceAnswer]) -> OrderAnswer:
    return OrderAnswer(
        transaction_id=asked.transaction_id,
        order_id=asked.order_id,
        status=status,
        errors=[Error(code=one.code, message=one.message) for one in problems[:MAX_PROBLEMS]],
        devices=devices,
    )


def _device_answer(device: Json, asked: Order) -> DeviceAnswer:
    serial = _serial(device)
    done = device.get("devicePostStatus") == Answer.COMPLETE.value
    problems = _problems(device)
    message = device.get("devicePostStatusMessage")
    if not done and not problems:
        text = message if isinstance(message, str) and message else str(device.get("devicePostStatus") or "no status")
        problems = (Problem("", str(readable(text))),)
    return DeviceAnswer(
        group_id=next((one.group_id for one in asked.devices if one.serial_number == serial), None),
        serial_number=serial,
        status=DeviceStatus.DONE if done else DeviceStatus.FAILED,
        errors=[] if done else [Error(code=one.code, message=one.message) for one in problems],
    )


def _devices(order: Json) -> list[Json]:
    deliveries = [one for one in one_or_many(order.get("deliveries")) if isinstance(one, dict)]
    found = [one for delivery in deliveries for one in one_or_many(delivery.get("devices"))]
    if len(found) > MAX_DEVICES or not all(isinstance(one, dict) for one in found):
        raise bad_request("provider_answer", "the devices of an order are not in their form")
    return found


def _serial(device: Json) -> str:
    found = device.get("deviceId")
    if not isinstance(found, str) or not ids.is_serial(found):
        raise bad_request("device_foreign", "the provider names a device that is none of ours")
    return found


def _word(of: Json, name: str) -> str:
    """A value that is a text, else nothing."""
    found = of.get(name)
    return found if isinstance(found, str) else ""


def _problems(of: Json) -> tuple[Problem, ...]:
    """Every error that stands in it, as an object or an array of objects."""
    found = [one for name in _ERRORS for one in one_or_many(of.get(name))]
    return tuple(_problem(one) for one in found[:MAX_PROBLEMS])


def _problem(error: Any) -> Problem:
    if not isinstance(error, dict):
        return Problem("", str(readable(str(error))))
    code, message = error.get("errorCode", error.get("code", "")), error.get("errorMessage", error.get("message", ""))
    return Problem(str(readable(str(code))), str(readable(str(message))))


def _says_in_progress(problems: tuple[Problem, ...]) -> bool:
    """Some providers say it as an error, in words."""
    return bool(problems) and all("still being processed" in one.message.lower() for one in problems)
