"""The device's side of the protocol without I/O: bytes and time in, actions out.

Owns the composition of the core and its public API. A driver calls, in any order after start(): connected(),
connect_failed(), disconnected(), received(), tick(); after each call it drains actions() and does them in order, and
sees that tick() is called at wake_at. Source: docs/protocol.md, sections 3 to 6. Runs on MicroPython.
"""

from device_sdk.core import fields, ladder, session, status, wishes
from device_sdk.core.actions import Disconnect
from device_sdk.core.activation import Activation, Refused
from device_sdk.core.connects import bootstrap_connect, operational_connect
from device_sdk.core.context import Context
from device_sdk.core.credentials import Credentials
from device_sdk.core.desired import Desired
from device_sdk.core.fields import MalformedError
from device_sdk.core.ladder import Ladder
from device_sdk.core.places import Places
from device_sdk.core.session import Session
from device_sdk.core.status import Status
from device_sdk.core.wishes import Wishes
from device_sdk.wire import ids, topics

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Callable

    from device_sdk.core.context import Action
    from device_sdk.core.identity import Identity, Policy
    from device_sdk.core.ports import Crypto, Flash, Installer, Product

_WAITING = "waiting"  # until _until, then connect
_CONNECTING = "connecting"  # at most until _until
_CONNECTED = "connected"
_STOPPED = "stopped"  # retired, or going to restart


class Client:
    """One device from power-up to power-down. `now` is monotonic seconds everywhere; `random_bytes(n)` gives n bytes.

    A flash that cannot be written (OSError) costs the connection and is tried again with back-off, never the device.
    """

    def __init__(
        self,
        identity: "Identity",
        policy: "Policy",
        flash: "Flash",
        installer: "Installer",
        crypto: "Crypto",
        random_bytes: "Callable[[int], bytes]",
        product: "Product | None" = None,
    ) -> None:
        self._context = Context(identity, policy, flash, installer, crypto, random_bytes, product)
        self._credentials = Credentials(self._context)
        self._ladder = Ladder(self._context)
        self._wishes = Wishes(self._context, self._credentials)
        self._firmware = self._wishes.firmware
        self._places = Places(self._context, self._credentials, self._wishes.placement, self._wishes.trust)
        self._desired = Desired(self._context)
        self._activation: Activation | None = None
        self._session: Session | None = None
        self._phase = _STOPPED
        self._until = 0.0
        self._started = False
        self._retired = False
        self._where = ""  # place and address of the newest Connect, for the log

    # The driver's calls

    def start(self, now: float) -> None:
        """Once per boot, first of all: counts the boot, loads the records and decides where to go."""
        self._context.count_boot()
        self._credentials.load()
        self._started = True
        self._wishes.load(now)
        self._wait_until(now)
        self.tick(now)

    def connected(self, now: float) -> None:
        """The connection of the last Connect is open and subscribed."""
        if self._phase != _CONNECTING:
            return
        self._phase = _CONNECTED
        if self._activation is not None:
            self._activation.start(now)
        elif self._session is not None:
            self._session.start(now)

    def connect_failed(self, reason: str, now: float) -> None:
        """The last Connect failed: "refused", "unreachable" or "tls"."""
        if self._phase != _CONNECTING:
            return
        self._context.trouble("connect_" + reason, self._where)
        self._retry(now)

    def disconnected(self, now: float) -> None:
        """The open connection was lost."""
        if self._phase not in (_CONNECTING, _CONNECTED):
            return
        self._context.trouble("connection_lost", self._where)
        self._retry(now)

    def received(self, topic: str, payload: bytes, now: float) -> None:
        """A message of the open connection. Nothing in it can raise: what makes no sense is counted and ignored."""
        if self._phase != _CONNECTED:
            return
        space = topics.OPERATIONAL if self._session is not None else topics.BOOTSTRAP
        prefix = topics.down(space, self._owner(), "", self._context.policy.root)
        verb = topic[len(prefix) :]
        if not topic.startswith(prefix) or not ids.is_verb(verb):
            self._context.trouble("foreign_topic")
            return
        try:
            if self._session is None:
                self._bootstrap_message(verb, payload, now)
            elif verb == "chunk":
                self._firmware.update.chunk(payload, now)
            else:
                self._operational_message(verb, payload, now)
        except MalformedError as error:
            self._context.trouble("garbage", "%s: %s" % (verb, error))
        except OSError as error:
            self._flash_failed(error, now)
        self._after(now)

    def tick(self, now: float) -> None:
        """Time has passed. Too early or too often does no harm."""
        if self._phase == _STOPPED:
            return
        try:
            self._tick(now)
        except OSError as error:
            self._flash_failed(error, now)
        self._after(now)

    def actions(self) -> "list[Action]":
        """What to do now, in order; empty the next time."""
        out = self._context.outbox
        self._context.outbox = []
        return out

    @property
    def wake_at(self) -> "float | None":
        """When tick() wants to be called, monotonic seconds; None: not before something happens."""
        if self._phase == _STOPPED:
            return None
        up = self._session is not None and self._session.up and self._phase == _CONNECTED
        times = [self._wishes.wake_at(self._owner() if up else None)]
        if self._phase != _CONNECTED:
            times.append(self._until)
        elif self._session is not None:
            times.append(self._session.wake_at)
        elif self._activation is not None:
            times.append(self._activation.requests.wake_at)
        due = [at for at in times if at is not None]
        return min(due) if due else None

    @property
    def status(self) -> Status:
        running = self._firmware.running
        rung = self._ladder.rung
        place = ladder.BOOTSTRAP if rung is not None and rung.startswith(ladder.BOOTSTRAP) else rung
        version = running.get("name") or running.get("version_id")
        return Status(
            self._state(), place, version, self._firmware.update.percent, self._context.cause or self._firmware.cause
        )

    @property
    def counters(self) -> "dict[str, int]":
        """How often each trouble came up since power-up, by its lower_snake word."""
        return dict(self._context.counters)

    def _owner(self) -> str:
        """The topic level of the open connection."""
        if self._session is not None:
            return self._session.owner
        assert self._activation is not None
        return self._activation.session

    def _state(self) -> str:
        if not self._started:
            return status.STARTING
        if self._retired:
            return status.RETIRED
        if self._firmware.update.state is not None and (self._firmware.update.gone or self._phase == _CONNECTED):
            return self._firmware.update.state
        if self._phase == _WAITING:
            return status.WAITING
        if self._session is not None and self._session.up:
            return status.ONLINE
        return status.ACTIVATING if self._activation is not None else status.CONNECTING

    # Where to go

    def _tick(self, now: float) -> None:
        if self._phase == _WAITING and now >= self._until:
            self._connect(now)
        elif self._phase == _CONNECTING and now >= self._until:
            self._context.trouble("connect_timeout", self._where)
            self._context.act(Disconnect())
            self._retry(now)
        self._lapses(now)
        alive = self._firmware.tick(now)
        if self._phase == _CONNECTED:
            if self._session is not None:
                alive = self._session.tick(now) and self._wishes.renewal.tick(now) and alive
            elif self._activation is not None:
                alive = self._activation.requests.tick(now)
            if not alive and not self._firmware.update.gone:
                self._hang_up(now)

    def _lapses(self, now: float) -> None:
        """The ends of trials that nobody answered in time."""
        if self._wishes.placement.lapses(now):
            self._turn_back(self._context.cause or "no_contact", now)
        for settings in (self._wishes.settings, self._wishes.site):
            if settings.lapses(now):
                settings.fail(self._context.cause or "no_contact")
                self._leave(now)

    def _connect(self, now: float) -> None:
        rung = self._ladder.rung
        assert rung is not None
        policy, trust = self._context.policy, self._wishes.trust
        credential = self._credentials.get(rung)
        self._context.prover.key = self._places.key(rung)
        self._wishes.connecting(now)
        if credential is not None:
            self._desired.use(credential)
            spare = rung == ladder.NEXT and ladder.CURRENT in self._places.rungs()
            self._session = Session(self._context, credential, self._desired, self._wishes, spare)
            action = operational_connect(policy, credential, trust.ca_pem(credential["ca"]))
        else:
            self._activation = Activation(self._context, self._firmware.running)
            endpoint = self._places.endpoint(rung)
            ca_pem = trust.ca_pem(endpoint.ca_pem)
            action = bootstrap_connect(policy, endpoint, self._activation.session, ca_pem)
        self._where = "%s %s:%d" % (rung, action.host, action.port)
        self._context.act(action)
        self._phase = _CONNECTING
        self._until = now + self._context.policy.connect_timeout_s

    def _wait_until(self, at: float) -> None:
        """No connection now; the ladder says which one next, not before `at`."""
        self._session = None
        self._activation = None
        self._firmware.update.offline()
        self._wishes.renewal.end()
        _, self._until = self._ladder.choose(self._places.rungs(), at)
        self._phase = _WAITING

    def _leave(self, now: float) -> None:
        """For other rungs than before, or the same anew."""
        if self._phase in (_CONNECTING, _CONNECTED):
            self._context.act(Disconnect())
        self._ladder.restart()
        self._wait_until(now)

    def _turn_back(self, cause: str, now: float) -> None:
        """The new place did not answer, or said no for longer than its trial lasts."""
        self._wishes.placement.fail(cause)
        self._leave(now)

    def _retry(self, now: float) -> None:
        self._wait_until(self._ladder.failed(now))

    def _hang_up(self, now: float) -> None:
        """The peer stays silent."""
        self._context.act(Disconnect())
        self._retry(now)

    def _flash_failed(self, error: OSError, now: float) -> None:
        self._context.trouble("flash_error", str(error))
        if self._phase in (_CONNECTING, _CONNECTED):
            self._context.act(Disconnect())
        self._retry(now)

    # What arrives

    def _bootstrap_message(self, verb: str, payload: bytes, now: float) -> None:
        assert self._activation is not None
        result = self._activation.reply(verb, fields.read_map(payload), now)
        if isinstance(result, Refused):
            self._refused(result.code, result.retry_after_s, now)
        elif result is not None:
            current = self._credentials.get(ladder.CURRENT) or {}
            result["bootstrap"] = self._places.bootstrap_behind(self._ladder.rung or "")
            result["renew"] = current.get("renew", 0)
            self._credentials.store_next(result)
            self._context.note("info", "activated", result["credential_id"])
            self._context.act(Disconnect())
            self._ladder.activated(self._places.rungs(), now)
            self._wait_until(now)
            self._connect(now)

    def _operational_message(self, verb: str, payload: bytes, now: float) -> None:
        assert self._session is not None
        message = fields.read_map(payload)
        if verb in ("hello", "activate"):
            self._wishes.renewal.reply(verb, message, now)
            return
        result = self._session.message(verb, message, now)
        if result == session.ONLINE:
            if self._ladder.rung == ladder.NEXT:
                self._credentials.promote()
            self._ladder.answered(now)
            self._context.cause = None
            current = self._credentials.get(ladder.CURRENT)
            assert current is not None
            self._wishes.answered(current, self._session.fetch, now)
        if result == session.REFUSED:
            self._refused(self._session.refusal[0], self._session.refusal[1], now)
        elif self._session.up and verb in ("online", "report") and message.get("ok") is True:
            result = self._session.desired_of(message, now)
        if result == session.RETIRED:
            self._retire(now)

    def _refused(self, code: str, retry_after_s: "int | None", now: float) -> None:
        """The service said no here."""
        self._context.act(Disconnect())
        if self._wishes.placement.outlasts(retry_after_s, now):
            self._phase = _WAITING
            self._turn_back(code.lower(), now)
        else:
            self._wait_until(self._ladder.refused(retry_after_s, now))

    def _retire(self, now: float) -> None:
        assert self._session is not None
        self._credentials.wipe()
        self._wishes.forget()
        self._retired = True
        self._context.note("warning", "retired", "credentials wiped")
        self._session.report(now)
        self._context.act(Disconnect())
        self._phase = _STOPPED

    def _after(self, now: float) -> None:
        if self._firmware.update.gone:
            self._phase = _STOPPED
            return
        if self._phase == _CONNECTED and self._session is not None:
            self._session.report(now)
            if self._session.up:
                self._wishes.renew(self._session.owner, now)
        if self._phase != _STOPPED:
            self._depart(now)

    def _depart(self, now: float) -> None:
        """Leave the connection where the service asked for something that begins on another."""
        try:
            departs = self._wishes.departs(now)
        except OSError as error:
            self._flash_failed(error, now)
            return
        if departs != wishes.STAY:
            self._leave(now)
