"""What is asked of an enrolment provider next, and what its answers change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import enrolment
from service.domain.enrolment import (
    Answer,
    Answered,
    Asked,
    Enrolment,
    IllegalMove,
    Problem,
    RequestType,
    Standing,
    Unit,
)

A, B, C = (Unit("tablets", name) for name in "ABC")
S = Enrolment
WHY = Problem("E-1", "unknown serial number")


def standing(order: Enrolment, held: bool = False, **units: Enrolment) -> Standing:
    return Standing(order, {Unit("tablets", name): state for name, state in units.items()}, held)


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        (standing(S.NONE), None),
        (standing(S.ENROL_PENDING, A=S.ENROL_PENDING, B=S.ENROL_PENDING), Asked(RequestType.ORDER, (A, B))),
        (standing(S.ENROL_PENDING), None),  # no unit is bound yet
        (standing(S.ENROL_SENT, A=S.ENROL_SENT), None),
        (standing(S.ENROLLED, held=True, A=S.ENROLLED), None),
        # More units: the provider's order is written anew, with what stays.
        (standing(S.ENROL_PENDING, held=True, A=S.ENROLLED, B=S.ENROL_PENDING), Asked(RequestType.OVERRIDE, (A, B))),
        # Only part of them leaves.
        (standing(S.ENROLLED, held=True, A=S.ENROLLED, B=S.UNENROL_PENDING), Asked(RequestType.RETURN, (B,))),
        # Some come and some go: one override.
        (
            standing(S.ENROL_PENDING, held=True, A=S.ENROLLED, B=S.UNENROL_PENDING, C=S.ENROL_PENDING),
            Asked(RequestType.OVERRIDE, (A, C), (B,)),
        ),
        # New policies for what is enrolled.
        (standing(S.ENROL_PENDING, held=True, A=S.ENROLLED), Asked(RequestType.OVERRIDE, (A,))),
        (
            standing(S.UNENROL_PENDING, held=True, A=S.ENROLLED, B=S.UNENROL_PENDING, C=S.UNENROLLED),
            Asked(RequestType.VOID, (A, B)),
        ),
        (standing(S.UNENROL_PENDING, held=True, A=S.NONE), Asked(RequestType.VOID, ())),
        # After a void the order is a new one.
        (standing(S.ENROL_PENDING, A=S.UNENROLLED, B=S.ENROL_PENDING), Asked(RequestType.ORDER, (B,))),
        (standing(S.ENROL_FAILED, A=S.ENROL_FAILED), None),  # an operator's turn
    ],
)  # fmt: skip
def test_what_is_asked_next(of: Standing, asked: Asked | None) -> None:
    assert enrolment.plan(of) == asked


@pytest.mark.parametrize(
    ("of", "answer", "after"),
    [
        (
            standing(S.ENROL_PENDING, A=S.ENROL_PENDING, B=S.ENROL_PENDING),
            Answered(Answer.COMPLETE),
            standing(S.ENROLLED, held=True, A=S.ENROLLED, B=S.ENROLLED),
        ),
        (
            standing(S.ENROL_PENDING, A=S.ENROL_PENDING, B=S.ENROL_PENDING),
            Answered(Answer.COMPLETE_WITH_ERRORS, failed={B: WHY}),
            standing(S.ENROL_FAILED, held=True, A=S.ENROLLED, B=S.ENROL_FAILED),
        ),
        (  # errors of nobody knows which unit
            standing(S.ENROL_PENDING, A=S.ENROL_PENDING),
            Answered(Answer.COMPLETE_WITH_ERRORS, (WHY,)),
            standing(S.ENROL_FAILED, held=True, A=S.ENROL_FAILED),
        ),
        (
            standing(S.ENROL_PENDING, A=S.ENROL_PENDING),
            Answered(Answer.ERROR, (WHY,)),
            standing(S.ENROL_FAILED, A=S.ENROL_FAILED),
        ),
        (  # an override that failed leaves the provider's order as it was
            standing(S.ENROL_PENDING, held=True, A=S.ENROLLED, B=S.ENROL_PENDING, C=S.UNENROL_PENDING),
            Answered(Answer.ERROR, (WHY,)),
            standing(S.ENROL_FAILED, held=True, A=S.ENROLLED, B=S.ENROL_FAILED, C=S.UNENROL_FAILED),
        ),
        (
            standing(S.ENROL_PENDING, held=True, A=S.ENROLLED, B=S.ENROL_PENDING, C=S.UNENROL_PENDING),
            Answered(Answer.COMPLETE),
            standing(S.ENROLLED, held=True, A=S.ENROLLED, B=S.ENROLLED, C=S.UNENROLLED),
        ),
        (
            standing(S.ENROLLED, held=True, A=S.ENROLLED, B=S.UNENROL_PENDING),
            Answered(Answer.COMPLETE),
            standing(S.ENROLLED, held=True, A=S.ENROLLED, B=S.UNENROLLED),
        ),
        (
            standing(S.ENROLLED, held=True, A=S.UNENROL_PENDING),
            Answered(Answer.COMPLETE),
            standing(S.UNENROLLED, held=True, A=S.UNENROLLED),
        ),
        (
            standing(S.UNENROL_PENDING, held=True, A=S.ENROLLED, B=S.UNENROL_PENDING),
            Answered(Answer.COMPLETE),
            standing(S.UNENROLLED, A=S.UNENROLLED, B=S.UNENROLLED),
        ),
        (
            standing(S.UNENROL_PENDING, held=True, A=S.UNENROL_PENDING),
            Answered(Answer.ERROR, (WHY,)),
            standing(S.UNENROL_FAILED, held=True, A=S.UNENROL_FAILED),
        ),
    ],
)
def test_what_an_answer_changes(of: Standing, answer: Answered, after: Standing) -> None:
    asked = enrolment.plan(of)
    assert asked is not None
    assert enrolment.answered(enrolment.sent(of, asked), asked, answer) == after


def test_what_failed_is_asked_again_only_when_told_to() -> None:
    failed = standing(S.ENROL_FAILED, held=True, A=S.ENROLLED, B=S.ENROL_FAILED)
    again = enrolment.retried(failed, RequestType.ORDER)
    assert enrolment.plan(again) == Asked(RequestType.OVERRIDE, (A, B))
    back = enrolment.retried(
        standing(S.UNENROL_FAILED, held=True, A=S.UNENROL_FAILED, B=S.ENROLLED), RequestType.RETURN
    )
    assert enrolment.plan(back) == Asked(RequestType.RETURN, (A,))
    void = enrolment.retried(standing(S.UNENROL_FAILED, held=True, A=S.UNENROL_FAILED), RequestType.VOID)
    assert enrolment.plan(void) == Asked(RequestType.VOID, (A,))
    with pytest.raises(IllegalMove):
        enrolment.retried(standing(S.ENROLLED, held=True, A=S.ENROLLED), RequestType.ORDER)


def test_still_in_progress_is_no_final_word() -> None:
    of = standing(S.ENROL_PENDING, A=S.ENROL_PENDING)
    asked = enrolment.plan(of)
    assert asked is not None
    with pytest.raises(ValueError, match="final"):
        enrolment.answered(enrolment.sent(of, asked), asked, Answered(Answer.IN_PROGRESS))


def test_an_unlisted_move_is_refused() -> None:
    with pytest.raises(IllegalMove):
        enrolment.moved(S.ENROLLED, S.ENROL_SENT)
    with pytest.raises(IllegalMove):
        enrolment.order_moved(S.NONE, S.ENROLLED)
    assert set(enrolment.TRANSITIONS) == set(enrolment.ORDER_TRANSITIONS) == set(S)


@pytest.mark.parametrize(
    ("of", "held", "there", "after"),
    [
        (  # it took what it then refused as a repetition
            standing(S.ENROL_FAILED, A=S.ENROL_FAILED, B=S.ENROL_FAILED),
            True, {A, B}, standing(S.ENROLLED, held=True, A=S.ENROLLED, B=S.ENROLLED),
        ),
        (  # part of it, and more units wait
            standing(S.ENROL_PENDING, A=S.ENROL_FAILED, B=S.ENROL_FAILED, C=S.ENROL_PENDING),
            True, {A}, standing(S.ENROL_PENDING, held=True, A=S.ENROLLED, B=S.ENROL_FAILED, C=S.ENROL_PENDING),
        ),
        (  # it was thrown away here, and is there all the same
            standing(S.NONE, A=S.NONE), True, {A}, standing(S.ENROLLED, held=True, A=S.ENROLLED),
        ),
        (  # the end of it had come, and only the answer was lost
            standing(S.UNENROL_FAILED, held=True, A=S.UNENROL_FAILED, B=S.UNENROL_FAILED),
            False, {A}, standing(S.UNENROLLED, A=S.UNENROLLED, B=S.UNENROLLED),
        ),
        (  # the provider has forgotten what it said yes to
            standing(S.ENROLLED, held=True, A=S.ENROLLED), False, (), standing(S.ENROL_FAILED, A=S.ENROL_FAILED),
        ),
        (
            standing(S.UNENROL_PENDING, held=True, A=S.ENROLLED),
            True, {A}, standing(S.UNENROL_PENDING, held=True, A=S.ENROLLED),
        ),
        (standing(S.UNENROL_PENDING, held=True, A=S.UNENROL_PENDING), False, (), standing(S.UNENROLLED, A=S.UNENROLLED)),
    ],
)  # fmt: skip
def test_what_a_look_at_the_provider_changes(of: Standing, held: bool, there: set[Unit], after: Standing) -> None:
    assert enrolment.adopted(of, held=held, there=there) == after


def test_after_a_look_everything_that_a_held_order_knows_can_be_asked() -> None:
    found = enrolment.adopted(standing(S.ENROL_FAILED, A=S.ENROL_FAILED, B=S.ENROL_FAILED), held=True, there={A, B})
    assert enrolment.plan(enrolment.overridden(found)) == Asked(RequestType.OVERRIDE, (A, B))
    assert enrolment.plan(enrolment.voided(found)) == Asked(RequestType.VOID, (A, B))
    assert enrolment.plan(enrolment.unwanted(found, {A})) == Asked(RequestType.RETURN, (A,))
    with pytest.raises(IllegalMove):
        enrolment.adopted(standing(S.ENROL_SENT, A=S.ENROL_SENT), held=True, there={A})


WISHES = st.sampled_from(["add", "return", "void", "override", "retry", "held", "not held"])
ANSWERS = st.sampled_from([Answer.COMPLETE, Answer.COMPLETE_WITH_ERRORS, Answer.ERROR])


@given(st.lists(st.tuples(WISHES, st.integers(0, 4), ANSWERS, st.integers(0, 31)), max_size=25))
def test_no_history_of_wishes_and_answers_ends_in_an_illegal_move_or_waits_for_ever(
    history: list[tuple[str, int, Answer, int]],
) -> None:
    of, last = Standing(S.NONE, {}, held=False), None
    for wish, number, answer, failing in history:
        try:
            of = _wished(of, wish, Unit("tablets", str(number)), last, failing)
        except IllegalMove:
            continue  # said to the operator; nothing has changed
        asked = enrolment.plan(of)
        if asked is None:
            assert of.order not in {*enrolment.SENT, S.ENROL_PENDING, S.UNENROL_PENDING}
            continue
        last = asked.request
        sent = enrolment.sent(of, asked)
        assert enrolment.plan(sent) is None  # one open transaction
        failed = {unit: WHY for at, unit in enumerate(asked.units) if failing >> at & 1}
        partly = failed if answer is Answer.COMPLETE_WITH_ERRORS else {}
        of = enrolment.answered(sent, asked, Answered(answer, (WHY,), partly))
        assert not set(of.units.values()) & enrolment.SENT
        assert of.order not in enrolment.SENT


def _wished(of: Standing, wish: str, unit: Unit, last: RequestType | None, mask: int) -> Standing:
    state = of.units.get(unit, S.NONE)
    if wish in ("held", "not held"):
        there = {one for one in of.units if mask >> int(one.serial) & 1}
        return enrolment.adopted(of, held=wish == "held", there=there)
    if wish == "add":
        return enrolment.wanted(of, {unit})
    if wish == "return":
        return enrolment.unwanted(of, {unit}) if state is not S.NONE else of
    if wish == "void":
        return enrolment.voided(of)
    if wish == "override":
        return enrolment.overridden(of)
    return enrolment.retried(of, last)
