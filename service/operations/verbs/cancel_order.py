"""`cancel-order`: sales orders that are not to be delivered; their units are on no order any more."""

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

NAME = "cancel-order"
ROLE = Role.OPERATOR
_GONE = (Enrolment.NONE, Enrolment.UNENROLLED)  # nothing of it is at a provider


class Arguments(Arguments_):
    """With `force` also where units are staged or out of box: they leave the order as they are."""

    orders: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=MAX_ROWS)]
    force: bool = False
    note: str = ""


async def make(_batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    check_text("a note", arguments.note, empty=True)

    def check(of: Ending) -> None:
        """1. What is shipped is delivered. 2. What is staged was made for this order. 3. A provider holds nothing."""
        gone, staged = (Step.SHIPPED, Step.AT_SITE), (Step.STAGED, Step.OUT_OF_BOX)
        if of.count(*gone):
            raise conflict("units_shipped", f"shipped already: {of.named(*gone)}")
        if of.count(*staged) and not arguments.force:
            raise conflict("units_staged", f"staged or out of box: {of.named(*staged)}")
        of.check_enrolment(_GONE)

    return await order_end.end(connection, arguments.orders, world, OrderState.CANCELLED, check, release=True)
