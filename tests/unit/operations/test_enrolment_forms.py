"""The generic form of enrolment documents, and its transformation to and from a provider's JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.enrolment import Answer, Asked, Problem, RequestType, Unit
from service.errors import ServiceError
from service.operations.enrolment import dep, generic
from service.operations.enrolment.dep import Accepted, HeldOrder, Party, Refused

NOW = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)
PARTY = Party("RESELLER-7")
DEVICES = [generic.Device(group_id="tablets", serial_number=name) for name in ("T-1", "T-2")]
ORDER = generic.Order(
    transaction_id="tx1", order_id="SO 1", request_type=RequestType.ORDER, organisation="venue-9",
    policies={"permissions": ["lock"], "encryption": True}, devices=DEVICES,
)  # fmt: skip
VOID = generic.Order(transaction_id="tx2", order_id="SO 2", request_type=RequestType.VOID, organisation="venue-9")
REQUEST = generic.request_of("batch1", "dep", NOW, [ORDER, VOID])


def cause(action) -> str:
    with pytest.raises(ServiceError) as refused:
        action()
    return refused.value.cause


def test_the_generic_form_says_what_it_is_and_comes_back_as_it_was() -> None:
    written = json.loads(REQUEST.to_bytes())
    assert written["identifier"] == "batch1"
    assert (written["version"], written["interfaceCategory"], written["interfaceType"]) == (
        "1.0", "DEVICE_ENROLMENT", "REQUEST",
    )  # fmt: skip
    assert (written["batchTime"], written["recordCount"], written["providerId"]) == ("2026-05-04T12:30:00Z", 2, "dep")
    assert written["orders"][0]["requestType"] == "OR"
    assert written["orders"][0]["devices"][0] == {"groupId": "tablets", "serialNumber": "T-1"}
    assert generic.read_request(REQUEST.to_bytes()) == REQUEST


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("recordCount",), 3),
        (("recordCount",), 1),
        (("version",), "2.0"),
        (("interfaceType",), "RESPONSE"),
        (("interfaceCategory",), "STOCK"),
        (("batchTime",), "yesterday"),
        (("batchTime",), "2026-05-04T12:30:00"),  # of which zone?
        (("orders",), []),
        (("extra",), 1),
        (("orders", 0, "requestType"), "XX"),
        (("orders", 0, "devices", 0, "serialNumber"), "T 1/+#"),
        (("orders", 1, "transactionId"), "tx1"),  # twice
        (("orders", 0, "organisation"), ""),
    ],
)
def test_a_document_that_is_not_in_its_form_is_refused(path: tuple[str | int, ...], value: object) -> None:
    document = json.loads(REQUEST.to_bytes())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert cause(lambda: generic.read_request(json.dumps(document).encode())) == "document_illegal"


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=8).map(
    lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    for read in (generic.read_request, generic.read_response):
        assert cause(lambda read=read: read(data)) == "document_illegal"


def test_what_an_answer_says_becomes_ours_and_only_of_units_that_were_asked_for() -> None:
    asked = Asked(RequestType.ORDER, (Unit("tablets", "T-1"), Unit("tablets", "T-2")))
    answer = {"transactionId": "tx1", "orderId": "SO 1", "status": "COMPLETE_WITH_ERRORS", "devices": [
        {"serialNumber": "T-1", "status": "DONE"},
        {"serialNumber": "T-2", "status": "FAILED", "errors": {"code": "E1", "message": "unknown\nnumber"}},
    ]}  # fmt: skip
    read = generic.OrderAnswer.model_validate(answer)
    found = generic.answered_of(read, asked)
    assert found.failed == {Unit("tablets", "T-2"): Problem("E1", "unknown number")}
    for serial, group in (("T-3", None), ("T-1", "phones")):
        answer["devices"] = [{"serialNumber": serial, "groupId": group, "status": "DONE"}]
        foreign = generic.OrderAnswer.model_validate(answer)
        assert cause(lambda foreign=foreign: generic.answered_of(foreign, asked)) == "device_foreign"


def test_bulk_enrol_has_the_provider_s_words() -> None:
    asked = dep.bulk_enrol(REQUEST, PARTY)
    assert asked["transactionId"] == "batch1"
    assert asked["depResellerId"] == "RESELLER-7"
    first, second = asked["orders"]
    assert (first["orderNumber"], first["orderType"], first["customerId"]) == ("SO 1", "OR", "venue-9")
    assert first["policies"] == {"permissions": ["lock"], "encryption": True}
    assert first["deliveries"][0]["devices"] == [{"deviceId": "T-1"}, {"deviceId": "T-2"}]
    assert second["orderType"] == "VD"
    assert "deliveries" not in second
    assert dep.check_transaction("R1", PARTY)["deviceEnrollmentTransactionId"] == "R1"
    assert dep.show_orders(["SO 1"], PARTY)["orderNumbers"] == ["SO 1"]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ({"deviceEnrollmentTransactionId": "R1", "enrollDevicesResponse": {"statusCode": "SUCCESS"}}, Accepted("R1")),
        ({"deviceEnrollmentTransactionID": "R1"}, Accepted("R1")),
        (
            {"enrollDeviceErrorResponse": {"errorCode": "DEP-1", "errorMessage": "no such customer"}},
            Refused((Problem("DEP-1", "no such customer"),)),
        ),
        (
            {"enrollDeviceErrorResponse": [{"errorCode": "A", "errorMessage": "x"}, {"code": "B", "message": "y"}]},
            Refused((Problem("A", "x"), Problem("B", "y"))),
        ),
        ({"errors": "no"}, Refused((Problem("", "no"),))),
    ],
)
def test_the_answer_to_bulk_enrol_is_a_transaction_or_errors_as_object_or_array(
    answer: dict[str, object], read: Accepted | Refused
) -> None:
    assert dep.read_bulk_answer(answer) == read


def check(*devices: dict[str, object], status: str = "COMPLETE", **order: object) -> dict[str, object]:
    return {"deviceEnrollmentTransactionId": "R1", "statusCode": status, "orders": [
        {"orderNumber": "SO 1", "orderPostStatus": status, "deliveries": {"devices": list(devices)}, **order},
        {"orderNumber": "SO 2", "orderPostStatus": "COMPLETE"},
    ]}  # fmt: skip


def test_a_complete_transaction_is_complete_for_every_order() -> None:
    answers = dep.read_check(check({"deviceId": "T-1", "devicePostStatus": "COMPLETE"}), REQUEST)
    assert answers is not None
    assert [(one.transaction_id, one.status) for one in answers] == [
        ("tx1", Answer.COMPLETE), ("tx2", Answer.COMPLETE),
    ]  # fmt: skip
    assert answers[0].devices[0].group_id == "tablets"


@pytest.mark.parametrize(
    "error",
    [
        {"devicePostStatusMessage": "unknown serial number"},
        {"errors": {"errorCode": "", "errorMessage": "unknown serial number"}},
        {"errors": [{"errorMessage": "unknown serial number"}]},
        {"devicePostStatus": "unknown serial number"},
    ],
)
def test_the_provider_s_words_on_one_device_are_kept(error: dict[str, object]) -> None:
    device = {"deviceId": "T-2", "devicePostStatus": "ERROR", **error}
    for status in ("COMPLETE_WITH_ERRORS", "COMPLETE"):  # some call it complete all the same
        answers = dep.read_check(check(device, status=status), REQUEST)
        assert answers is not None
        assert answers[0].status is Answer.COMPLETE_WITH_ERRORS
        assert answers[0].devices[0].errors[0].message == "unknown serial number"


@pytest.mark.parametrize(
    "answer",
    [
        {"statusCode": "IN_PROGRESS"},
        {"statusCode": "COMPLETE", "orders": [{"orderNumber": "SO 1", "orderPostStatus": "IN_PROGRESS"}]},
        {"checkTransactionErrorResponse": [{"errorCode": "X", "errorMessage": "It is still being processed."}]},
    ],
)
def test_still_in_progress_is_no_answer(answer: dict[str, object]) -> None:
    assert dep.read_check(answer, REQUEST) is None


def test_an_error_for_all_is_one_for_each_order() -> None:
    for errors in ({"errorCode": "E", "errorMessage": "m"}, [{"errorCode": "E", "errorMessage": "m"}]):
        answers = dep.read_check({"checkTransactionErrorResponse": errors}, REQUEST)
        assert answers is not None
        assert {one.status for one in answers} == {Answer.ERROR}
        assert {one.errors[0].message for one in answers} == {"m"}


def test_an_order_that_is_not_mentioned_among_errors_has_failed() -> None:
    answer = {"statusCode": "COMPLETE_WITH_ERRORS", "orders": {"orderNumber": "SO 1", "orderPostStatus": "COMPLETE"}}
    answers = dep.read_check(answer, REQUEST)
    assert answers is not None
    assert [one.status for one in answers] == [Answer.COMPLETE, Answer.ERROR]
    assert "not mention" in answers[1].errors[0].message


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"statusCode": "FINE"},
        {"statusCode": "COMPLETE", "orders": [{"orderNumber": "SO 9"}]},
        {"statusCode": "COMPLETE", "orders": ["SO 1"]},
        {"statusCode": "COMPLETE", "orders": [{"orderNumber": "SO 1"}, {"orderNumber": "SO 1"}]},
        {"statusCode": "COMPLETE", "orders": [{"orderNumber": "SO 1", "deliveries": [{"devices": [7]}]}]},
        {"statusCode": "COMPLETE", "orders": [{"orderNumber": "SO 1", "deliveries": [{"devices": [{}]}]}]},
    ],
)
def test_an_answer_about_something_else_is_refused(answer: dict[str, object]) -> None:
    with pytest.raises(ServiceError):
        dep.read_check(answer, REQUEST)


def test_show_order_says_what_the_provider_holds() -> None:
    held = {"orders": [{"orderNumber": "SO 1", "orderType": "OR", "showOrderStatusCode": "COMPLETE",
                        "deliveries": [{"devices": [{"deviceId": "T-2"}]}, {"devices": {"deviceId": "T-1"}}]}]}  # fmt: skip
    assert dep.read_show(held, "SO 1") == HeldOrder(True, ("T-1", "T-2"))
    unknown = {"orders": [{"orderNumber": "SO 1", "showOrderStatusCode": "ERROR"}]}
    assert dep.read_show(unknown, "SO 1") == HeldOrder(held=False)
    assert dep.read_show({"showOrderErrorResponse": {"errorCode": "E"}}, "SO 1") == HeldOrder(held=False)
    for foreign in ({}, {"orders": [{"orderNumber": "SO 7"}]}):
        with pytest.raises(ServiceError):
            dep.read_show(foreign, "SO 1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "orders",
                    "statusCode",
                    "orderNumber",
                    "errors",
                    "deliveries",
                    "devices",
                    "deviceId",
                    "orderPostStatus",
                ]
            ),
            inner | st.sampled_from(["COMPLETE", "ERROR", "SO 1", "T-1", "COMPLETE_WITH_ERRORS"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_of_a_provider_is_read_or_refused(answer: object) -> None:
    try:
        found = dep.read_json(json.dumps(answer).encode())
        dep.read_check(found, REQUEST)
        dep.read_show(found, "SO 1")
        dep.read_bulk_answer(found)
    except ServiceError as error:
        assert error.code == "BAD_REQUEST"  # noqa: PT017
