"""Device certificates, here or beside the service, where there are many.

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
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import msgpack

from service.credentials.authority import Authority, CsrError, Issued, Order, Signed, read_csr

log = logging.getLogger(__name__)

# So many go to the child at a time; fewer are signed here. And all are, where the child has no core of its own.
TOGETHER = 8 if (os.cpu_count() or 1) > 1 else None
AHEAD = 3  # orders that wait at the child: it is never idle, and what it has not begun can still be signed here
ANSWER_S = 10.0  # for the certificates of one order
START_S = 30.0
RETRY_S = 60.0  # after the child failed
_LENGTH = struct.Struct(">I")
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


class Signers:
    """`begin` for the certificates of a batch; `close` at the end. `together`: so many go to the child at a time (None:
    no child).
    """

    def __init__(self, authorities: Mapping[str, Authority], *, together: int | None = TOGETHER) -> None:
        self._authorities = authorities
        self.together = together
        self._starting: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._retry_at = 0.0

    @property
    def environments(self) -> frozenset[str]:
        """Those that issue certificates."""
        return frozenset(self._authorities)

    @property
    def process_id(self) -> int | None:
        """Of the child that signs; None while there is none."""
        return self._child.process_id if self._child is not None and not self._child.gone else None

    def begin(self) -> Signing:
        """The certificates of one batch."""
        return Signing(self)

    def child(self) -> Child | None:
        """The child, if it is there; otherwise it is started in the background, and nobody waits for it."""
        if self._child is not None and not self._child.gone:
            return self._child
        now = asyncio.get_running_loop().time()
        if self._child is not None:
            self._child, self._retry_at = None, now + RETRY_S
        starting = self._starting is not None and not self._starting.done()
        if not starting and now >= self._retry_at:
            self._starting = asyncio.create_task(self._launch(), name="signing process")
        return None

    def sign_here(self, order: Order) -> Signed:
        return _sign(self._authorities[order.environment], order)

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._child is not None:
            await self._child.close()

    async def _launch(self) -> None:
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            keys = {name: [one.key_pem().reveal(), one.ca_pem] for name, one in self._authorities.items()}
            async with asyncio.timeout(START_S):
                _send(process, keys)
                await _receive(process)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            log.warning("no signing process, certificates are signed here: %s", type(error).__name__)
            self._retry_at = asyncio.get_running_loop().time() + RETRY_S
            await _end(process)
        except asyncio.CancelledError:
            await _end(process)
            raise
        else:
            self._child = Child(process)
            log.info("certificates are signed by a process of their own", extra={"process_id": process.pid})


class Signing:
    """The certificates of one batch. `order` them all, then take them with `next`.

    The child signs from the first on, while the batch is still being handled; what it has not begun when the
    certificates are wanted is signed here from the last on, until both meet.
    """

    def __init__(self, signers: Signers) -> None:
        self._signers = signers
        self._orders: list[Order] = []
        self._signed: list[Signed | None] = []
        self._asked: deque[tuple[int, int, Child, asyncio.Future[Any]]] = deque()  # first, end, by whom, the answer
        self._given = 0  # orders before this one went to the child
        self._here = 0  # orders from this one on are signed here
        self._taken = 0

    async def order(self, order: Order) -> None:
        """One more."""
        self._orders.append(order)
        self._signed.append(None)
        self._here = len(self._orders)
        together = self._signers.together
        if together is not None and self._here % together == 0:
            self._hand_over(together)
            await asyncio.sleep(0)  # the child's answers come in, and others have their turn

    async def next(self) -> tuple[Order, Signed]:
        """The next of what was ordered, with its certificate or the reason against it. Raises nothing of its own."""
        at, self._taken = self._taken, self._taken + 1
        while (signed := self._signed[at]) is None:
            await self._go_on()
        return self._orders[at], signed

    async def _go_on(self) -> None:
        """Take what the child has answered, or else sign some here, or else wait for the child."""
        together = self._signers.together or len(self._orders)
        self._hand_over(together)
        if self._asked and (self._asked[0][-1].done() or self._given == self._here):
            await self._collect(*self._asked.popleft())
            return
        first = max(self._given, self._here - together)
        self._sign_here(first, self._here)
        self._here = first
        await asyncio.sleep(0)

    def _hand_over(self, together: int) -> None:
        while self._here - self._given >= together and self._signers.together is not None:
            child = self._signers.child()
            if child is None or not child.has_room:
                return
            first, self._given = self._given, self._given + together
            answer = child.ask([_packed(one) for one in self._orders[first : self._given]])
            self._asked.append((first, self._given, child, answer))

    async def _collect(self, first: int, end: int, child: Child, answer: asyncio.Future[Any]) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                answers = await answer
            orders = self._orders[first:end]
            self._signed[first:end] = [_answered(one, given) for one, given in zip(orders, answers, strict=True)]
        except (EOFError, TimeoutError, TypeError, ValueError) as error:
            child.kill(error)
            self._sign_here(first, end)

    def _sign_here(self, first: int, end: int) -> None:
        self._signed[first:end] = [self._signers.sign_here(one) for one in self._orders[first:end]]


class Child:
    """The process that signs, and the orders that it has not answered. It answers them in their order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._reader = asyncio.create_task(self._read(), name="signing answers")
        self.gone = False

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def has_room(self) -> bool:
        return not self.gone and len(self._asked) < AHEAD

    def ask(self, orders: list[object]) -> asyncio.Future[Any]:
        """The answer, or EOFError. Whoever does not want it any more just forgets it."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        self._asked.append(answer)
        _send(self._process, orders)
        return answer

    def kill(self, why: Exception) -> None:
        """It is late or talks nonsense."""
        if not self.gone:
            log.warning("the signing process failed and is given up: %s", type(why).__name__)
            self.gone = True
            _kill(self._process)

    async def close(self) -> None:
        self.gone = True
        _kill(self._process)
        await self._reader

    async def _read(self) -> None:
        """Until it is gone."""
        try:
            while True:
                answers = await _receive(self._process)
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_result(answers)
        except (OSError, EOFError, ValueError, IndexError) as error:
            self.kill(error)
        finally:
            self.gone = True
            for answer in self._asked:
                if not answer.done():
                    answer.set_exception(EOFError("the signing process is gone"))
            await _end(self._process)


def _seen(answer: asyncio.Future[Any]) -> None:
    """Asyncio complains of an error that nobody has looked at; an order that is no longer wanted is no fault."""
    if not answer.cancelled():
        answer.exception()


def _send(process: asyncio.subprocess.Process, message: object) -> None:
    assert process.stdin is not None
    payload = msgpack.packb(message)
    process.stdin.write(_LENGTH.pack(len(payload)) + payload)


async def _receive(process: asyncio.subprocess.Process) -> Any:
    """Raises OSError, EOFError and ValueError when the child is gone or says nonsense."""
    assert process.stdout is not None
    (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
    return msgpack.unpackb(await process.stdout.readexactly(length))


async def _end(process: asyncio.subprocess.Process | None) -> None:
    if process is None:
        return
    _kill(process)
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # it holds nothing that could be lost


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
