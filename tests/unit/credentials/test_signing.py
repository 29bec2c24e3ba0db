"""Certificates signed beside the service: the same as here, and signed here when the process beside fails."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
import sys
from contextlib import asynccontextmanager

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from service.credentials import signing
from service.credentials.authority import Authority, CsrError, Issued, Order, read_csr
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


@asynccontextmanager
async def beside(authority):
    """Signers whose child is there."""
    signers = Signers({"prod": authority}, together=2)
    try:
        assert len(await signers.sign(orders(*GOOD))) == 3  # nobody waits for the child
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
        there = await signers.sign(ordered)
        assert signers.process_id is not None
    here = await Signers({"prod": authority}, together=None).sign(ordered)
    assert [content(one) for one in there] == [content(one) for one in here]
    assert [type(one) for one in here] == [Issued, CsrError, Issued, Issued, CsrError]
    ca = x509.load_pem_x509_certificate(authority.ca_pem.encode())
    x509.load_pem_x509_certificate(there[0].pem.encode()).verify_directly_issued_by(ca)


async def test_when_the_process_beside_is_killed_nothing_is_lost(authority, caplog):
    async with beside(authority) as signers:
        os.kill(signers.process_id, signal.SIGKILL)
        signed = await signers.sign(orders(*GOOD))
        assert [type(one) for one in signed] == [Issued] * 3
        assert signers.process_id is None
    assert "given up" in caplog.text


@pytest.mark.parametrize("together", [4, None])
async def test_few_are_signed_here_and_start_nothing(authority, monkeypatch, together):
    started = []

    async def start(*words, **_more):
        started.append(words)
        raise OSError

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    signers = Signers({"prod": authority}, together=together)
    assert [type(one) for one in await signers.sign(orders(*GOOD))] == [Issued] * 3
    await asyncio.sleep(0)
    assert started == []
    await Signers({"prod": authority}, together=3).sign(orders(*GOOD))
    await asyncio.sleep(0)
    assert len(started) == 1  # which is what the first would have done


async def test_a_process_that_cannot_be_started_is_done_without(authority, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    signers = Signers({"prod": authority}, together=2)
    async with asyncio.timeout(20):
        while "no signing process" not in caplog.text:
            assert [type(one) for one in await signers.sign(orders(*GOOD))] == [Issued] * 3
            await asyncio.sleep(0.01)
    assert [type(one) for one in await signers.sign(orders(*GOOD))] == [Issued] * 3
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
