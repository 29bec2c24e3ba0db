"""The record of what firmware is wanted, and what the service is still to be told of it.

Owns record "firmware": seq (the highest confirmed), bad (version_id -> failed tries), job (the version wanted now, with
state, boot and cause) and queued (one that came while the other waited for its restart); and `pending`, the reports.
Fetches and installs nothing. Runs on MicroPython.
"""

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context

ACCEPTED = "accepted"  # to be fetched, or on its way
DEFERRED = "deferred"
DOWNLOADING = "downloading"
DOWNLOADED = "downloaded"
VERIFIED = "verified"
INSTALLING = "installing"  # fetched and checked; being made the one to boot
REBOOTING = "rebooting"  # made the one to boot; a start with another version means that it was rolled back
CONFIRMED = "confirmed"
FAILED = "failed"
ROLLED_BACK = "rolled_back"

ACTIVE = (ACCEPTED, INSTALLING)
FINISHED = (CONFIRMED, FAILED, ROLLED_BACK)

_MAX_TRIES = 2  # failed tries of a version before it is quarantined
_MAX_QUARANTINE = 8  # versions remembered
_MAX_PENDING = 16
_MAX_CAUSE_CHARS = 128


class Job:
    """`wanted`: the job's map or None. `pending`: firmware maps for reports, oldest first."""

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._bad: dict[str, int] = {}
        self._queued: dict[str, Any] | None = None
        self._release = 0
        self.seq = context.identity.factory_seq
        self.wanted: dict[str, Any] | None = None
        self.pending: list[dict[str, Any]] = []
        self.percent = 0  # of the download, as it is told

    def load(self) -> None:
        stored = self._context.records.load("firmware")
        if stored is not None:
            self.seq = max(stored["seq"], self.seq)
            self._bad = stored["bad"]
            self.wanted = stored["job"]
            self._queued = stored["queued"]
            self._release = stored.get("release", 0)

    @property
    def state(self) -> "str | None":
        return self.wanted["state"] if self.wanted is not None else None

    @property
    def version_id(self) -> "str | None":
        return self.wanted["version_id"] if self.wanted is not None else None

    @property
    def cause(self) -> "str | None":
        return self.wanted.get("cause") if self.wanted is not None else None

    def is_for(self, version: "dict[str, Any]") -> bool:
        """Whether this accepted version is the job already."""
        return self.wanted is not None and self.version_id == version["version_id"] and "image_id" in self.wanted

    def take(self, wanted: "dict[str, Any] | None") -> None:
        """From now on this job and no other."""
        self.wanted = wanted
        self._save()

    def take_version(self, version: "dict[str, Any]", running: "str | None") -> None:
        """A version that passed its checks; `running` is the version_id of what runs."""
        job = dict(version)
        job["state"] = ACCEPTED
        job["cause"] = None
        if version["version_id"] == running:
            job["state"] = CONFIRMED
        elif self._bad.get(version["version_id"], 0) >= _MAX_TRIES:
            job["state"] = FAILED
            job["cause"] = "quarantined"
        self.take(job)
        self.tell(job["state"], job["cause"])

    def release(self, number: object) -> None:
        """An operator wants versions tried again that failed too often; `number` rises each time."""
        if not isinstance(number, int) or number is True or number <= self._release:
            return
        self._release = number
        self._bad = {}
        if self.state in (FAILED, ROLLED_BACK):
            self.wanted = None
        self._save()

    def queue(self, version: "dict[str, Any]") -> None:
        """Wanted once the restart that is under way has come to its end."""
        self._queued = version
        self._save()

    def take_queued(self, running: "str | None") -> None:
        if self._queued is not None:
            version, self._queued = self._queued, None
            self.take_version(version, running)

    def move(self, state: str, cause: "str | None" = None) -> None:
        """Store a new state of the job."""
        assert self.wanted is not None
        self.wanted["state"] = state
        self.wanted["cause"] = cause
        self.wanted["boot"] = self._context.boot_count
        self._save()

    def confirmed(self) -> None:
        """The job's version runs for good: only now is the way back to lower seqs closed."""
        assert self.wanted is not None
        self.seq = max(self.seq, self.wanted.get("seq", 0))
        self._bad.pop(self.wanted["version_id"], None)
        self.move(CONFIRMED)

    def failed_try(self, state: str, cause: str) -> None:
        """One more failed try; after the second the job stays in `state`, else it is to be tried again."""
        assert self.wanted is not None
        version_id = self.wanted["version_id"]
        tries = self._bad.pop(version_id, 0) + 1
        while len(self._bad) >= _MAX_QUARANTINE:
            self._bad.pop(sorted(self._bad)[0])
        self._bad[version_id] = tries
        self.move(state if tries >= _MAX_TRIES else ACCEPTED, cause)
        self.tell(state, cause)

    def tell(
        self, state: str, cause: "str | None" = None, version_id: "str | None" = None, until_s: "int | None" = None
    ) -> None:
        """Queue a report; of the same state in a row only the newest is kept (the first may be on its way).

        `until_s`: in how many seconds it is asked again whether to go on.
        """
        told = self._map(state, cause, version_id)
        if until_s is not None:
            told["until_s"] = until_s
        if len(self.pending) > 1 and self.pending[-1]["state"] == state:
            self.pending.pop()
        if len(self.pending) >= _MAX_PENDING:
            self.pending.pop(1)
        self.pending.append(told)

    def now(self) -> "dict[str, Any]":
        """The firmware map of a report that has another reason."""
        return self._map(self.state or FAILED, self.cause, None)

    def _map(self, state: str, cause: "str | None", version_id: "str | None") -> "dict[str, Any]":
        told: dict[str, Any] = {"state": state}
        version_id = version_id or self.version_id
        if version_id is not None:
            told["version_id"] = version_id
        if cause is not None:
            told["cause"] = cause[:_MAX_CAUSE_CHARS]
        if state == DOWNLOADING:
            told["progress"] = self.percent
        return told

    def _save(self) -> None:
        record = {
            "seq": self.seq,
            "bad": self._bad,
            "job": self.wanted,
            "queued": self._queued,
            "release": self._release,
        }
        self._context.records.save("firmware", record)
