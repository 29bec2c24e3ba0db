"""Moving to another environment, and the way back.

Owns record "move": where the service wants the device, and how far it is. What happens in which order, so that power may
go between any two: "accepted" saved and told | "moving" saved | activated there, kept as `next` | its online answered,
`next` becomes current | record deleted. Nobody answering there within the trial: "failed" saved | back to `current` |
told with the cause | `next` and record deleted. The old credential is kept until the new one was answered, so that the
device always ends at one of the two places. Connects nowhere itself.
Source: docs/protocol.md, section "Reprovisioning". Runs on MicroPython.
"""

from device_sdk.core import endpoints, fields, ladder
from device_sdk.core.fields import MalformedError

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.credentials import Credentials
    from device_sdk.core.news import News

ACCEPTED = "accepted"  # will set out as soon as that was told and nothing is in the way
MOVING = "moving"  # on its way: only the new place is tried
FAILED = "failed"  # on its way back, or back and not told yet

_ANNOUNCE_S = 10.0  # how long it waits with setting out until the service has heard of it
_MAX_BOOTS = 5  # starts during one trial; after the last one the device goes back
_MAX_ENVIRONMENT_CHARS = 256
_MAX_DEADLINE_S = 30 * 24 * 3600


class Placement:
    """`away`: the device tries the new place and nothing else."""

    def __init__(self, context: "Context", credentials: "Credentials", news: "News") -> None:
        self._context = context
        self._credentials = credentials
        self._news = news
        self._move: dict[str, Any] | None = None
        self._until = 0.0
        self.away = False

    @property
    def returning(self) -> bool:
        """Whether the old place comes before the new one."""
        return self._move is not None and self._move["state"] == FAILED

    @property
    def endpoints(self) -> "list[dict[str, Any]]":
        """The bootstrap endpoints of the new place; empty: those of the factory lead there too."""
        return self._move["bootstrap"] if self._move is not None else []

    @property
    def wake_at(self) -> "float | None":
        return self._until if self._move is not None and self._move["state"] != FAILED else None

    def load(self, now: float) -> None:
        """Once per boot, after the credentials."""
        self._move = self._context.records.load("move")
        if self._move is None:
            return
        current = self._credentials.get(ladder.CURRENT)
        state = self._move["state"]
        if current is not None and self._is_here(self._move):
            self._end()  # power went after the new credential became the current one
        elif state == MOVING and current is not None and current["credential_id"] != self._move["from"]:
            self.fail("other_environment")
        elif state == MOVING:
            self._set_out(now)
            self._move["boots"] += 1
            if self._move["boots"] > _MAX_BOOTS:
                self.fail("power")
            else:
                self._save()
        elif state == ACCEPTED:
            # The place where the device is may be the one that is gone: then it sets out without having been heard.
            self._until = now + self._context.policy.placement_trial_s
            self._tell()
        else:
            self._tell()

    def offer(self, offer: object, now: float) -> None:
        """The `placement` of an accepted document; None: where it is, it stays."""
        if offer is None:
            if self._move is not None and self._move["state"] == ACCEPTED:
                self._end()
            return
        try:
            wanted = self._read(offer)
        except MalformedError as error:
            self._context.trouble("placement_refused", str(error))
            self._news.tell("placement", {"state": FAILED, "cause": "malformed: %s" % error})
            return
        if self._move is not None and _same(self._move, wanted):
            self._tell()  # known: under way, or failed and not heard yet
            return
        if self._is_here(wanted):
            if self._move is not None:
                self._end()
            return
        # What was activated and never answered belongs to no place any more; `current` has just been answered.
        self._credentials.discard_next()
        self._move = wanted
        self._save()
        self._until = now + _ANNOUNCE_S
        self._tell()

    def sets_out(self, free: bool, now: float) -> bool:
        """Whether to leave this connection for the new place now; `free`: nothing else is in the way."""
        if self._move is None or self._move["state"] != ACCEPTED or not free:
            return False
        return now >= self._until or not self._news.waits("placement")

    def set_out(self, now: float) -> None:
        assert self._move is not None
        self._move["state"] = MOVING
        self._save()
        self._context.note("info", "moving", self._move["environment"])
        self._set_out(now)

    def lapses(self, now: float) -> bool:
        """Whether the trial of the new place is over."""
        return self.away and now >= self._until

    def outlasts(self, retry_after_s: "int | None", now: float) -> bool:
        """Whether a refusal at the new place is longer than the trial."""
        return self.away and (retry_after_s is None or now + retry_after_s >= self._until)

    def fail(self, cause: str) -> None:
        """Back to where it came from; told once it is there."""
        assert self._move is not None
        self.away = False
        self._move["state"] = FAILED
        self._move["cause"] = cause
        # Still in force if this cannot be saved: after a restart the new place gets another trial.
        self._context.trouble("move_failed", cause)
        self._tell()
        self._save()

    def answered(self, credential: "dict[str, Any]") -> None:
        """An `online` was answered ok with this credential, which is the current one."""
        if self._move is None or self._move["state"] == ACCEPTED:
            return
        if credential["environment"] == self._move["environment"]:
            self._context.note("info", "moved", self._move["environment"])
            self.away = False
            self._end()
        elif self._move["state"] == MOVING:
            # The service changed its mind on the way.
            self.fail("other_environment")

    def told(self, sent: "dict[str, Any]") -> None:
        """A report was answered ok: a failure that was in it is history."""
        if self.returning and sent.get("placement") is not None and not self._news.waits("placement"):
            self._credentials.discard_next()
            self._end()

    def _set_out(self, now: float) -> None:
        assert self._move is not None
        self.away = True
        self._news.drop("placement")
        self._until = now + min(self._context.policy.placement_trial_s, self._move["deadline_s"])

    def _is_here(self, wanted: "dict[str, Any]") -> bool:
        current = self._credentials.get(ladder.CURRENT)
        return current is not None and current["environment"] == wanted["environment"]

    def _tell(self) -> None:
        assert self._move is not None
        said = {"state": self._move["state"], "environment": self._move["environment"]}
        if self._move["cause"] is not None:
            said["cause"] = self._move["cause"]
        self._news.tell("placement", said)

    def _end(self) -> None:
        self._news.drop("placement")
        self._context.records.delete("move")
        self._move = None

    def _save(self) -> None:
        self._context.records.save("move", self._move)

    def _read(self, offer: object) -> "dict[str, Any]":
        if not isinstance(offer, dict):
            raise MalformedError("placement")
        environment = fields.text(offer, "environment", _MAX_ENVIRONMENT_CHARS)
        if not environment:
            raise MalformedError("environment")
        deadline_s = _MAX_DEADLINE_S
        if offer.get("deadline_s") is not None:
            deadline_s = fields.integer(offer, "deadline_s", 1, _MAX_DEADLINE_S)
        current = self._credentials.get(ladder.CURRENT)
        return {
            "environment": environment,
            "bootstrap": endpoints.read_list(offer.get("bootstrap"), self._context.identity.allow_plain),
            "deadline_s": deadline_s,
            "from": current["credential_id"] if current is not None else "",
            "state": ACCEPTED,
            "cause": None,
            "boots": 0,
        }


def _same(move: "dict[str, Any]", wanted: "dict[str, Any]") -> bool:
    return bool(move["environment"] == wanted["environment"] and move["bootstrap"] == wanted["bootstrap"])
