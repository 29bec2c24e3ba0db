"""Certificates signed beside the service: the same as here, and signed here when the process beside fails."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
import sys
from contextlib import asynccontextmanager
from dataclasses import replace

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from service.credentials import signing
from service.credentials.authority import Authority, CsrError, Issued, Order, Signed, read_csr
from service.credentials.signing import Signers
from tests.support.certificates import a_csr
from tests.support.fake_link import START

GOOD = [a_csr() for _ in range(3)]
WEAK = a_csr(rsa.generate_private_key(65537, 1024))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("ca"), "prod", START)


def orders(*csrs: bytes) -> list[Order]:
    return [Order("prod", read_csr(one), f"{n:032x}", START, bytes([n + 1] * 20)) for n, one in enumerate(csrs)]


async def sign(signers: Signers, ordered: list[Order]) -> list[Signed]:
    signing = signers.begin()
    for one in ordered:
        await signing.order(one)
    found = [await signing.next() for _ in ordered]
    assert [order for order, _ in found] == ordered
    return [signed for _, signed in found]


@asynccontextmanager
async def beside(authority):
    """Signers whose child is there."""
    signers = Signers({"prod": authority}, together=2)
    try:
        assert len(await sign(signers, orders(*GOOD))) == 3  # nobody waits for the child
        async with asyncio.timeout(60):
            while signers.process_id is None:
                await asyncio.sleep(0.01)
        yield signers
    finally:
        await signers.close()


def content(signed):
    """All of a certificate but its signature, which is different each time."""
    if isinstance(signed, CsrError):
        return signed.cause, str(signed)
    assert isinstance(signed, Issued)
    certificate = x509.load_pem_x509_certificate(signed.pem.encode())
    return certificate.tbs_certificate_bytes, signed.serial, signed.spki_sha256, signed.expires_at


async def test_what_is_signed_beside_is_what_is_signed_here(authority):
    ordered = orders(GOOD[0], WEAK, GOOD[1], GOOD[2], WEAK)
    async with beside(authority) as signers:
        there = await sign(signers, ordered)
        assert signers.process_id is not None
    here = await sign(Signers({"prod": authority}, together=None), ordered)
    assert [content(one) for one in there] == [content(one) for one in here]
    assert [type(one) for one in here] == [Issued, CsrError, Issued, Issued, CsrError]
    ca = x509.load_pem_x509_certificate(authority.ca_pem.encode())
    x509.load_pem_x509_certificate(there[0].pem.encode()).verify_directly_issued_by(ca)


async def test_the_process_beside_signs_while_the_batch_is_still_handled(authority, monkeypatch):
    async with beside(authority) as signers:
        here = []
        monkeypatch.setattr(signers, "sign_here", here.append)
        ordered = orders(*GOOD, GOOD[0])
        signed = await sign(signers, ordered)
        assert [one.spki_sha256 for one in signed] == [one.csr.spki_sha256 for one in ordered]
        assert here == []


async def test_what_the_process_beside_has_not_begun_is_signed_here(authority, monkeypatch):
    """It stands still: it has as many orders as may wait there, the others do not wait for it."""
    monkeypatch.setattr(signing, "ANSWER_S", 0.05)
    async with beside(authority) as signers:
        here, sign_here = [], signers.sign_here
        monkeypatch.setattr(signers, "sign_here", lambda one: here.append(one) or sign_here(one))
        child = signers.process_id
        os.kill(child, signal.SIGSTOP)
        ordered = orders(*GOOD * 3)
        assert [type(one) for one in await sign(signers, ordered)] == [Issued] * 9
        waited = signing.AHEAD * 2
        assert sorted(one.credential_id for one in here[: 9 - waited]) == [
            one.credential_id for one in ordered[waited:]
        ]
        assert len(here) == 9  # late, it was given up
        assert signers.process_id is None


@pytest.mark.parametrize("when", ["before the order", "before the answer"])
async def test_when_the_process_beside_is_killed_nothing_is_lost(authority, caplog, when):
    async with beside(authority) as signers:
        child = signers.process_id
        if when == "before the order":
            os.kill(child, signal.SIGKILL)
            signed = await sign(signers, orders(*GOOD))
        else:
            os.kill(child, signal.SIGSTOP)
            begun = signers.begin()
            for one in orders(*GOOD):
                await begun.order(one)
            os.kill(child, signal.SIGKILL)
            signed = [(await begun.next())[1] for _ in GOOD]
        assert [type(one) for one in signed] == [Issued] * 3
        assert signers.process_id is None
    assert "given up" in caplog.text


async def test_a_batch_that_was_abandoned_leaves_the_next_its_own_answers(authority):
    async with beside(authority) as signers:
        abandoned = signers.begin()
        for one in orders(*GOOD, *GOOD):
            await abandoned.order(one)
        del abandoned
        ordered = [replace(one, serial=bytes(reversed(range(20)))) for one in orders(GOOD[2], GOOD[1])]
        assert [one.spki_sha256 for one in await sign(signers, ordered)] == [one.csr.spki_sha256 for one in ordered]
        assert signers.process_id is not None


@pytest.mark.parametrize("answer", [[], [["", b"", 0]] * 3, 7, [["one"], ["two"]]])
async def test_nonsense_from_the_process_beside_is_not_believed(authority, monkeypatch, answer):
    async with beside(authority) as signers:

        async def receive(_process):
            return answer

        monkeypatch.setattr(signing, "_receive", receive)
        assert [type(one) for one in await sign(signers, orders(*GOOD))] == [Issued] * 3
        assert signers.process_id is None


@pytest.mark.parametrize("together", [4, None])
async def test_few_are_signed_here_and_start_nothing(authority, monkeypatch, together):
    started = []

    async def start(*words, **_more):
        started.append(words)
        raise OSError

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    signers = Signers({"prod": authority}, together=together)
    assert [type(one) for one in await sign(signers, orders(*GOOD))] == [Issued] * 3
    await asyncio.sleep(0)
    assert started == []
    await sign(Signers({"prod": authority}, together=3), orders(*GOOD))
    await asyncio.sleep(0)
    assert len(started) == 1  # which is what the first would have done


async def test_a_process_that_cannot_be_started_is_done_without(authority, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    signers = Signers({"prod": authority}, together=2)
    async with asyncio.timeout(20):
        while "no signing process" not in caplog.text:
            assert [type(one) for one in await sign(signers, orders(*GOOD))] == [Issued] * 3
            await asyncio.sleep(0.01)
    assert [type(one) for one in await sign(signers, orders(*GOOD))] == [Issued] * 3
    assert signers.process_id is None
    await signers.close()


async def test_it_is_over_when_the_service_is(authority):
    """Killed, the service closes nothing itself; the system closes its end of the pipe."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", signing.__name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    frame = msgpack.packb({"prod": [authority.key_pem().reveal(), authority.ca_pem]})
    child.stdin.write(struct.pack(">I", len(frame)) + frame)
    async with asyncio.timeout(60):
        assert await child.stdout.readexactly(4) == struct.pack(">I", 6)
        child.send_signal(signal.SIGTERM)  # as a unit's stop does: the service has not drained yet
        child.stdin.close()
        assert await child.wait() == 0


def test_half_an_order_is_none(authority):
    keys = msgpack.packb({"prod": [authority.key_pem().reveal(), authority.ca_pem]})
    sink = io.BytesIO()
    signing.serve(io.BytesIO(struct.pack(">I", len(keys)) + keys + struct.pack(">I", 100) + b"cut"), sink)
    assert sink.getvalue() == struct.pack(">I", 6) + msgpack.packb("ready")


def test_the_key_is_shown_nowhere(authority):
    key = authority.key_pem()
    text = key.reveal().decode().splitlines()[1]
    assert text not in repr(key) + repr(authority) + repr(Signers({"prod": authority})) + repr(orders(*GOOD))
