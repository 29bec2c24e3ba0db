"""Files of a platform that exchanges the generic form: taken once, and only when they are whole and by the right hand."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from service.credentials import cms, keyholder
from service.operations.enrolment import folders, load, providers
from service.operations.enrolment.providers import Adaptor
from service.storage.enrolment_tables import enrolment_batch, enrolment_transaction
from service.storage.job_tables import taken_file
from tests.support.billing import Platform
from tests.support.commands import rows_of
from tests.support.enrolment import ENROLLED, FAILED, SENT, EnrolmentSite, enrolment_site

YEARS = 3650  # the tests' clock is ahead of the one that the program dates certificates with


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return Platform(tmp_path_factory.mktemp("platform"), days=YEARS)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return Platform(tmp_path_factory.mktemp("stranger"), "stranger", days=YEARS)


@pytest.fixture
async def site(database, commands, tmp_path, clock, platform) -> EnrolmentSite:
    made = await enrolment_site(database, commands, tmp_path / "enrolment", clock)
    await providers.create(
        database, "billing", Adaptor.FILE, recipient_pem=platform.pem, signer_pem=platform.pem, by="local", now=clock()
    )
    return made


async def asked(site: EnrolmentSite, platform: Platform) -> dict:
    """Dispatch, request, extract; the platform opens what lies in its outbox with its own program."""
    await site.dispatch("T-1", "T-2", provider="billing", passwords={"admin": "open sesame"})
    await site.run("enrolment-request", "extract")
    (name,) = site.files("outbox/billing")
    path = site.folder / "outbox/billing" / name
    return json.loads(platform.open(path.read_bytes()))


def answer(request: dict, status: str = "COMPLETE", **more) -> bytes:
    (order,) = request["orders"]
    said = {"transactionId": order["transactionId"], "orderId": order["orderId"], "status": status, **more}
    return json.dumps({
        "identifier": "answer-1", "version": "1.0", "interfaceCategory": "DEVICE_ENROLMENT",
        "interfaceType": "RESPONSE", "batchTime": request["batchTime"], "recordCount": 1,
        "providerId": "billing", "orders": [said],
    }).encode()  # fmt: skip


def inbox(site: EnrolmentSite) -> Path:
    folder = site.folder / "inbox/billing"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def our_pem(site: EnrolmentSite) -> str:
    return (site.folder / "own.pem").read_text()


def put(site: EnrolmentSite, platform: Platform, data: bytes, name: str = "a.p7m", *, bare: bool = True) -> bytes:
    envelope = platform.seal(data, our_pem(site))
    signature = platform.sign_bare(envelope) if bare else platform.sign(envelope)
    (inbox(site) / f"{name}{'.sig' if bare else '.p7s'}").write_bytes(signature)
    (inbox(site) / name).write_bytes(envelope)
    return envelope


def report(site: EnrolmentSite, where: str, name: str = "a.p7m") -> dict:
    return json.loads((site.folder / where / "load/billing" / f"{name}.report.json").read_text())


async def unchanged(site: EnrolmentSite) -> None:
    assert (await site.states())[""] == SENT
    assert [row["direction"] for row in await rows_of(site.database, enrolment_batch)] == ["request"]


@pytest.mark.parametrize("bare", [True, False])
async def test_a_platform_s_answer_enrols_the_order(site: EnrolmentSite, platform: Platform, bare: bool) -> None:
    request = await asked(site, platform)
    assert request["orders"][0]["policies"] == {"passwords": {"admin": "open sesame"}}
    put(site, platform, answer(request), bare=bare)
    assert await site.run("load") == {"done": 1}
    assert await site.run("enrolment-response") == {"complete": 1}
    assert await site.states() == {"": ENROLLED, "T-1": ENROLLED, "T-2": ENROLLED}
    assert list(inbox(site).iterdir()) == []
    done = report(site, "done")
    assert (done["outcome"], done["batch"], done["orders"]) == ("done", "answer-1", 1)


async def test_the_platform_checks_our_signature_with_our_certificate(site: EnrolmentSite, platform: Platform) -> None:
    await asked(site, platform)
    (name,) = site.files("outbox/billing")
    path = site.folder / "outbox/billing" / name
    platform.verify(path.read_bytes(), Path(f"{path}.p7s").read_bytes(), our_pem(site), any_time=True)
    assert b"open sesame" not in path.read_bytes()


async def test_the_same_file_counts_once_whatever_it_is_called(site: EnrolmentSite, platform: Platform) -> None:
    request = await asked(site, platform)
    envelope = put(site, platform, answer(request))
    await site.run("load", "enrolment-response")
    (inbox(site) / "again.p7m.sig").write_bytes(platform.sign_bare(envelope))
    (inbox(site) / "again.p7m").write_bytes(envelope)
    assert await site.run("load") == {"repeated": 1}
    assert report(site, "done", "again.p7m")["note"] == "this file was taken before"
    assert len(await rows_of(site.database, taken_file)) == 1
    # The same document in another envelope is another file, but of a batch that is known.
    put(site, platform, answer(request), "third.p7m")
    assert await site.run("load") == {"failed": 1}
    assert report(site, "failed", "third.p7m")["cause"] == "batch_exists"


async def test_an_answer_to_what_was_answered_counts_for_nothing(site: EnrolmentSite, platform: Platform) -> None:
    request = await asked(site, platform)
    put(site, platform, answer(request))
    await site.run("load", "enrolment-response")
    put(site, platform, answer(request, "ERROR").replace(b"answer-1", b"answer-2"))
    await site.run("load")
    assert await site.run("enrolment-response") == {"repeated": 1}
    assert (await site.states())[""] == ENROLLED


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.long)])
async def test_a_file_with_a_flipped_byte_changes_nothing(site: EnrolmentSite, platform: Platform, step: int) -> None:
    request = await asked(site, platform)
    envelope = put(site, platform, answer(request))
    for at in range(0, len(envelope), step):
        changed = bytearray(envelope)
        changed[at] ^= 0x01
        (inbox(site) / f"{at}.p7m").write_bytes(changed)
        (inbox(site) / f"{at}.p7m.sig").write_bytes((inbox(site) / "a.p7m.sig").read_bytes())
    (inbox(site) / "a.p7m").unlink()
    while site.files("inbox") or site.files("work"):  # a run takes a bounded number, what is left in `work` comes next
        await site.run("load")
    assert len(site.files("failed/load")) == len(range(0, len(envelope), step))
    await unchanged(site)
    put(site, platform, answer(request), "good.p7m")
    assert await site.run("load") == {"done": 1}


async def test_half_a_file_changes_nothing_and_the_whole_one_counts_later(
    site: EnrolmentSite, platform: Platform
) -> None:
    request = await asked(site, platform)
    envelope = put(site, platform, answer(request))
    (inbox(site) / "a.p7m").write_bytes(envelope[:100])
    assert await site.run("load") == {"failed": 1}
    assert report(site, "failed")["cause"] == "signature_wrong"
    await unchanged(site)
    (inbox(site) / "a.p7m.sig").write_bytes(platform.sign_bare(envelope))
    (inbox(site) / "a.p7m").write_bytes(envelope)
    assert await site.run("load") == {"done": 1}


async def test_a_file_waits_for_its_signature_and_until_nobody_writes_to_it(
    site: EnrolmentSite, platform: Platform
) -> None:
    request = await asked(site, platform)
    put(site, platform, answer(request))
    signature = inbox(site) / "a.p7m.sig"
    kept = signature.read_bytes()
    signature.unlink()
    assert await site.run("load") == {"waiting": 1}
    signature.write_bytes(kept)
    now = site.clock().timestamp()
    os.utime(inbox(site) / "a.p7m", (now, now))
    assert await site.run("load") == {"waiting": 1}
    assert site.files("inbox/billing") == ["a.p7m"]
    site.clock.now += timedelta(seconds=5)
    assert await site.run("load") == {"done": 1}


async def test_a_file_of_another_hand_or_for_another_changes_nothing(
    site: EnrolmentSite, platform: Platform, stranger: Platform
) -> None:
    request = await asked(site, platform)
    put(site, stranger, answer(request), "stranger.p7m")
    envelope = platform.seal(answer(request), stranger.pem)
    (inbox(site) / "for-another.p7m.sig").write_bytes(platform.sign_bare(envelope))
    (inbox(site) / "for-another.p7m").write_bytes(envelope)
    plain = answer(request)
    (inbox(site) / "plain.p7m.sig").write_bytes(platform.sign_bare(plain))
    (inbox(site) / "plain.p7m").write_bytes(plain)
    assert await site.run("load") == {"failed": 3}
    causes = {name: report(site, "failed", f"{name}.p7m")["cause"] for name in ("stranger", "for-another", "plain")}
    assert causes == {"stranger": "signature_wrong", "for-another": "cms_unreadable", "plain": "cms_unreadable"}
    await unchanged(site)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 10000, b"\xff\xfe", b'{"identifier": "x"}'])
async def test_a_signed_file_that_is_no_document_changes_nothing(
    site: EnrolmentSite, platform: Platform, data: bytes
) -> None:
    await asked(site, platform)
    put(site, platform, data)
    assert await site.run("load") == {"failed": 1}
    assert report(site, "failed")["cause"] == "document_illegal"
    await unchanged(site)


async def test_a_document_of_another_provider_or_transaction_changes_nothing(
    site: EnrolmentSite, platform: Platform
) -> None:
    request = await asked(site, platform)
    put(site, platform, answer(request).replace(b'"billing"', b'"dep"'))
    assert await site.run("load") == {"failed": 1}
    assert report(site, "failed")["cause"] == "provider_foreign"
    transaction = request["orders"][0]["transactionId"].encode()
    put(site, platform, answer(request).replace(transaction, b"0" * 32), "b.p7m")
    assert await site.run("load") == {"done": 1}
    assert await site.run("enrolment-response") == {"failed_batches": 1}
    causes = {row["cause"] for row in await rows_of(site.database, enrolment_batch) if row["state"] == "failed"}
    assert causes == {"transaction_foreign"}
    assert (await site.states())[""] == SENT


async def test_a_platform_answers_no_transaction_of_another_provider(site: EnrolmentSite, platform: Platform) -> None:
    await site.dispatch("T-1", provider="dep")
    await site.run("enrolment-request")
    (asked_of_dep,) = await rows_of(site.database, enrolment_transaction)
    order = {"transactionId": asked_of_dep["transaction_id"], "orderId": "SO-1"}
    put(site, platform, answer({"batchTime": "2030-01-02T00:00:00Z", "orders": [order]}))
    assert await site.run("load") == {"done": 1}
    assert await site.run("enrolment-response") == {"failed_batches": 1}
    assert await site.states() == {"": SENT, "T-1": SENT}


async def test_an_answer_about_a_foreign_device_changes_nothing(site: EnrolmentSite, platform: Platform) -> None:
    request = await asked(site, platform)
    devices = [{"serialNumber": "T-1", "status": "DONE"}, {"serialNumber": "T-9", "status": "FAILED"}]
    put(site, platform, answer(request, "COMPLETE_WITH_ERRORS", devices=devices))
    await site.run("load")
    assert await site.run("enrolment-response") == {"failed_batches": 1}
    assert (await site.states())[""] == SENT


async def test_errors_come_as_object_or_array(site: EnrolmentSite, platform: Platform) -> None:
    request = await asked(site, platform)
    errors = {"code": "B-7", "message": "no contract"}
    put(site, platform, answer(request, "ERROR", errors=errors))
    await site.run("load", "enrolment-response")
    assert (await site.states())[""] == FAILED
    assert [notes for _, _, notes in await site.events()] == ["OR ERROR\nB-7: no contract"]


async def test_a_run_that_was_cut_off_is_taken_up_again(site: EnrolmentSite, platform: Platform, monkeypatch) -> None:
    request = await asked(site, platform)
    put(site, platform, answer(request))

    def power_cut(*_, **__):
        raise KeyboardInterrupt

    # 1. After the file was taken, before anything was stored.
    with monkeypatch.context() as patched:
        patched.setattr(cms, "open_signed", power_cut)
        with pytest.raises(KeyboardInterrupt):
            await load.run(site.working)
    assert site.files("work/load") == ["billing/a.p7m"]
    # 2. After it was stored, before it was laid aside.
    with monkeypatch.context() as patched:
        patched.setattr(folders, "lay_aside", power_cut)
        with pytest.raises(KeyboardInterrupt):
            await load.run(site.working)
    assert len(await rows_of(site.database, enrolment_batch)) == 2
    assert await site.run("load") == {"repeated": 1}
    assert site.files("done/load") == ["billing/a.p7m"]
    assert await site.run("enrolment-response") == {"complete": 1}


async def test_a_take_that_was_cut_off_between_its_two_renames_goes_on(site: EnrolmentSite, platform: Platform) -> None:
    request = await asked(site, platform)
    put(site, platform, answer(request))
    work = site.folder / "work/load/billing"
    work.mkdir(parents=True)
    (inbox(site) / "a.p7m.sig").rename(work / "a.p7m.sig")
    assert await site.run("load") == {"done": 1}
    assert list(work.iterdir()) == []


async def test_a_file_that_is_taken_away_under_our_eyes_is_no_fault(
    site: EnrolmentSite, platform: Platform, monkeypatch
) -> None:
    request = await asked(site, platform)
    put(site, platform, answer(request), "a.p7m")
    put(site, platform, answer(request), "b.p7m")
    real = folders._signature_of

    def gone(path: Path) -> Path | None:
        found = real(path)
        if path.name == "a.p7m":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(folders, "_signature_of", gone)
    assert await site.run("load") == {"done": 1}


async def test_what_is_no_file_of_ours_is_left_where_it_is(site: EnrolmentSite, platform: Platform) -> None:
    await asked(site, platform)
    for name in ("notes.txt", ".hidden.p7m", "a b.p7m", "..p7m"):
        (inbox(site) / name).write_bytes(b"x")
    (inbox(site) / "folder.p7m").mkdir()
    secret = site.folder / "own.key"
    (inbox(site) / "link.p7m").symlink_to(secret)
    (inbox(site) / "link.p7m.sig").write_bytes(b"x")
    assert await site.run("load") == {"ignored": 6}
    assert secret.exists()
    assert (inbox(site) / "link.p7m").is_symlink()


async def test_a_file_above_the_bound_is_not_read(site: EnrolmentSite, platform: Platform, monkeypatch) -> None:
    request = await asked(site, platform)
    put(site, platform, answer(request))
    monkeypatch.setattr(folders, "MAX_BYTES", 10)
    monkeypatch.setattr(folders, "_OVERHEAD", 10)
    assert await site.run("load") == {"failed": 1}
    assert report(site, "failed")["cause"] == "cms_too_large"
    await unchanged(site)


async def test_without_our_key_nothing_is_taken(site: EnrolmentSite, platform: Platform) -> None:
    from service.errors import ServiceError

    request = await asked(site, platform)
    put(site, platform, answer(request))
    (site.folder / "own.key").rename(site.folder / "away")
    with pytest.raises(ServiceError, match="firstlight enrolment certificate"):
        await site.run("load")
    assert site.files("inbox/billing") == ["a.p7m"]
    (site.folder / "away").rename(site.folder / "own.key")
    assert keyholder.load(site.folder).key_path.exists()
    assert await site.run("load") == {"done": 1}


@pytest.mark.parametrize("after", ["extract", "transformation"])
async def test_files_of_ours_that_are_on_their_way_outlive_a_new_key(site: EnrolmentSite, monkeypatch, after) -> None:
    monkeypatch.setattr(keyholder, "RSA_BITS", 2048)
    await site.dispatch("T-1")
    await site.run("enrolment-request", "extract")
    if after == "transformation":
        await site.run("transformation")
        site.clock.now += timedelta(minutes=5)
        await site.run("transformation")
        assert site.files("inbox/dep") != []
    keyholder.rotate(site.folder, "firstlight", site.clock())
    await site.run("transformation")
    site.clock.now += timedelta(minutes=5)
    await site.run("transformation", "load", "enrolment-response")
    assert site.files("failed") == []
    assert (await site.states())[""] == ENROLLED
