"""Device certificates, one at a time or many together: here, or beside the service where there are many.

Owns the child process that signs, from its start at the first large order to its end, and falls back to signing here
whenever that process is not there. Decides nothing about who gets a certificate. `python -m service.credentials.signing`
is the child: it reads the authorities and then orders from its standard input, and is over when that ends, so that it
never outlives a service that was killed. Why: docs/decisions/0020-certificates-beside.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import msgpack

from service.credentials.authority import Authority, CsrError, Issued, Order, Signed, read_csr

log = logging.getLogger(__name__)

# Fewer are signed here: the way there and back would cost as much. And all are, where the child has no core of its own.
TOGETHER = 4 if (os.cpu_count() or 1) > 1 else None
TURN = 8  # certificates made here before others get a turn
ANSWER_S = 10.0  # for one order, however many certificates
START_S = 30.0
RETRY_S = 60.0  # after the child failed
_LENGTH = struct.Struct(">I")
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


class Signers:
    """`sign` what was ordered; `close` at the end. `together`: so many at least are worth the child (None: no child)."""

    def __init__(self, authorities: Mapping[str, Authority], *, together: int | None = TOGETHER) -> None:
        self._authorities = authorities
        self._together = together
        self._starting: asyncio.Task[None] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._retry_at = 0.0

    @property
    def environments(self) -> frozenset[str]:
        """Those that issue certificates."""
        return frozenset(self._authorities)

    @property
    def process_id(self) -> int | None:
        """Of the child that signs; None while there is none."""
        return self._child.pid if self._child is not None else None

    async def sign(self, orders: Sequence[Order]) -> list[Signed]:
        """One certificate, or the reason against it, for each order and in that order. Raises nothing of its own."""
        if self._together is not None and len(orders) >= self._together:
            if self._child is not None:
                return await self._sign_with(self._child, orders)
            self._start()
        return [_sign(self._authorities[one.environment], one) for one in orders]

    async def _sign_with(self, child: asyncio.subprocess.Process, orders: Sequence[Order]) -> list[Signed]:
        """Half of them there and half of them here, so that both are done at the same time."""
        first, rest = orders[: len(orders) // 2], orders[len(orders) // 2 :]
        asked = asyncio.create_task(self._beside(child, first), name="signing beside")
        try:
            here = []
            for number, one in enumerate(rest):
                if number % TURN == 0:
                    await asyncio.sleep(0)
                here.append(_sign(self._authorities[one.environment], one))
            return [*await asked, *here]
        finally:
            asked.cancel()

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._give_up()

    def _start(self) -> None:
        """In the background: nobody waits for it."""
        starting = self._starting is not None and not self._starting.done()
        if not starting and asyncio.get_running_loop().time() >= self._retry_at:
            self._starting = asyncio.create_task(self._launch(), name="signing process")

    async def _launch(self) -> None:
        child = None
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            keys = {name: [one.key_pem().reveal(), one.ca_pem] for name, one in self._authorities.items()}
            async with asyncio.timeout(START_S):
                await _ask(child, keys)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            log.warning("no signing process, certificates are signed here: %s", type(error).__name__)
            self._retry_at = asyncio.get_running_loop().time() + RETRY_S
            await _end(child)
        except asyncio.CancelledError:
            await _end(child)
            raise
        else:
            self._child = child
            log.info("certificates are signed by a process of their own", extra={"process_id": child.pid})

    async def _beside(self, child: asyncio.subprocess.Process, orders: Sequence[Order]) -> list[Signed]:
        """By the child, or here when it fails. Raises nothing of its own."""
        try:
            async with asyncio.timeout(ANSWER_S):
                answers = await _ask(child, [_packed(one) for one in orders])
            return [_answered(one, answer) for one, answer in zip(orders, answers, strict=True)]
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            log.warning("the signing process failed and is given up: %s", type(error).__name__)
            await self._give_up()
        return [_sign(self._authorities[one.environment], one) for one in orders]

    async def _give_up(self) -> None:
        child, self._child = self._child, None
        self._retry_at = asyncio.get_running_loop().time() + RETRY_S
        await _end(child)


async def _ask(child: asyncio.subprocess.Process, message: object) -> Any:
    """Raises OSError, EOFError and ValueError when the child is gone or says nonsense."""
    assert child.stdin is not None
    assert child.stdout is not None
    payload = msgpack.packb(message)
    child.stdin.write(_LENGTH.pack(len(payload)) + payload)
    await child.stdin.drain()
    (length,) = _LENGTH.unpack(await child.stdout.readexactly(_LENGTH.size))
    return msgpack.unpackb(await child.stdout.readexactly(length))


async def _end(child: asyncio.subprocess.Process | None) -> None:
    if child is None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.kill()  # it holds nothing that could be lost
    assert child.stdin is not None
    child.stdin.close()
    await child.wait()


def _packed(order: Order) -> list[object]:
    return [
        order.environment,
        order.csr.der,
        order.credential_id,
        (order.now - _EPOCH) // _MICROSECOND,
        order.serial,
    ]


def _answered(order: Order, answer: Sequence[Any]) -> Signed:
    if len(answer) == 2:
        return CsrError(*answer)
    pem, serial, expires_us = answer
    return Issued(pem, serial, order.csr.spki_sha256, _EPOCH + expires_us * _MICROSECOND)


def _sign(authority: Authority, order: Order) -> Signed:
    try:
        return authority.sign_csr(order.csr, order.credential_id, order.now, order.serial)
    except CsrError as error:
        return error


# -- the child --------------------------------------------------------------------------------------------------------


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Take the authorities and then orders from `source` until it ends; nothing is written anywhere but to `sink`."""
    keys = _read(source)
    if keys is None:
        return
    authorities = {name: Authority.from_pem(key, certificate) for name, (key, certificate) in keys.items()}
    _write(sink, "ready")
    while (orders := _read(source)) is not None:
        _write(sink, [_answer(authorities, *one) for one in orders])


def _answer(
    authorities: Mapping[str, Authority], environment: str, der: bytes, credential_id: str, now_us: int, serial: bytes
) -> list[object]:
    order = Order(environment, read_csr(der), credential_id, _EPOCH + now_us * _MICROSECOND, serial)
    signed = _sign(authorities[environment], order)
    if isinstance(signed, CsrError):
        return [signed.cause, str(signed)]
    return [signed.pem, signed.serial, (signed.expires_at - _EPOCH) // _MICROSECOND]


def _read(source: BinaryIO) -> Any:
    """None at the end."""
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    payload = source.read(length)
    return msgpack.unpackb(payload) if len(payload) == length else None


def _write(sink: BinaryIO, message: object) -> None:
    payload = msgpack.packb(message)
    sink.write(_LENGTH.pack(len(payload)) + payload)
    sink.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which still drains
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # and so is the end of its unit; it ends with its input
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # the pipe may be gone: nothing is left to flush
