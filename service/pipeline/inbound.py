"""Messages from the links: which are looked at, which wait, which are refused at once.

Owns the checks before a device is looked up: topic, size, session bucket, decoding, server nonce, and the bounded
queues behind them with their overall budgets. Stores nothing and never blocks. Source: docs/protocol.md, 4.9 and 8.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import datetime

from device_sdk.wire import codes, limits, topics
from service.domain.changes import Trace
from service.errors import Secret, ServiceError
from service.handlers import hello
from service.mqtt.port import SPACES, Inbound, Link, Role, root_of
from service.pipeline.bounds import Bounds
from service.pipeline.calls import Call
from service.pipeline.jobs import FairQueue, Job
from service.pipeline.record import Record
from service.pipeline.throttle import Bucket, BucketTable
from service.protocol import encode, schemas
from service.protocol.decode import Decoded, RequestError, decode, encoding_of

_VERBS = {
    Role.BOOTSTRAP: schemas.BOOTSTRAP,
    Role.OPERATIONAL: schemas.OPERATIONAL,
    Role.WAREHOUSE: schemas.WAREHOUSE,
}

Send = Callable[[Link, str, bytes], None]
Fetch = Callable[[Job], bool]  # True when it was dealt with at once


class Admission:
    """`deliver` takes one message; `take_hellos` and `take_batch` give what may be worked on now."""

    def __init__(
        self,
        bounds: Bounds,
        record: Record,
        nonce_keys: Sequence[Secret],
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        send: Send,
        fetch: Fetch,
        root: str = topics.ROOT,
    ) -> None:
        now = monotonic()
        self._bounds = bounds
        self._record = record
        self.nonce_keys = tuple(nonce_keys)
        self._clock = clock
        self._monotonic = monotonic
        self._send = send
        self._fetch = fetch
        self._root = root
        self._sessions = BucketTable(bounds.session_rate, bounds.session_burst, bounds.bucket_table)
        self._credentials = BucketTable(bounds.credential_rate, bounds.credential_burst, bounds.bucket_table)
        self._refused_at: OrderedDict[str, float] = OrderedDict()
        self._hellos = FairQueue(bounds.queued_hellos, bounds.queued_per_session)
        self._activates = FairQueue(bounds.queued_activates, bounds.queued_per_session)
        self._requests: deque[Job] = deque()
        self._hello_budget = Bucket(bounds.hello_rate, bounds.hello_burst, now)
        self._activate_budget = Bucket(bounds.activate_rate, bounds.activate_burst, now)
        self.hello_arrived = asyncio.Event()
        self.job_arrived = asyncio.Event()
        self.closed = False

    @property
    def idle(self) -> bool:
        return not (len(self._hellos) or len(self._activates) or self._requests)

    def deliver(self, message: Inbound) -> None:
        """Judge one message; it is acknowledged now when it goes no further."""
        if self.closed:
            return  # not acknowledged: whoever serves next gets it, or the device asks again
        # 1. Topic: ours in form, and of the space that this link serves.
        link = message.link
        parsed = topics.parse(message.topic, root_of(link.role, self._root))
        if parsed is None or parsed[2] != "up" or parsed[0] != SPACES[link.role]:
            self._record.count("foreign_topic")
            message.acknowledge()
            return
        space, owner, _, verb = parsed
        self._take_in(message, owner, verb, operational=space == topics.OPERATIONAL)

    def call(self, call: Call) -> None:
        """Judge one request that no broker brought: the same checks but for the topic. Raises ServiceError UNAVAILABLE."""
        if self.closed:
            raise ServiceError(codes.UNAVAILABLE, "the service is stopping", cause="call_stopping", retry_after_s=5)
        message = Inbound(call, "", call.payload, lambda: None)
        self._take_in(message, call.owner, call.verb, operational=call.operational)

    def _take_in(self, message: Inbound, owner: str, verb: str, *, operational: bool) -> None:
        try:
            job = self._admit(message, owner, verb, operational=operational)
        except ServiceError as error:
            self._refuse(message, owner, verb, error, operational=operational)
            message.acknowledge()
            return
        self._enqueue(job)

    def submit(self, job: Job) -> bool:
        """Queue what the clock asks. Whether there was room."""
        if len(self._requests) >= self._bounds.queued_requests:
            return False
        self._requests.append(job)
        self.job_arrived.set()
        return True

    def take_hellos(self, limit: int) -> list[Job]:
        """Hellos within their budget, round robin over sessions."""
        return self._take(self._hellos, self._hello_budget, limit)

    def take_batch(self) -> list[Job]:
        """What goes into one commit: requests and activates take turns when both wait."""
        limit = self._bounds.batch_messages
        activates = self._take(self._activates, self._activate_budget, max(limit // 2, limit - len(self._requests)))
        requests = [self._requests.popleft() for _ in range(min(limit - len(activates), len(self._requests)))]
        return requests + activates

    def next_hello_s(self) -> float | None:
        """Seconds until the budget lets a waiting hello through; None when none waits."""
        return self._hello_budget.wait_s(self._monotonic()) if len(self._hellos) else None

    def next_batch_s(self) -> float | None:
        """The same for the next batch."""
        if self._requests:
            return 0.0
        return self._activate_budget.wait_s(self._monotonic()) if len(self._activates) else None

    def _admit(self, message: Inbound, owner: str, verb: str, *, operational: bool) -> Job:
        payload = message.payload
        # 2. Size.
        if len(payload) > limits.MAX_PAYLOAD_BYTES:
            raise RequestError(codes.TOO_LARGE, "larger than 16384 bytes", cause="too_large")
        # 3. Session bucket.
        table = self._credentials if operational else self._sessions
        if not table.take(owner, self._monotonic()):
            raise RequestError(codes.THROTTLED, "too many messages", cause="throttled_session")
        # 4. Decoding, 5. characters of the ids.
        role = message.link.role
        decoded = decode(verb, payload, message.link.verbs if isinstance(message.link, Call) else _VERBS[role])
        # 6. The network that it came from.
        if verb == "stage" and role is not Role.WAREHOUSE:
            raise RequestError(
                codes.NOT_IN_WAREHOUSE,
                "this is not the warehouse",
                cause="not_in_warehouse",
                id=decoded.request.id,
                encoding=decoded.encoding,
            )
        # 7. Server nonce: what fails here costs no look-up.
        if decoded.claim is not None:
            self._check_nonce(decoded, owner)
        return Job(verb, owner, operational, _trace_id(message.link), message.link, decoded, message.acknowledge)

    def _check_nonce(self, decoded: Decoded, owner: str) -> None:
        request, claim = decoded.request, decoded.claim
        assert isinstance(request, schemas.Activate)
        assert claim is not None
        if not hello.is_fresh(claim, request.server_nonce, owner, self.nonce_keys, self._clock()):
            raise RequestError(
                codes.NONCE_EXPIRED,
                "say hello again",
                cause="nonce_expired",
                id=request.id,
                encoding=decoded.encoding,
            )

    def _enqueue(self, job: Job) -> None:
        if job.verb == "hello":
            room = self._hellos.offer(job)
            self.hello_arrived.set()
        elif job.verb in ("activate", "stage", "http-activate"):
            room = self._activates.offer(job)
            self.job_arrived.set()
        elif job.verb == "fetch" and self._fetch(job):
            return
        else:
            room = self.submit(job)
        if not room:
            self._record.count("queue_full")
            self._answer(
                job.link,
                job.owner,
                job.verb,
                ServiceError(codes.THROTTLED, "too many messages", cause="queue_full"),
                job,
            )
            job.done()

    def _take(self, queue: FairQueue, budget: Bucket, limit: int) -> list[Job]:
        if not len(queue):
            return []
        granted = budget.take_up_to(self._monotonic(), limit)
        taken = queue.take(granted)
        budget.give_back(granted - len(taken))
        return taken

    def _refuse(self, message: Inbound, owner: str, verb: str, error: ServiceError, *, operational: bool) -> None:
        self._record.count(error.cause)
        request_id = getattr(error, "id", "")
        # A call has one answer for one request: there is nobody to amplify it for.
        if not request_id and not isinstance(message.link, Call) and not self._may_refuse_early(owner):
            return
        trace_id = _trace_id(message.link)
        self._record.remember(
            Trace(
                "", "", self._clock(), trace_id, verb, "refused", error.code, error.cause, error.detail,
                owner if operational else None,
            )
        )  # fmt: skip
        encoding = encoding_of(message.payload)
        payload = encode.refusal(request_id, error, trace_id, encoding, random.random())  # noqa: S311 - spreads retries
        self._send(message.link, self._down(message.link, owner, verb), payload)

    def _may_refuse_early(self, owner: str) -> bool:
        """At most one reply a session and second to what could not be read."""
        now = self._monotonic()
        last = self._refused_at.get(owner)
        if last is not None and now - last < self._bounds.early_refusal_interval_s:
            return False
        if last is None and len(self._refused_at) >= self._bounds.bucket_table:
            self._refused_at.popitem(last=False)
        self._refused_at[owner] = now
        self._refused_at.move_to_end(owner)
        return True

    def _answer(self, link: Link | None, owner: str, verb: str, error: ServiceError, job: Job) -> None:
        if link is None:
            return
        payload = encode.refusal(job.request_id, error, job.trace_id, job.encoding, random.random())  # noqa: S311
        self._send(link, self._down(link, owner, verb), payload)

    def _down(self, link: Link, owner: str, verb: str) -> str:
        return topics.down(SPACES[link.role], owner, verb, root_of(link.role, self._root))


def _trace_id(link: Link) -> str:
    return link.trace_id if isinstance(link, Call) else secrets.token_hex(8)
