"""The list of refused certificates: what the database says, whatever has become of the file, and one writer at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from service.brokers.gate import GateError
from service.brokers.mosquitto import certificates
from service.brokers.mosquitto.files import alone
from service.brokers.mosquitto.render import prepare, render
from service.brokers.mosquitto.revocation import RENEWED, RevocationList
from tests.support.mosquitto import Remembered, make_issuer
from tests.unit.brokers.test_mosquitto_files import plan

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ISSUER = make_issuer()


class Place:
    """A list on files, the database that it is made from, and how often the broker was told to reload."""

    def __init__(self, folder, *serials: int) -> None:
        self.plan = plan(folder)
        prepare(self.plan)
        self.path = self.plan.crl
        self.database = Remembered(*serials)
        self.reloads = 0
        self.list = RevocationList(self.path, ISSUER, self.database, self._reload)

    async def _reload(self) -> None:
        self.reloads += 1

    def refused(self) -> set[int]:
        return certificates.revoked_serials(self.path.read_bytes())


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path, 7, 8)


async def test_a_list_that_is_missing_is_made_from_the_database_and_somebody_is_told(place) -> None:
    assert "missing" in await place.list.settle(NOW)
    assert place.refused() == {7, 8}
    assert (await place.list.settle(NOW), place.reloads) == ("", 0)


@pytest.mark.parametrize("damage", ["half", "empty", "a byte", "another CA's", "old"])
async def test_a_damaged_list_is_made_again_and_somebody_is_told(place, damage: str) -> None:
    await place.list.settle(NOW)
    whole = place.path.read_bytes()
    spoiled = {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "a byte": whole.replace(whole[100:101], b"A" if whole[100:101] != b"A" else b"B", 1),
        "another CA's": certificates.revocation_list(make_issuer(), {7, 8}, NOW),
        "old": certificates.revocation_list(ISSUER, {7, 8}, NOW - certificates.CRL_LIFE + RENEWED - timedelta(days=1)),
    }[damage]
    assert spoiled != whole
    place.path.write_bytes(spoiled)
    assert await place.list.compare(NOW)
    assert place.refused() == {7, 8}
    assert place.reloads == 1
    certificates.read_list(place.path.read_bytes(), ISSUER)


async def test_while_running_the_list_is_compared_with_the_database_and_what_lacks_is_told(place) -> None:
    await place.list.settle(NOW)
    place.path.write_bytes(certificates.revocation_list(ISSUER, {7}, NOW))
    assert "1 revoked" in await place.list.compare(NOW)
    assert (place.refused(), place.reloads) == ({7, 8}, 1)
    place.database.now = {8}  # the other one has run out
    assert (await place.list.compare(NOW), place.reloads) == ("", 2)
    assert place.refused() == {8}
    assert (await place.list.compare(NOW), place.reloads) == ("", 2)


async def test_a_broker_that_could_not_be_told_to_reload_is_told_at_the_next_look(place) -> None:
    async def fails() -> None:
        raise GateError("no such process")

    place.list._reload = fails
    with pytest.raises(GateError):
        await place.list.compare(NOW)
    assert place.refused() == {7, 8}
    place.list._reload = place._reload
    assert (await place.list.compare(NOW), place.reloads) == ("", 1)
    assert (await place.list.compare(NOW), place.reloads) == ("", 1)


async def test_what_an_older_list_refuses_is_taken_over_before_anything_is_written(place) -> None:
    place.path.write_bytes(certificates.revocation_list(ISSUER, {9}, NOW))
    await place.list.settle(NOW)
    assert place.database.taken == [{9}]


async def test_what_is_added_stays_refused_and_the_broker_is_told_each_time(place) -> None:
    await place.list.add({9}, NOW)
    await place.list.add({9}, NOW)
    await place.list.add({10}, NOW)
    assert (place.refused(), place.reloads) == ({7, 8, 9, 10}, 3)


async def test_a_rendering_at_the_same_moment_does_not_lose_what_is_added(place) -> None:
    await place.list.settle(NOW)
    read, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Remembered):
        """Has read the database when somebody is revoked."""

        async def serials(self) -> set[int]:
            found = {7, 8}
            read.set()
            await go_on.wait()
            return found

    place.path.unlink()  # so that the rendering writes
    rendering = asyncio.create_task(RevocationList(place.path, ISSUER, Slow()).settle(NOW))
    await read.wait()
    place.database.now.add(9)
    adding = asyncio.create_task(place.list.add({9}, NOW))
    assert (await asyncio.wait({adding}, timeout=0.1))[0] == set()
    go_on.set()
    await asyncio.gather(rendering, adding)
    assert place.refused() == {7, 8, 9}


async def test_a_lock_that_another_process_keeps_is_a_gate_error(place, monkeypatch) -> None:
    monkeypatch.setattr("service.brokers.mosquitto.files.LOCKED_S", 0.05)
    with alone(place.plan.directory), pytest.raises(GateError):
        await place.list.add({9}, NOW)
    await place.list.add({9}, NOW)


async def test_a_rendering_of_the_other_files_leaves_the_list_alone(place) -> None:
    await place.list.settle(NOW)
    render(place.plan, ISSUER, [], None, NOW)
    assert place.refused() == {7, 8}
    place.path.unlink()
    render(place.plan, ISSUER, [], None, NOW)  # as of a new environment
    assert place.refused() == set()
    assert "2 revoked" in await place.list.settle(NOW)


async def test_while_an_authority_is_exchanged_both_refuse_the_same_and_brokers_trust_both(tmp_path) -> None:
    following = make_issuer()
    both = replace(ISSUER, trusted=(following.certificate,), beside=(following,))
    place = Place(tmp_path, 7, 8)
    place.list = RevocationList(place.path, both, place.database)
    for settled in ("missing", ""):
        assert settled in await place.list.settle(NOW)
    end = b"-----END X509 CRL-----\n"
    lists = [one + end for one in place.path.read_bytes().split(end)[:-1]]
    assert len(lists) == 2
    for one, of in zip(lists, (ISSUER, following), strict=True):
        found = x509.load_pem_x509_crl(one)
        assert found.is_signature_valid(of.certificate.public_key())
        assert {entry.serial_number for entry in found} == {7, 8}
    less = certificates.revocation_list(following, {7}, NOW)
    for spoiled in (lists[0], lists[0] * 2, lists[1] + lists[0], lists[0] + less):
        place.path.write_bytes(spoiled)
        assert await place.list.settle(NOW)
        assert await place.list.settle(NOW) == ""
    place.list = RevocationList(place.path, ISSUER, place.database)  # it is over
    assert await place.list.settle(NOW)
    assert place.path.read_bytes().count(b"BEGIN") == 1
    assert x509.load_pem_x509_certificates(certificates.pem(both)) == [ISSUER.certificate, following.certificate]
