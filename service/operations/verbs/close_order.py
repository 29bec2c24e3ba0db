"""`close-order`: sales orders that are done, because every unit of theirs has been shipped. Their units stay on them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.enrolment import Enrolment
from service.domain.warehouse import OrderState, Step
from service.operations.requests import check_text, conflict
from service.operations.verbs import order_end
from service.operations.verbs.making import Made
from service.operations.verbs.order_end import Ending
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import MAX_ROWS
from service.storage.store import SqlBatch

NAME = "close-order"
ROLE = Role.OPERATOR
_SETTLED = (Enrolment.NONE, Enrolment.ENROLLED, Enrolment.UNENROLLED)


class Arguments(Arguments_):
    orders: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=MAX_ROWS)]
    note: str = ""


async def make(_batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    check_text("a note", arguments.note, empty=True)
    return await order_end.end(connection, arguments.orders, world, OrderState.CLOSED, _check)


def _check(of: Ending) -> None:
    """1. It has units, 2. as many as its lines ask for, 3. all have been shipped, 4. and no provider has a word to say."""
    order_id = of.order.order_id
    if not sum(of.units.values()):
        raise conflict("order_unfinished", f"no unit is on order {order_id}")
    for line in of.lines:
        there = of.on_line.get((order_id, line.line), 0)
        if there < line.quantity:
            raise conflict("order_unfinished", f"line {line.line} is for {line.quantity} units and has {there}")
    waiting = (None, Step.RECEIVED, Step.STAGED, Step.OUT_OF_BOX)
    if of.count(*waiting):
        raise conflict("order_unfinished", f"not shipped: {of.named(*waiting)}")
    of.check_enrolment(_SETTLED)
