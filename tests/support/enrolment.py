"""An enrolment site for tests: an order with units, providers, the jobs over it, and the providers' side stood in for."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import select

from service.credentials import keyholder
from service.domain.enrolment import Enrolment
from service.errors import Secret
from service.operations import configuration
from service.operations.enrolment import (
    dispatch,
    extract,
    files,
    load,
    providers,
    requesting,
    responding,
    rows,
    transformation,
)
from service.operations.enrolment.providers import Adaptor
from service.operations.enrolment.working import AskError, Working
from service.storage.database import Database
from service.storage.enrolment_tables import enrolment_transaction, workflow_event
from tests.support.commands import Clock
from tests.support.storage import NOW
from tests.support.warehouse import Warehouse

JOBS = {
    "enrolment-request": requesting.run,
    "extract": extract.run,
    "transformation": transformation.run,
    "load": load.run,
    "enrolment-response": responding.run,
}


@cache
def own_key() -> dict[str, bytes]:
    """Our key and certificate as files: made once, because that takes a second."""
    with TemporaryDirectory() as name:
        keyholder.create(Path(name), "firstlight", NOW)
        return {one.name: one.read_bytes() for one in Path(name).iterdir()}


class StandIn:
    """A provider that speaks JSON, in memory. `mode`: what it does with the next transactions."""

    def __init__(self) -> None:
        self.orders: dict[str, set[str]] = {}
        self.transactions: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.tokens: set[bytes] = set()
        self.unknown: set[str] = set()  # serial numbers that it refuses
        self.in_progress = 0  # so many checks are answered "still at it"
        self.down = False
        self.refuse: Any = None  # what it answers to bulk enrol instead of a transaction

    async def ask(self, url: str, body: bytes, secret: Secret | None) -> tuple[int, bytes]:
        path = url.rsplit("/", 1)[-1]
        document = json.loads(body)
        self.asked.append((path, document))
        self.tokens.add(b"" if secret is None else secret.reveal())
        if self.down:
            raise AskError("no answer within 30 s")
        answer = {
            "bulk-enroll-devices": self._enrol,
            "check-transaction-status": self._check,
            "show-order-details": self._show,
        }[path](document)
        return 200, json.dumps(answer).encode()

    def _enrol(self, document: dict[str, Any]) -> Any:
        if self.refuse is not None:
            return {"enrollDeviceErrorResponse": self.refuse}
        reference = f"ref-{len(self.transactions) + 1}"
        self.transactions[reference] = [self._apply(order) for order in document["orders"]]
        return {"deviceEnrollmentTransactionId": reference, "enrollDevicesResponse": {"statusCode": "SUCCESS"}}

    def _apply(self, order: dict[str, Any]) -> dict[str, Any]:
        serials = [one["deviceId"] for delivery in order.get("deliveries", []) for one in delivery["devices"]]
        bad = [one for one in serials if one in self.unknown]
        good = set(serials) - set(bad)
        held = self.orders.setdefault(order["orderNumber"], set())
        if order["orderType"] == "OV":
            held.clear()
        if order["orderType"] == "VD":
            del self.orders[order["orderNumber"]]
        elif order["orderType"] == "RE":
            held -= good
        else:
            held |= good
        devices = [
            {"deviceId": one, "devicePostStatus": "ERROR", "devicePostStatusMessage": f"{one} is not ours"}
            if one in bad
            else {"deviceId": one, "devicePostStatus": "COMPLETE"}
            for one in serials
        ]
        status = "COMPLETE_WITH_ERRORS" if bad else "COMPLETE"
        return {"orderNumber": order["orderNumber"], "orderPostStatus": status, "deliveries": [{"devices": devices}]}

    def _check(self, document: dict[str, Any]) -> Any:
        if self.in_progress > 0:
            self.in_progress -= 1
            return {"statusCode": "IN_PROGRESS"}
        return self.result(document["deviceEnrollmentTransactionId"])

    def result(self, reference: str) -> dict[str, Any]:
        """What check transaction answers in the end; also what it may post by itself."""
        orders = self.transactions[reference]
        bad = any(one["orderPostStatus"] != "COMPLETE" for one in orders)
        status = "COMPLETE_WITH_ERRORS" if bad else "COMPLETE"
        return {"deviceEnrollmentTransactionId": reference, "statusCode": status, "orders": orders}

    def _show(self, document: dict[str, Any]) -> Any:
        (number,) = document["orderNumbers"]
        if number not in self.orders:
            return {"showOrderErrorResponse": {"errorCode": "E-9", "errorMessage": "no such order"}}
        devices = [{"deviceId": one} for one in sorted(self.orders[number])]
        return {"statusCode": "COMPLETE", "orders": [{"orderNumber": number, "deliveries": [{"devices": devices}]}]}


class EnrolmentSite:
    def __init__(self, database: Database, folder: Path, clock: Clock, config: Mapping[str, Any]) -> None:
        self.database, self.folder, self.clock = database, folder, clock
        self.provider = StandIn()
        self.working = Working(database, folder, self.provider.ask, clock, os.urandom, dict(config))

    async def run(self, *names: str) -> Counter[str]:
        """These jobs, one after the other; the counts of the last."""
        counts: Counter[str] = Counter()
        for name in names:
            counts = await JOBS[name](self.working)
        return counts

    async def round(self) -> None:
        """Once through everything, as a day's schedule does."""
        await self.run(*JOBS)

    async def dispatch(self, *serials: str, order: str = "SO-1", provider: str | None = "dep", **policies: Any) -> Any:
        wish = None
        if provider is not None:
            wish = {"providerId": provider, "organisation": "venue-9", "policies": policies}
        document = {"orderId": order, "lines": [{"line": 1, "serials": list(serials)}], "enrolment": wish}
        (one,) = dispatch.read(json.dumps(document).encode())
        return await dispatch.take(self.database, one, by="local", now=self.clock())

    async def order(self, order_id: str = "SO-1") -> rows.OrderOf:
        async with self.database.read() as connection:
            return await rows.order(connection, order_id, self.database.sealer)

    async def states(self, order_id: str = "SO-1") -> dict[str, str]:
        """Of the order (as "") and of each unit, by serial."""
        of = await self.order(order_id)
        units = {unit.serial: state.value for unit, state in of.standing.units.items()}
        return {"": of.standing.order.value, **units}

    async def events(self) -> list[tuple[str, str, str]]:
        """Kind, order and notes."""
        async with self.database.read() as connection:
            found = await connection.execute(select(workflow_event).order_by(workflow_event.c.seq))
            return [(row.kind, row.order_id, row.notes) for row in found]

    def files(self, where: str) -> list[str]:
        return sorted(str(one.relative_to(self.folder / where)) for one in (self.folder / where).rglob("*.p7m"))


async def enrolment_site(database: Database, commands: Any, folder: Path, clock: Clock) -> EnrolmentSite:
    """An order SO-1 without units, and the provider `dep`."""
    await Warehouse(commands).furnish()
    folder.mkdir(exist_ok=True)
    for name, data in own_key().items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    await providers.create(
        database, "dep", Adaptor.DEP, url="https://provider.example/enroll-service/1.0", account="RESELLER-7",
        secret=Secret(b"provider token"), by="local", now=clock(),
    )  # fmt: skip
    return EnrolmentSite(database, folder, clock, await configuration.values(database))


async def file_provider(site: EnrolmentSite) -> None:
    """The provider `billing`, which exchanges files; it has our own certificate, so that we read what is for it."""
    pem = own_key()["own.pem"].decode("ascii")
    await providers.create(
        site.database, "billing", Adaptor.FILE, recipient_pem=pem, signer_pem=pem, by="local", now=site.clock()
    )


async def answer_by_file(site: EnrolmentSite, status: str, **more: Any) -> None:
    """What `billing` says of the open transaction of SO-1, signed and in its inbox; `more`: fields of the order."""
    of = enrolment_transaction.c
    async with site.database.read() as connection:
        opened = (await connection.execute(select(of.transaction_id).where(of.state == "open"))).scalar_one()
    said = {"transactionId": opened, "orderId": "SO-1", "status": status, **more}
    document = {
        "identifier": os.urandom(8).hex(), "version": "1.0", "interfaceCategory": "DEVICE_ENROLMENT",
        "interfaceType": "RESPONSE", "batchTime": site.clock().isoformat(), "recordCount": 1, "providerId": "billing",
        "orders": [said],
    }  # fmt: skip
    billing, name = await providers.get(site.database, "billing"), f"{document['identifier']}.p7m"
    await files.put(site.working, "inbox", billing, name, json.dumps(document).encode(), files.ours(site.working))


PENDING, SENT, ENROLLED, FAILED = (
    one.value for one in (Enrolment.ENROL_PENDING, Enrolment.ENROL_SENT, Enrolment.ENROLLED, Enrolment.ENROL_FAILED)
)
