"""How orders and units stand with an enrolment provider, what is asked for them next, and what an answer changes. Pure.

Owns both TRANSITIONS tables, the choice of the request type and the consequences of an answer; an unlisted move raises.
What stands at the provider, once somebody has looked, goes by tables of its own (THERE, NOT_THERE).
Batches, files and providers' own forms stand in operations/enrolment. Source: docs/partners/enrolment.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Enrolment(StrEnum):
    """Of an order or of a unit; a comment says whose turn it is."""

    NONE = "none"  # nobody's: it was never to be enrolled
    ENROL_PENDING = "enrol_pending"  # ours: the next run of enrolment-request
    ENROL_SENT = "enrol_sent"  # the provider's
    ENROLLED = "enrolled"  # nobody's
    ENROL_FAILED = "enrol_failed"  # an operator's
    UNENROL_PENDING = "unenrol_pending"  # ours
    UNENROL_SENT = "unenrol_sent"  # the provider's
    UNENROLLED = "unenrolled"  # nobody's
    UNENROL_FAILED = "unenrol_failed"  # an operator's


class RequestType(StrEnum):
    ORDER = "OR"  # an order that the provider does not hold yet
    RETURN = "RE"  # some of its units leave it
    VOID = "VD"  # the whole order goes
    OVERRIDE = "OV"  # the order is this list of units and nothing else


class Answer(StrEnum):
    """What a provider says of an order that it was asked for."""

    COMPLETE = "COMPLETE"
    COMPLETE_WITH_ERRORS = "COMPLETE_WITH_ERRORS"
    ERROR = "ERROR"  # nothing of it was done
    IN_PROGRESS = "IN_PROGRESS"  # it is asked again later


S = Enrolment
TRANSITIONS: Mapping[Enrolment, frozenset[Enrolment]] = {  # of a unit
    S.NONE: frozenset({S.ENROL_PENDING}),
    S.ENROL_PENDING: frozenset({S.ENROL_SENT, S.NONE}),
    S.ENROL_SENT: frozenset({S.ENROLLED, S.ENROL_FAILED}),
    S.ENROLLED: frozenset({S.UNENROL_PENDING, S.ENROL_FAILED}),  # an override may fail for one that was enrolled
    S.ENROL_FAILED: frozenset({S.ENROL_PENDING, S.UNENROL_PENDING, S.NONE}),
    S.UNENROL_PENDING: frozenset({S.UNENROL_SENT, S.ENROLLED, S.NONE}),
    S.UNENROL_SENT: frozenset({S.UNENROLLED, S.UNENROL_FAILED}),
    S.UNENROLLED: frozenset({S.ENROL_PENDING}),
    S.UNENROL_FAILED: frozenset({S.UNENROL_PENDING, S.ENROL_PENDING}),
}
ORDER_TRANSITIONS: Mapping[Enrolment, frozenset[Enrolment]] = {
    S.NONE: frozenset({S.ENROL_PENDING}),
    S.ENROL_PENDING: frozenset(
        {S.ENROL_SENT, S.UNENROL_PENDING, S.UNENROL_SENT, S.ENROL_FAILED, S.UNENROL_FAILED, S.UNENROLLED, S.NONE}
    ),
    S.ENROL_SENT: frozenset({S.ENROLLED, S.ENROL_FAILED}),
    S.ENROLLED: frozenset({S.ENROL_PENDING, S.UNENROL_PENDING, S.UNENROL_SENT}),  # more units, void, a return
    S.ENROL_FAILED: frozenset({S.ENROL_PENDING, S.UNENROL_PENDING, S.UNENROL_SENT, S.UNENROLLED, S.NONE}),
    S.UNENROL_PENDING: frozenset({S.UNENROL_SENT}),
    S.UNENROL_SENT: frozenset({S.UNENROLLED, S.ENROLLED, S.ENROL_PENDING, S.ENROL_FAILED, S.UNENROL_FAILED}),
    S.UNENROLLED: frozenset({S.ENROL_PENDING}),
    S.UNENROL_FAILED: frozenset({S.UNENROL_PENDING, S.UNENROL_SENT, S.ENROL_PENDING}),
}
# What a look at the provider makes of a unit: its order has it there, or has not. Other states stay as they are.
THERE: Mapping[Enrolment, Enrolment] = {
    S.NONE: S.ENROLLED,
    S.ENROL_FAILED: S.ENROLLED,
    S.UNENROLLED: S.ENROLLED,
    S.UNENROL_FAILED: S.ENROLLED,
}
NOT_THERE: Mapping[Enrolment, Enrolment] = {
    S.ENROLLED: S.ENROL_FAILED,
    S.UNENROL_PENDING: S.UNENROLLED,
    S.UNENROL_FAILED: S.UNENROLLED,
}
SENT = frozenset({S.ENROL_SENT, S.UNENROL_SENT})
FAILED = frozenset({S.ENROL_FAILED, S.UNENROL_FAILED})


class IllegalMove(Exception):  # noqa: N818 - the field's word for it
    """A move that its table does not list."""


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    group_id: str
    serial: str

    def __str__(self) -> str:
        return f"{self.group_id}/{self.serial}"


States = Mapping[Unit, Enrolment]


@dataclass(frozen=True, slots=True)
class Standing:
    """An order and its units. `held`: the provider has accepted this order and it was not voided since."""

    order: Enrolment
    units: States
    held: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What goes to the provider: the units named in the request, and those that leave without being named (override)."""

    request: RequestType
    listed: tuple[Unit, ...]
    leaving: tuple[Unit, ...] = ()

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.listed + self.leaving


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something failed, in the provider's words."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.code else self.message


@dataclass(frozen=True, slots=True)
class Answered:
    """A provider's final word on one order: what failed as a whole and for single units."""

    answer: Answer
    problems: tuple[Problem, ...] = ()
    failed: Mapping[Unit, Problem] = field(default_factory=dict)


def moved(state: Enrolment, to: Enrolment) -> Enrolment:
    """The state that a unit goes to; staying is no move. Raises IllegalMove."""
    if state is not to and to not in TRANSITIONS[state]:
        raise IllegalMove(f"unit: {state} -> {to}")
    return to


def order_moved(state: Enrolment, to: Enrolment) -> Enrolment:
    """The state that an order goes to; staying is no move. Raises IllegalMove."""
    if state is not to and to not in ORDER_TRANSITIONS[state]:
        raise IllegalMove(f"order: {state} -> {to}")
    return to


def wanted(of: Standing, units: Iterable[Unit]) -> Standing:
    """These units shall be enrolled with this order. Raises IllegalMove while the order is being voided."""
    if of.order is S.UNENROL_PENDING:
        raise IllegalMove("the order is about to be voided")
    after = dict(of.units)
    for unit in units:
        state = after.get(unit, S.NONE)
        if state is S.UNENROL_PENDING:
            after[unit] = moved(state, S.ENROLLED)  # it was never asked for
        elif state not in (S.ENROL_PENDING, S.ENROL_SENT, S.ENROLLED):
            after[unit] = moved(state, S.ENROL_PENDING)
    waiting = S.ENROL_PENDING in after.values() and of.order not in SENT
    return Standing(order_moved(of.order, S.ENROL_PENDING) if waiting else of.order, after, of.held)


def unwanted(of: Standing, units: Iterable[Unit]) -> Standing:
    """These units leave the order. Raises IllegalMove for one whose answer is still to come."""
    after = dict(of.units)
    for unit in units:
        after[unit] = _left(after.get(unit, S.NONE), held=of.held)
    order = of.order
    states = set(after.values())
    if order is S.ENROL_PENDING and not states & {S.ENROL_PENDING, S.ENROLLED, S.UNENROL_PENDING}:
        failed = next((state for state in (S.ENROL_FAILED, S.UNENROL_FAILED) if state in states), None)
        order = order_moved(order, failed or (S.UNENROLLED if of.held else S.NONE))
    elif order is S.ENROL_FAILED and not of.held and states <= {S.NONE, S.UNENROLLED}:
        order = order_moved(order, S.UNENROLLED if S.UNENROLLED in states else S.NONE)
    return Standing(order, after, of.held)


def voided(of: Standing) -> Standing:
    """The whole order goes; what the provider does not hold goes here only. Raises IllegalMove while it has to answer."""
    if of.order in (S.NONE, S.UNENROLLED, S.UNENROL_PENDING):
        return of
    _check_no_answer_to_come(of)
    after = {unit: _left(state, held=of.held) for unit, state in of.units.items()}
    if not of.held:
        return Standing(order_moved(order_moved(of.order, S.ENROL_PENDING), S.NONE), after, of.held)
    return Standing(order_moved(of.order, S.UNENROL_PENDING), after, of.held)


def overridden(of: Standing) -> Standing:
    """The provider's order is to be written anew with the units that it has here. Raises IllegalMove."""
    _check_no_answer_to_come(of)
    if not of.held or not {S.ENROLLED, S.ENROL_PENDING} & set(of.units.values()):
        raise IllegalMove("there is nothing enrolled that could be written anew; adopt first what the provider holds")
    return Standing(order_moved(of.order, S.ENROL_PENDING), of.units, of.held)


def plan(of: Standing) -> Asked | None:
    """What to ask for this order now; None where nothing is wanted or an answer is still to come."""
    if of.order in SENT or any(state in SENT for state in of.units.values()):
        return None
    entering, leaving = _in(of, S.ENROL_PENDING), _in(of, S.UNENROL_PENDING)
    staying = _in(of, S.ENROLLED)
    if of.order is S.UNENROL_PENDING:
        gone = _sorted((*staying, *leaving))
        return Asked(RequestType.VOID, gone)
    if not of.held:
        return Asked(RequestType.ORDER, entering) if entering else None
    if entering or (of.order is S.ENROL_PENDING and staying):
        return Asked(RequestType.OVERRIDE, _sorted((*staying, *entering)), leaving)
    return Asked(RequestType.RETURN, leaving) if leaving else None


def sent(of: Standing, asked: Asked) -> Standing:
    """After the request is on its way. Raises IllegalMove."""
    units = dict(of.units)
    for unit in asked.units:
        if units[unit] is S.ENROL_PENDING:
            units[unit] = moved(units[unit], S.ENROL_SENT)
        elif units[unit] is S.UNENROL_PENDING or asked.request is RequestType.VOID:
            units[unit] = moved(moved(units[unit], S.UNENROL_PENDING), S.UNENROL_SENT)
    entering = asked.request in (RequestType.ORDER, RequestType.OVERRIDE)
    if entering and of.order not in (S.ENROL_PENDING, S.ENROL_SENT):
        order = order_moved(order_moved(of.order, S.ENROL_PENDING), S.ENROL_SENT)
    else:
        order = order_moved(of.order, S.ENROL_SENT if entering else S.UNENROL_SENT)
    return Standing(order, units, of.held)


def answered(of: Standing, asked: Asked, answer: Answered) -> Standing:
    """After the provider's final word. Raises IllegalMove; ValueError for IN_PROGRESS, which is none."""
    if answer.answer is Answer.IN_PROGRESS:
        raise ValueError("that is no final word")
    nothing_done = answer.answer is Answer.ERROR
    # Errors, but not of which unit: nobody can say what was done, so an operator looks (and reconciles).
    unclear = answer.answer is Answer.COMPLETE_WITH_ERRORS and not answer.failed
    units = dict(of.units)
    for unit in asked.units:
        state, failed = units[unit], nothing_done or unclear or unit in answer.failed
        if state is S.ENROL_SENT:
            units[unit] = moved(state, S.ENROL_FAILED if failed else S.ENROLLED)
        elif state is S.UNENROL_SENT:
            units[unit] = moved(state, S.UNENROL_FAILED if failed else S.UNENROLLED)
        elif state is S.ENROLLED and unit in answer.failed and not nothing_done:
            units[unit] = moved(state, S.ENROL_FAILED)
    # A void that failed for some units leaves these there, and the order with them.
    remains = asked.request is not RequestType.VOID or S.UNENROL_FAILED in {units[unit] for unit in asked.units}
    held = of.held if nothing_done else remains
    return Standing(order_moved(of.order, _concluded(asked, units)), units, held)


def retried(of: Standing, last: RequestType | None) -> Standing:
    """What failed is wanted again; `last`: what was asked last. Raises IllegalMove where nothing has failed."""
    if of.order not in FAILED:
        raise IllegalMove(f"order: {of.order} has not failed")
    again = {S.ENROL_FAILED: S.ENROL_PENDING, S.UNENROL_FAILED: S.UNENROL_PENDING}
    units = {unit: moved(state, again.get(state, state)) for unit, state in of.units.items()}
    if of.order is S.ENROL_FAILED:
        return Standing(order_moved(of.order, S.ENROL_PENDING), units, of.held)
    # A return goes by its units: the order itself stands as it does.
    order = order_moved(of.order, S.UNENROL_PENDING) if last is RequestType.VOID else of.order
    return Standing(order, units, of.held)


def adopted(of: Standing, *, held: bool, there: Iterable[Unit]) -> Standing:
    """After a look at the provider: whether it holds the order, and which of its units. Raises IllegalMove while sent."""
    _check_no_answer_to_come(of)
    if of.order is S.UNENROL_PENDING and held:
        return Standing(of.order, of.units, held)  # it is about to go as a whole
    has = set(there) if held else set()
    units = {unit: (THERE if unit in has else NOT_THERE).get(state, state) for unit, state in of.units.items()}
    return Standing(_found(of.order, set(units.values()), held=held), units, held)


def acknowledged(before: frozenset[Unit], asked: Asked, failed: Collection[Unit]) -> frozenset[Unit]:
    """The units that a provider has with an order, by its answer to a request that it accepted.

    `failed`: those of the request that it named an error for. An order and an override say the whole list anew.
    """
    wrong = frozenset(failed)
    if asked.request in (RequestType.ORDER, RequestType.OVERRIDE):
        return frozenset(asked.listed) - wrong | (frozenset(asked.leaving) & wrong)
    return before - (frozenset(asked.units) - wrong)


def _found(order: Enrolment, states: set[Enrolment], *, held: bool) -> Enrolment:
    if S.ENROL_PENDING in states or (order is S.ENROL_PENDING and held and S.ENROLLED in states):
        return S.ENROL_PENDING
    if S.ENROL_FAILED in states:
        return S.ENROL_FAILED
    if held:
        return S.ENROLLED
    return S.NONE if order is S.NONE else S.UNENROLLED


def _left(state: Enrolment, *, held: bool) -> Enrolment:
    if state in SENT:
        raise IllegalMove("its answer is still to come")
    if state is S.ENROL_PENDING:
        return moved(state, S.NONE)
    if state is S.ENROL_FAILED:
        return moved(state, S.UNENROL_PENDING if held else S.NONE)  # it may have been enrolled before
    return moved(state, S.UNENROL_PENDING) if state in (S.ENROLLED, S.UNENROL_FAILED) else state


def _check_no_answer_to_come(of: Standing) -> None:
    if of.order in SENT or any(state in SENT for state in of.units.values()):
        raise IllegalMove("the provider's answer is still to come")


def _concluded(asked: Asked, units: States) -> Enrolment:
    states = {units[unit] for unit in asked.units}
    if asked.request in (RequestType.ORDER, RequestType.OVERRIDE):
        return S.ENROL_FAILED if states & FAILED else S.ENROLLED
    if states & FAILED:
        return S.UNENROL_FAILED
    if asked.request is RequestType.VOID:
        return S.UNENROLLED
    rest = set(units.values())
    still = (S.ENROLLED, S.ENROL_FAILED, S.ENROL_PENDING, S.UNENROL_FAILED)
    return next((state for state in still if state in rest), S.UNENROLLED)


def _in(of: Standing, state: Enrolment) -> tuple[Unit, ...]:
    return _sorted(tuple(unit for unit, its in of.units.items() if its is state))


def _sorted(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
    return tuple(sorted(units))
