"""What a provider that exchanges files holds, by its own answers: compared, and what an override would change there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.errors import ServiceError
from service.operations.enrolment import adopting, reconcile, upkeep, wishes
from service.operations.enrolment.books import Source
from service.storage.enrolment_tables import enrolment_transaction
from tests.support.commands import rows_of
from tests.support.enrolment import EnrolmentSite, answer_by_file, enrolment_site, file_provider

FAILED = {"status": "FAILED", "errors": {"code": "B-7", "message": "no contract"}}


@pytest.fixture
async def site(database, commands, tmp_path, clock) -> EnrolmentSite:
    made = await enrolment_site(database, commands, tmp_path / "enrolment", clock)
    await file_provider(made)
    made.working.config["enrolment.files_kept_d"] = 3650  # by the machine's clock; the test's is years ahead
    return made


async def answered(site: EnrolmentSite, status: str = "COMPLETE", *failed: str) -> None:
    """What waits goes out as a file, and the platform's answer comes in as one."""
    await site.run("enrolment-request", "extract")
    await answer_by_file(site, status, devices=[{"serialNumber": one, **FAILED} for one in failed])
    await site.run("load", "enrolment-response")
    site.clock.now += timedelta(minutes=1)


def wish(site: EnrolmentSite) -> dict[str, object]:
    return {"by": "local", "now": site.clock()}


async def compared(site: EnrolmentSite, **told):
    found = await reconcile.compare(site.working, "SO-1", **told)
    return found.agreed, found.only_here, found.only_there, found.open


async def test_an_order_is_compared_with_what_was_acknowledged_and_when(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", "T-2", "T-3", provider="billing")
    found = await reconcile.compare(site.working, "SO-1")
    assert (found.source, found.as_of, found.held, found.same) == (Source.BOOKS, None, False, True)
    await site.run("enrolment-request", "extract")
    assert (await compared(site))[3] == ("T-1", "T-2", "T-3")
    at = site.clock()
    await answer_by_file(site, "COMPLETE_WITH_ERRORS", devices=[{"serialNumber": "T-3", **FAILED}])
    await site.run("load", "enrolment-response")
    found = await reconcile.compare(site.working, "SO-1")
    assert (found.agreed, found.same, found.held, found.as_of) == (("T-1", "T-2"), True, True, at)
    site.clock.now += timedelta(minutes=1)
    # A return that it refuses for one unit: that one is there still.
    await wishes.give_back(site.database, "SO-1", ["T-1", "T-2"], **wish(site))
    assert await compared(site) == ((), (), (), ("T-1", "T-2"))
    await answered(site, "COMPLETE_WITH_ERRORS", "T-2")
    assert await compared(site) == ((), (), ("T-2",), ())


async def test_an_override_shows_what_it_would_remove_before_anybody_asks_for_it(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", "T-2", provider="billing")
    await answered(site)
    await wishes.give_back(site.database, "SO-1", ["T-2"], **wish(site))
    await answered(site, "ERROR")  # it holds it still
    await site.dispatch("T-3", provider="billing")
    before = len(await rows_of(site.database, enrolment_transaction))
    found = await reconcile.preview_override(site.working, "SO-1")
    assert (found.keeps, found.adds, found.removes) == (("T-1",), ("T-3",), ("T-2",))
    assert (found.source, found.refused) == (Source.BOOKS, 1)
    assert len(await rows_of(site.database, enrolment_transaction)) == before
    await wishes.override(site.database, "SO-1", **wish(site))
    await answered(site)
    found = await reconcile.preview_override(site.working, "SO-1")
    assert (found.keeps, found.adds, found.removes, found.refused) == (("T-1", "T-3"), (), (), 0)


@pytest.mark.parametrize(("failed", "held", "there"), [((), False, ()), (("T-2",), True, ("T-2",))])
async def test_after_a_void_it_holds_what_it_would_not_let_go(site: EnrolmentSite, failed, held, there) -> None:
    await site.dispatch("T-1", "T-2", provider="billing")
    await answered(site)
    await adopting.void(site.working, "SO-1", by="local")
    await answered(site, "COMPLETE_WITH_ERRORS" if failed else "COMPLETE", *failed)
    found = await reconcile.compare(site.working, "SO-1")
    assert (found.held, found.only_there, found.same) == (held, there, not failed)


async def test_what_its_people_say_can_be_given_and_is_compared_instead(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", "T-2", provider="billing")
    await answered(site, "ERROR")
    assert (await compared(site, told=["T-1", "T-9"]))[2] == ("T-1", "T-9")
    await adopting.adopt(site.working, "SO-1", by="local", told=["T-1", "T-9"])
    assert (await reconcile.preview_override(site.working, "SO-1", told=["T-1", "T-9"])).removes == ("T-9",)
    found = await reconcile.compare(site.working, "SO-1")  # by the books it holds what was taken over
    assert (found.agreed, found.same, found.source) == (("T-1",), True, Source.BOOKS)


async def test_a_provider_that_can_be_asked_is_asked(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    with pytest.raises(ServiceError) as refused:
        await reconcile.compare(site.working, "SO-1", told=[])
    assert refused.value.cause == "provider_adaptor"
    assert (await reconcile.compare(site.working, "SO-1")).source is Source.PROVIDER


async def test_upkeep_keeps_what_the_books_are_made_of(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", "T-2", provider="billing")
    await answered(site)
    await site.dispatch("T-3", provider="billing")
    await answered(site)
    await wishes.give_back(site.database, "SO-1", ["T-2"], **wish(site))
    await answered(site)
    before = await reconcile.compare(site.working, "SO-1")
    assert before.agreed == ("T-1", "T-3")
    site.clock.now += timedelta(days=401)
    assert (await upkeep.run(site.working))["transactions"] == 1  # the order; the override says its list anew
    assert [row["request_type"] for row in await rows_of(site.database, enrolment_transaction)] == ["OV", "RE"]
    assert await reconcile.compare(site.working, "SO-1") == before
