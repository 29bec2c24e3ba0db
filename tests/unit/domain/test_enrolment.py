"""What is asked of an enrolment provider next, and what its answers change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, combinations

import pytest

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


def test_an_order_whose_last_failed_unit_is_taken_out_has_not_failed_any_more() -> None:
    of = standing(S.ENROL_FAILED, A=S.UNENROLLED, B=S.ENROL_FAILED)
    assert enrolment.unwanted(of, {B}) == standing(S.UNENROLLED, A=S.UNENROLLED, B=S.NONE)


def test_a_void_that_failed_for_one_unit_leaves_the_order_there_and_can_be_asked_again() -> None:
    of = enrolment.voided(standing(S.ENROLLED, held=True, A=S.ENROLLED, B=S.ENROLLED))
    asked = enrolment.plan(of)
    assert asked is not None
    some = Answered(Answer.COMPLETE_WITH_ERRORS, (WHY,), {B: WHY})
    after = enrolment.answered(enrolment.sent(of, asked), asked, some)
    assert after == standing(S.UNENROL_FAILED, held=True, A=S.UNENROLLED, B=S.UNENROL_FAILED)
    assert enrolment.plan(enrolment.voided(after)) == Asked(RequestType.VOID, (B,))
    assert enrolment.plan(enrolment.retried(after, RequestType.VOID)) == Asked(RequestType.VOID, (B,))


def test_a_unit_that_is_still_to_leave_keeps_its_order_from_being_over() -> None:
    of = enrolment.unwanted(standing(S.UNENROL_FAILED, held=True, A=S.UNENROL_FAILED, B=S.ENROLLED), {B})
    asked = Asked(RequestType.RETURN, (B,))
    after = enrolment.answered(enrolment.sent(of, asked), asked, Answered(Answer.COMPLETE))
    assert after.order is S.UNENROL_FAILED
    assert enrolment.plan(enrolment.unwanted(after, {A})) == Asked(RequestType.RETURN, (A,))


UNITS = (A, B, C)
WAITING = {S.ENROL_PENDING, S.UNENROL_PENDING}


def test_no_history_of_wishes_and_answers_ends_in_an_illegal_move_or_waits_for_ever() -> None:
    """Every history: all standings that an order of three units can come to are looked at, with all that may follow."""
    start: tuple[Standing, RequestType | None] = Standing(S.NONE, {}, held=False), None
    seen, open_ = {_name(*start)}, [start]
    while open_:
        of, last = open_.pop()
        for after in _wished(of, last):
            for came_to in _settled(after, last):
                if _name(*came_to) not in seen:
                    seen.add(_name(*came_to))
                    open_.append(came_to)
    assert len(seen) > 1000


def _name(of: Standing, last: RequestType | None) -> object:
    return of.order, tuple(of.units.get(unit) for unit in UNITS), of.held, last


def _wished(of: Standing, last: RequestType | None) -> Iterator[Standing]:
    """What becomes of it by each wish and each look at the provider; an illegal one is said to the operator."""
    wishes: list[Callable[[], Standing]] = [
        partial(enrolment.voided, of),
        partial(enrolment.overridden, of),
        partial(enrolment.retried, of, last),
        partial(enrolment.adopted, of, held=False, there=()),
        *(partial(enrolment.adopted, of, held=True, there=there) for there in _subsets(tuple(of.units))),
        *(partial(enrolment.wanted, of, {unit}) for unit in UNITS),
        *(partial(enrolment.unwanted, of, {unit}) for unit in of.units if of.units[unit] is not S.NONE),
    ]
    for wish in wishes:
        with suppress(IllegalMove):
            yield wish()


def _settled(of: Standing, last: RequestType | None) -> Iterator[tuple[Standing, RequestType | None]]:
    """It is asked for, and each answer comes; or nothing is asked for, and then nothing may wait."""
    asked = enrolment.plan(of)
    if asked is None:
        assert of.order not in {*enrolment.SENT, *WAITING}
        assert not WAITING & set(of.units.values())
        yield of, last
        return
    sent = enrolment.sent(of, asked)
    assert enrolment.plan(sent) is None  # one open transaction
    answers = [Answered(Answer.COMPLETE), Answered(Answer.ERROR, (WHY,))]
    answers += [Answered(Answer.COMPLETE_WITH_ERRORS, (WHY,), dict.fromkeys(one, WHY)) for one in _subsets(asked.units)]
    for answer in answers:
        after = enrolment.answered(sent, asked, answer)
        assert not set(after.units.values()) & enrolment.SENT
        assert after.order not in enrolment.SENT
        yield after, asked.request


def _subsets(of: tuple[Unit, ...]) -> Iterator[tuple[Unit, ...]]:
    return chain.from_iterable(combinations(of, count) for count in range(len(of) + 1))
