"""What a provider holds although its answer was lost: taken over here, and given up there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.errors import ServiceError
from service.operations import audits
from service.operations.enrolment import adopting, reconcile, wishes
from service.storage.enrolment_tables import enrolment_batch, enrolment_device, enrolment_state, enrolment_transaction
from tests.support.commands import rows_of
from tests.support.enrolment import (
    ENROLLED,
    FAILED,
    PENDING,
    SENT,
    EnrolmentSite,
    answer_by_file,
    enrolment_site,
    file_provider,
)


@pytest.fixture
async def site(database, commands, tmp_path, clock) -> EnrolmentSite:
    return await enrolment_site(database, commands, tmp_path / "enrolment", clock)


def wish(site: EnrolmentSite) -> dict[str, object]:
    return {"by": "local", "now": site.clock()}


async def cause(action) -> str:
    with pytest.raises(ServiceError) as refused:
        await action
    return refused.value.cause


async def refused_repetition(site: EnrolmentSite, *held: str) -> None:
    """The provider took the first sending, whose answer was lost, and refuses the second one."""
    await site.dispatch("T-1", "T-2")
    site.provider.orders["SO-1"] = set(held)
    site.provider.refuse = {"errorCode": "E-5", "errorMessage": "order exists"}
    await site.round()
    site.clock.now += timedelta(minutes=5)
    await site.run("load", "enrolment-response")
    site.provider.refuse = None
    site.clock.now += timedelta(minutes=5)
    assert await site.states() == {"": FAILED, "T-1": FAILED, "T-2": FAILED}


async def through(site: EnrolmentSite) -> str:
    """Everything once; the type of request that the provider was asked last."""
    await site.round()
    site.clock.now += timedelta(minutes=5)
    await site.run("transformation", "load", "enrolment-response")
    site.clock.now += timedelta(minutes=5)
    return str(
        [one for path, one in site.provider.asked if path == "bulk-enroll-devices"][-1]["orders"][0]["orderType"]
    )


async def test_an_order_that_the_provider_holds_is_taken_over_and_then_written_anew(site: EnrolmentSite) -> None:
    await refused_repetition(site, "T-1", "T-2", "T-9")
    assert not (await reconcile.compare(site.working, "SO-1")).same
    assert await cause(wishes.override(site.database, "SO-1", **wish(site))) == "enrolment_state"
    found = await adopting.adopt(site.working, "SO-1", by="alice")
    assert (found.state.value, found.held, found.enrolled, found.foreign) == (
        ENROLLED, True, ("T-1", "T-2"), ("T-9",),
    )  # fmt: skip
    assert await site.states() == {"": ENROLLED, "T-1": ENROLLED, "T-2": ENROLLED}
    last = (await rows_of(site.database, enrolment_transaction))[-1]
    assert (last["request_type"], last["state"], last["cause"]) == ("OR", "complete", "held by reconciliation")
    assert [row["state"] for row in await rows_of(site.database, enrolment_batch) if row["direction"] == "request"] == [
        "done", "done",
    ]  # fmt: skip
    line = (await audits.page(site.database))[-1]
    assert (line.account, line.verb, line.after["enrolment"]) == ("alice", "order-adopt", ENROLLED)
    assert (await reconcile.preview_override(site.working, "SO-1")).removes == ("T-9",)
    await wishes.override(site.database, "SO-1", **wish(site))
    assert await through(site) == "OV"
    assert site.provider.orders == {"SO-1": {"T-1", "T-2"}}
    assert (await site.states())[""] == ENROLLED


@pytest.mark.parametrize("asked", ["RE", "VD"])
async def test_after_that_it_can_be_given_back(site: EnrolmentSite, asked: str) -> None:
    await refused_repetition(site, "T-1", "T-2")
    assert await cause(wishes.give_back(site.database, "SO-1", ["T-1"], **wish(site))) == "enrolment_doubtful"
    await adopting.adopt(site.working, "SO-1", by="local")
    if asked == "RE":
        await wishes.give_back(site.database, "SO-1", ["T-1"], **wish(site))
    else:
        await adopting.void(site.working, "SO-1", by="local")
    assert await through(site) == asked
    assert site.provider.orders == ({"SO-1": {"T-2"}} if asked == "RE" else {})


async def test_taken_over_again_nothing_changes(site: EnrolmentSite) -> None:
    await refused_repetition(site, "T-1")
    first = await adopting.adopt(site.working, "SO-1", by="local")
    assert first.failed == ("T-2",)
    causes = {row["serial"]: row["cause"] for row in await rows_of(site.database, enrolment_state)}
    assert causes["T-1"] is None
    before = len(await rows_of(site.database, enrolment_transaction)), len(await audits.page(site.database))
    assert await adopting.adopt(site.working, "SO-1", by="local") == first
    assert (len(await rows_of(site.database, enrolment_transaction)), len(await audits.page(site.database))) == before
    await wishes.retry(site.database, "SO-1", **wish(site))
    assert await through(site) == "OV"
    assert site.provider.orders == {"SO-1": {"T-1", "T-2"}}


async def test_a_refused_order_is_looked_up_before_it_is_void(site: EnrolmentSite) -> None:
    await refused_repetition(site, "T-1", "T-2")
    site.provider.down = True
    assert await cause(adopting.void(site.working, "SO-1", by="local")) == "provider_unreachable"
    assert (await site.states())[""] == FAILED
    site.provider.down = False
    assert (await adopting.void(site.working, "SO-1", by="local")).value == "unenrol_pending"
    assert await through(site) == "VD"
    assert site.provider.orders == {}
    assert (await site.states())[""] == "unenrolled"


async def test_a_refused_order_that_the_provider_does_not_hold_goes_here_only(site: EnrolmentSite) -> None:
    await refused_repetition(site)
    del site.provider.orders["SO-1"]
    assert (await adopting.void(site.working, "SO-1", by="local")).value == "none"
    assert await through(site) == "OR"  # the one from before: nothing more was asked
    await site.dispatch("T-3")
    assert await through(site) == "OR"
    assert site.provider.orders == {"SO-1": {"T-3"}}


async def test_an_order_that_was_never_asked_for_goes_without_asking(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    assert (await adopting.void(site.working, "SO-1", by="local")).value == "none"
    assert site.provider.asked == []


async def test_a_lost_end_of_an_order_is_taken_over_too(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    await through(site)
    await adopting.void(site.working, "SO-1", by="local")
    site.provider.refuse = {"errorCode": "E-6", "errorMessage": "no such order"}
    del site.provider.orders["SO-1"]
    await through(site)
    assert (await site.states())[""] == "unenrol_failed"
    found = await adopting.adopt(site.working, "SO-1", by="local")
    assert (found.state.value, found.held) == ("unenrolled", False)
    assert await site.states() == {"": "unenrolled", "T-1": "unenrolled"}


async def test_while_an_answer_is_still_to_come_nothing_is_taken_over(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    await site.run("enrolment-request")
    assert await cause(adopting.adopt(site.working, "SO-1", by="local")) == "enrolment_state"
    assert (await site.states())[""] == SENT


async def test_of_a_platform_that_cannot_be_asked_the_operator_says_what_it_holds(site: EnrolmentSite) -> None:
    await file_provider(site)
    await site.dispatch("T-1", "T-2", provider="billing")
    assert await cause(adopting.adopt(site.working, "SO-1", by="local")) == "provider_adaptor"
    found = await adopting.adopt(site.working, "SO-1", by="local", told=["T-2"])
    assert (found.state.value, found.enrolled) == (PENDING, ())  # what waits is asked for, now as an override
    await site.run("enrolment-request")
    assert [row["request_type"] for row in await rows_of(site.database, enrolment_transaction)] == ["OR", "OV"]
    outcomes = [(row["serial"], row["outcome"]) for row in await rows_of(site.database, enrolment_device)]
    assert ("T-2", "done") in outcomes


async def test_a_provider_that_can_be_asked_is_asked(site: EnrolmentSite) -> None:
    await refused_repetition(site, "T-1")
    assert await cause(adopting.adopt(site.working, "SO-1", by="local", told=["T-1"])) == "provider_adaptor"


async def test_an_order_that_a_platform_refused_is_void_there_too(site: EnrolmentSite) -> None:
    await file_provider(site)
    await site.dispatch("T-1", provider="billing")
    await site.run("enrolment-request", "extract")
    await answer_by_file(site, "ERROR")
    await site.run("load", "enrolment-response")
    assert (await site.states())[""] == FAILED
    assert (await adopting.void(site.working, "SO-1", by="local")).value == "unenrol_pending"
    site.clock.now += timedelta(minutes=5)
    assert await site.run("enrolment-request") == {"VD": 1, "batches": 1}
    await answer_by_file(site, "ERROR")
    await site.run("load", "enrolment-response")
    assert (await site.states())[""] == "unenrol_failed"
    assert (await adopting.adopt(site.working, "SO-1", by="local", told=[])).state.value == "unenrolled"
