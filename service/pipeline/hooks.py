"""Asks activation hooks, outside of the batches, so that a slow one delays nobody else's devices.

Owns who is asked when: at most 32 at once over all groups and 8 of one group; a group whose hook did not answer three
times in a row gets one at a time until it answers again. What the answer means is domain/hook.py's; how it is asked,
http/hooks.py's. A repeat of a message whose question is open asks nothing: the answer goes to the same topic.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.domain.hook import Answer, HookError, Question, Verdict
from service.pipeline.bounds import Bounds
from service.pipeline.jobs import Job
from service.pipeline.record import Record

log = logging.getLogger(__name__)

Ask = Callable[[Question], Awaitable[Answer]]
SLOW_AFTER = 3  # questions in a row without an answer


async def no_hooks(question: Question) -> Answer:
    raise HookError(f"this service asks no hooks, and the group has one: {question.hook[:64]}")


@dataclass(frozen=True, slots=True)
class _Waiting:
    question: Question
    job: Job
    until: float  # monotonic seconds


class HookRunner:
    """`submit` takes a question and never blocks; `answered` gets the job back with its answer."""

    def __init__(
        self,
        ask: Ask,
        bounds: Bounds,
        record: Record,
        *,
        monotonic: Callable[[], float],
        answered: Callable[[Job], None],
    ) -> None:
        self._ask = ask
        self._bounds = bounds
        self._record = record
        self._monotonic = monotonic
        self._answered = answered
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()  # by group, in turn
        self._open: set[str] = set()  # credential ids whose question waits or is being asked
        self._running: Counter[str] = Counter()  # by group
        self._silent: Counter[str] = Counter()  # by group: in a row
        self._arrived = asyncio.Event()

    @property
    def idle(self) -> bool:
        return not self._open

    def submit(self, question: Question, job: Job) -> None:
        if question.credential_id in self._open:
            self._record.count("hook_repeated")
            return
        waiting = self._waiting.setdefault(question.group_id, deque())
        if len(waiting) >= self._bounds.hooks_waiting:
            self._give(job, Answer(Verdict.TIMED_OUT, "too many of this group wait for their hook"))
            return
        self._open.add(question.credential_id)
        waiting.append(_Waiting(question, job, self._monotonic() + self._bounds.hook_timeout_s))
        self._arrived.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._arrived.clear()
                while (one := self._next()) is not None:
                    self._running[one.question.group_id] += 1
                    group.create_task(self._carry_out(one), name=f"hook {one.question.group_id}")
                await self._arrived.wait()

    def _next(self) -> _Waiting | None:
        """The next question that may be asked now, groups in turn; what has waited too long is answered on the way."""
        for group_id in list(self._waiting):
            waiting = self._waiting[group_id]
            while waiting and waiting[0].until <= self._monotonic():
                late = waiting.popleft()
                self._close(late, Answer(Verdict.TIMED_OUT, "no turn in time"))
            if not waiting:
                del self._waiting[group_id]
            elif self._running.total() < self._bounds.hooks_at_once and self._running[group_id] < self._room(group_id):
                self._waiting.move_to_end(group_id)
                return waiting.popleft()
        return None

    def _room(self, group_id: str) -> int:
        return 1 if self._silent[group_id] >= SLOW_AFTER else self._bounds.hooks_of_group

    async def _carry_out(self, one: _Waiting) -> None:
        group_id = one.question.group_id
        try:
            answer = await self._answer(one)
        finally:
            self._running[group_id] -= 1
            self._running += Counter()  # forgets zeros
        if answer.verdict is Verdict.TIMED_OUT:
            self._silent[group_id] = min(self._silent[group_id] + 1, SLOW_AFTER)
        else:
            del self._silent[group_id]
        self._close(one, answer)
        self._arrived.set()

    async def _answer(self, one: _Waiting) -> Answer:
        try:
            async with asyncio.timeout(one.until - self._monotonic()):
                return await self._ask(one.question)
        except TimeoutError:
            return Answer(Verdict.TIMED_OUT, f"no answer in {self._bounds.hook_timeout_s:g} s")
        except HookError as error:
            return Answer(Verdict.FAILED, str(error)[:200])
        except Exception:
            log.exception("the hook of group %s failed", one.question.group_id)
            return Answer(Verdict.FAILED, "a fault in the hook")

    def _close(self, one: _Waiting, answer: Answer) -> None:
        self._open.discard(one.question.credential_id)
        self._give(one.job, answer)

    def _give(self, job: Job, answer: Answer) -> None:
        self._record.count("hook_asked")
        job.answer = answer
        self._answered(job)
