"""`firstlight enrolment`: providers, dispatched orders, and how they stand with their providers."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.serialization import Encoding

from service.cli import context, enrolment_keys, enrolment_providers, jobs
from service.credentials import keyholder
from service.credentials.cms import CmsError, Keyholder
from service.domain.enrolment import Enrolment
from service.errors import ServiceError
from service.operations.accounts import LOCAL
from service.operations.enrolment import adopting, dispatch, looking, reconcile, responding, tokens, wishes
from service.operations.enrolment.books import Source
from service.operations.enrolment.looking import BatchState
from service.storage.database import Database

app = typer.Typer(help="Device enrolment with external providers.", no_args_is_help=True)
app.add_typer(enrolment_providers.app, name="provider")
app.add_typer(enrolment_keys.app, name="key")
Holds = Annotated[
    list[str] | None, typer.Option("--holds", help="A serial that a platform for files says it holds; repeat it.")
]
HoldsNothing = Annotated[
    bool, typer.Option("--holds-nothing", help="That platform says that it holds nothing of the order.")
]
OrderArgument = Annotated[str, typer.Argument(help="The number of the sales order.")]
MAX_FILE_BYTES = 64 * 1024 * 1024


@app.command()
def certificate(as_json: context.JsonOption = False) -> None:
    """Our certificate for exchanged files, in PEM; the first time, key and certificate are made."""
    folder = context.settings().data_dir / "enrolment"

    async def action() -> str:
        try:
            made = keyholder.load(folder) if (folder / "own.key").exists() else _made(folder)
        except CmsError as error:
            raise context.CommandError(str(error)) from error
        return made.certificate.public_bytes(Encoding.PEM).decode("ascii")

    pem = context.guarded(action)
    context.emit({"certificate": pem}, as_json=as_json, text=lambda: print(pem, end=""))


def _made(folder: Path) -> Keyholder:
    made = keyholder.create(folder, "firstlight", datetime.now(UTC))
    print("made own.key and own.pem; back them up with keys.json", file=sys.stderr)
    return made


@app.command("dispatch-token")
def dispatch_token(as_json: context.JsonOption = False) -> None:
    """A new token for POST /api/orderDispatchResponse, shown this once; the old one is dead."""
    token = context.run(
        lambda database: tokens.rotate(database, by=LOCAL, now=datetime.now(UTC), random_bytes=os.urandom)
    )
    text = token.reveal().decode("ascii")
    context.emit({"token": text}, as_json=as_json, text=lambda: print(f"token (shown this once): {text}"))


@app.command("dispatch")
def dispatch_(
    file: Annotated[Path, typer.Argument(help="An order dispatch response in JSON: one order, or an array.")],
    as_json: context.JsonOption = False,
) -> None:
    """Bind serial numbers to the lines of sales orders; each order by itself, exit code 1 where one was refused."""

    async def action(database: Database) -> tuple[list[dispatch.Taken], list[tuple[str, ServiceError]]]:
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise context.CommandError(f"{file} is larger than {MAX_FILE_BYTES} bytes")
            data = file.read_bytes()
        except OSError as error:
            raise context.CommandError(f"cannot read {file}: {error.strerror}") from error
        return await dispatch.take_each(database, dispatch.read(data), by=LOCAL, now=datetime.now(UTC))

    taken, refused = context.run(action)
    rows = [[one.order_id, str(one.bound), str(one.already), one.enrolment.value] for one in taken]
    rows += [[order_id, "-", "-", f"REFUSED: {error.public}"] for order_id, error in refused]
    columns = ["order", "bound", "already", "enrolment"]
    document = [context.plain(one) for one in taken]
    document += [{"order_id": order_id, "code": error.code, "reason": error.public} for order_id, error in refused]
    context.emit(document, as_json=as_json, text=lambda: context.table("Dispatched", columns, rows))
    if refused:
        order_id, error = refused[0]
        context.fail(f"{len(refused)} of {len(document)} orders refused; {order_id}: {error.public}")


@app.command("list")
def list_(limit: int = 100, as_json: context.JsonOption = False) -> None:
    """Orders that ask for enrolment."""
    found = context.run(lambda database: looking.orders(database, now=datetime.now(UTC), limit=limit))
    rows = [
        [
            one.order_id, one.provider_id or "-", one.organisation or "-", one.state, str(one.units),
            "-" if one.asked_at is None else context.moment(one.asked_at) + (" OVERDUE" if one.overdue else ""),
        ]
        for one in found
    ]  # fmt: skip
    columns = ["order", "provider", "organisation", "state", "units", "waits since"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Orders", columns, rows))


@app.command()
def show(order: OrderArgument, as_json: context.JsonOption = False) -> None:
    """One order: its units, and what was asked for it."""
    found = context.run(lambda database: looking.order(database, order, now=datetime.now(UTC)))
    context.emit(found, as_json=as_json, text=lambda: _show(found))


@app.command()
def batches(
    state: Annotated[BatchState | None, typer.Option(help="Only those in this state.")] = None,
    limit: int = 100,
    as_json: context.JsonOption = False,
) -> None:
    """Requests to providers and their answers: how far they are, how often they were tried, and why they failed."""
    found = context.run(lambda database: looking.batches(database, state=state, limit=limit))
    rows = [
        [
            one.batch_id, one.direction, one.provider_id, one.state.value, str(one.orders), str(one.attempts),
            "-" if one.changed_at is None else context.moment(one.changed_at), one.cause or "-",
        ]
        for one in found
    ]  # fmt: skip
    columns = ["batch", "direction", "provider", "state", "orders", "attempts", "changed", "cause"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Batches", columns, rows))


@app.command()
def events(after: int = 0, limit: int = 100, as_json: context.JsonOption = False) -> None:
    """Workflow events, with the providers' messages."""
    found = context.run(lambda database: looking.events(database, after=after, limit=limit))
    rows = [
        [str(one.seq), "-" if one.at is None else context.moment(one.at), one.kind, one.order_id, one.notes]
        for one in found
    ]
    columns = ["seq", "at", "event", "order", "notes"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Workflow events", columns, rows))


@app.command("return")
def return_(
    order: OrderArgument,
    serials: Annotated[list[str], typer.Argument(help="Serial numbers.")],
    as_json: context.JsonOption = False,
) -> None:
    """These units leave the order, here and at the provider (request type RE)."""
    _wish(order, lambda database, now: wishes.give_back(database, order, serials, by=LOCAL, now=now), as_json=as_json)


@app.command()
def void(order: OrderArgument, as_json: context.JsonOption = False) -> None:
    """The whole order goes at the provider (VD); one that was refused there is looked up first."""
    _now_is(order, _compared(lambda working: adopting.void(working, order, by=LOCAL)), as_json=as_json)


@app.command()
def adopt(
    order: OrderArgument,
    holds: Holds = None,
    holds_nothing: HoldsNothing = False,
    as_json: context.JsonOption = False,
) -> None:
    """Take over here what the provider holds of an order, after an answer that was lost; nothing changes there."""
    told = _told(holds, nothing=holds_nothing)
    found = _compared(lambda working: adopting.adopt(working, order, by=LOCAL, told=told))

    def text() -> None:
        print(f"order {order}: {found.state.value}, {'held' if found.held else 'NOT held'} by the provider")
        for word, serials in (("enrolled", found.enrolled), ("failed", found.failed), ("FOREIGN", found.foreign)):
            if serials:
                print(f"{word} {len(serials)}: {' '.join(serials)}")

    context.emit(found, as_json=as_json, text=text)


@app.command()
def retry(order: OrderArgument, as_json: context.JsonOption = False) -> None:
    """Ask once more for what failed."""
    _wish(order, lambda database, now: wishes.retry(database, order, by=LOCAL, now=now), as_json=as_json)


@app.command("give-up")
def give_up(order: OrderArgument, as_json: context.JsonOption = False) -> None:
    """Wait no longer for the answer to what was asked: it ends as ERROR, and counts for nothing if it still comes."""
    state = _compared(lambda working: responding.give_up(working, order, by=LOCAL))
    _now_is(order, state, f"; the provider may have it: `firstlight enrolment reconcile {order}`", as_json=as_json)


@app.command()
def override(
    order: OrderArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would change at the provider.")] = False,
    holds: Holds = None,
    holds_nothing: HoldsNothing = False,
    as_json: context.JsonOption = False,
) -> None:
    """Write the provider's order anew with the units that it has here (OV).

    A dry run compares with what the provider holds; of one that exchanges files, with what it has acknowledged.
    """
    told = _told(holds, nothing=holds_nothing)
    if told is not None and not dry_run:
        context.fail("--holds and --holds-nothing belong to --dry-run; `adopt` takes them over")
    if not dry_run:
        _wish(order, lambda database, now: wishes.override(database, order, by=LOCAL, now=now), as_json=as_json)
        return
    found = _compared(lambda working: reconcile.preview_override(working, order, told=told))

    def text() -> None:
        _say_source(found)
        for word, serials in (("keeps", found.keeps), ("adds", found.adds), ("REMOVES", found.removes)):
            print(f"{word} {len(serials)}: {' '.join(serials) or '-'}")

    context.emit(found, as_json=as_json, text=text)


@app.command("reconcile")
def reconcile_(
    order: OrderArgument, holds: Holds = None, holds_nothing: HoldsNothing = False, as_json: context.JsonOption = False
) -> None:
    """Compare an order with what the provider holds; exit code 1 where they differ.

    A provider that exchanges files cannot be asked: then with what it has acknowledged, or what its people say.
    """
    told = _told(holds, nothing=holds_nothing)
    found = _compared(lambda working: reconcile.compare(working, order, told=told))

    def text() -> None:
        _say_source(found)
        print(f"order {order} at {found.provider_id}: {'the same' if found.same else 'DIFFERENT'}")
        print(f"here and there: {len(found.agreed)}")
        for word, serials in (("only here", found.only_here), ("only there", found.only_there), ("open", found.open)):
            if serials:
                print(f"{word}: {' '.join(serials)}")

    context.emit({**context.plain(found), "same": found.same}, as_json=as_json, text=text)
    if not found.same:
        raise typer.Exit(1)


def _told(holds: list[str] | None, *, nothing: bool) -> list[str] | None:
    if holds and nothing:
        context.fail("give --holds or --holds-nothing")
    return holds or ([] if nothing else None)


def _say_source(of: reconcile.Difference | reconcile.Override) -> None:
    """Whose word it is, where it is not the provider's own, just now."""
    if of.source is Source.TOLD:
        print(f"{of.provider_id} was not asked: it holds what was given here")
    elif of.source is Source.BOOKS:
        by = (
            "it has acknowledged nothing yet"
            if of.as_of is None
            else f"its last answer is of {of.as_of:%Y-%m-%d %H:%M:%S} UTC"
        )
        print(f"{of.provider_id} exchanges files and cannot be asked: this is what it acknowledged by our books; {by}")
        if of.refused:
            print(f"since then it refused {of.refused}; whether something of that was done, only its people know")


def _compared(action: Callable[[Any], Awaitable[Any]]) -> Any:
    of = context.settings()

    async def inside(database: Database) -> Any:
        return await action(await jobs.table_of(database, of).working())

    return context.run(inside)


def _wish(order: str, action: Callable[[Database, datetime], Awaitable[Enrolment]], *, as_json: bool) -> None:
    _now_is(order, context.run(lambda database: action(database, datetime.now(UTC))), as_json=as_json)


def _now_is(order: str, state: Enrolment, more: str = "", *, as_json: bool) -> None:
    found = {"order": order, "enrolment": state}
    context.done(found, as_json=as_json, said=f"order {order}: {state.value}{more}")


def _show(of: looking.OrderView) -> None:
    print(f"order {of.order_id}: {of.state}, {of.provider_id or 'no provider'} for {of.organisation or '-'}")
    if of.policies:
        print(f"policies: {', '.join(of.policies)}")
    units = [[f"{one.group_id}/{one.serial}", one.state, one.cause or "-"] for one in of.units]
    context.table("Units", ["unit", "state", "cause"], units)
    asked = [
        [
            one.transaction_id, one.request, "OVERDUE" if one.overdue else one.state,
            "-" if one.created_at is None else context.moment(one.created_at), one.cause or "-",
            one.batch.state.value, str(one.batch.attempts), one.batch.cause or "-",
        ]
        for one in of.transactions
    ]  # fmt: skip
    columns = ["transaction", "type", "state", "at", "cause", "batch", "attempts", "batch's cause"]
    context.table("Transactions", columns, asked)
