"""The device in the warehouse, without I/O: from the factory key to a unit in its box.

Owns the way there and its records: `stage` on the warehouse's broker, the work on the items over the credential that it
gave, `staged`, and the end. Has the API of Client, which takes over at the customer's: first_client() says who lives in
this boot. What is stored in which order, so that power may go between any two: "manifest" | the credential | items
(itemwork.py) | staged answered | the box (boxing.py) | off. Source: docs/protocol.md, section "The warehouse". Runs on
MicroPython.
"""

from device_sdk.core import fields, ladder, manifest, status
from device_sdk.core.actions import Disconnect, Reboot, Shutdown
from device_sdk.core.activation import Activation, Refused
from device_sdk.core.backoff import Backoff
from device_sdk.core.boxing import Box
from device_sdk.core.client import Client
from device_sdk.core.connects import bootstrap_connect, operational_connect
from device_sdk.core.context import Context
from device_sdk.core.credentials import Credentials
from device_sdk.core.fields import MalformedError
from device_sdk.core.itemwork import ItemWork
from device_sdk.core.manifest import RefusedManifestError
from device_sdk.core.stagingtalk import SHIPPED, StagingTalk
from device_sdk.core.status import Status
from device_sdk.wire import codes, ids, keys, limits, topics

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from device_sdk.core.context import Action
    from device_sdk.core.identity import Endpoint, Identity, Policy
    from device_sdk.core.ports import Crypto, Flash, Installer, Items, Product

_WAITING = "waiting"
_CONNECTING = "connecting"
_CONNECTED = "connected"
_STOPPED = "stopped"

_LOST_S = 3600.0  # how long a unit that may be anywhere looks for a warehouse that would stage it anew
_MOUNT = "warehouse/"  # what an older Mosquitto leaves on the topics of the warehouse's connection


def first_client(
    identity: "Identity",
    policy: "Policy",
    flash: "Flash",
    installer: "Installer",
    crypto: "Crypto",
    random_bytes: "Callable[[int], bytes]",
    product: "Product | None" = None,
    items: "Items | None" = None,
) -> "Client | StagingClient":
    """Who lives in this boot: the staging as long as there is a warehouse to go to and the unit is not in its box."""
    if identity.warehouse and items is not None:
        staging = StagingClient(identity, policy, flash, installer, crypto, random_bytes, items, product)
        if staging.goes_on:
            return staging
    return Client(identity, policy, flash, installer, crypto, random_bytes, product)


class Staging(Activation):
    """An activation in other words, whose reply has a manifest: `doc`, once its mac was right."""

    verb = "stage"
    doc = b""

    def _asked(self, session: str, server_nonce: bytes, claim: bytes) -> bytes:
        return keys.stage_message(session, server_nonce, claim)

    def _granted(self, session: str, server_nonce: bytes, claim: bytes, grant: bytes) -> bytes:
        return keys.stage_granted_message(session, server_nonce, claim, grant)

    def _grant(self, reply: "dict[str, Any]") -> "dict[str, Any]":
        record = super()._grant(reply)
        given = fields.submap(reply, "manifest")
        doc = fields.raw(given, "doc")
        message = keys.manifest_message(record["thing_id"], record["credential_id"], doc)
        if not self._context.prover.fits(message, fields.raw(given, "mac")):
            raise MalformedError("wrong_manifest_mac")
        self.doc = doc
        return record


class StagingClient:
    """One boot of a unit in the warehouse. Use it as a Client."""

    def __init__(
        self,
        identity: "Identity",
        policy: "Policy",
        flash: "Flash",
        installer: "Installer",
        crypto: "Crypto",
        random_bytes: "Callable[[int], bytes]",
        items: "Items",
        product: "Product | None" = None,
    ) -> None:
        self._context = Context(identity, policy, flash, installer, crypto, random_bytes, product)
        self._credentials = Credentials(self._context)
        self._box = Box(self._context)
        self.goes_on = self._box.is_open
        self._backoff = Backoff(policy.backoff_first_s, policy.backoff_max_s, random_bytes)
        self._refusals = Backoff(limits.RETRY_FIRST_S, limits.RETRY_MAX_S, random_bytes)
        self._items = items
        self._work: ItemWork | None = None
        self._manifest_id = ""
        self._values: dict[str, Any] = {}  # the settings of the warehouse step
        self._staging: Staging | None = None
        self._talk: StagingTalk | None = None  # on the operational connection
        self._phase = _STOPPED
        self._until = 0.0
        self._turn = 0  # of the warehouse's endpoints
        self._refused = 0  # operational connects in a row
        self._unreached = 0
        self._first_fail_at = 0.0
        self._where = ""
        self._roams = False

    # The driver's calls

    def start(self, now: float) -> None:
        """Once per boot, first of all."""
        self._context.count_boot()
        self._credentials.load()
        self._take_up()
        # The answer to `staged` may have come too late for this power: then the unit may be anywhere by now.
        self._roams = self._work is not None and self._work.item is None
        self._wait_until(now)
        self.tick(now)

    def connected(self, now: float) -> None:
        if self._phase != _CONNECTING:
            return
        self._phase = _CONNECTED
        self._unreached = self._refused = 0
        if self._staging is not None:
            self._staging.start(now)
        elif self._talk is not None:
            self._talk.start(now)

    def connect_failed(self, reason: str, now: float) -> None:
        if self._phase != _CONNECTING:
            return
        self._context.trouble("connect_" + reason, self._where)
        if self._staging is None and reason == "refused":
            self._refused += 1
        self._retry(now)

    def disconnected(self, now: float) -> None:
        if self._phase not in (_CONNECTING, _CONNECTED):
            return
        self._context.trouble("connection_lost", self._where)
        self._retry(now)

    def received(self, topic: str, payload: bytes, now: float) -> None:
        """A message of the open connection. Nothing in it can raise."""
        if self._phase != _CONNECTED:
            return
        space, owner = topics.OPERATIONAL, self._owner()
        if self._staging is not None:
            space = topics.BOOTSTRAP
            topic = topic[len(_MOUNT) :] if topic.startswith(_MOUNT) else topic
        prefix = topics.down(space, owner, "", self._context.policy.root)
        verb = topic[len(prefix) :]
        if not topic.startswith(prefix) or not ids.is_verb(verb):
            self._context.trouble("foreign_topic")
            return
        try:
            if self._staging is not None:
                self._bootstrap_message(self._staging, verb, payload, now)
            elif verb == "chunk" and self._work is not None:
                self._work.chunk(payload, now)
            elif self._talk is not None:
                self._told(self._talk.message(verb, fields.read_map(payload), now))
        except MalformedError as error:
            self._context.trouble("garbage", "%s: %s" % (verb, error))
        except OSError as error:
            self._flash_failed(error, now)
        self._ask(now)

    def tick(self, now: float) -> None:
        if self._phase == _STOPPED:
            return
        try:
            self._tick(now)
        except OSError as error:
            self._flash_failed(error, now)
        self._ask(now)

    def _ask(self, now: float) -> None:
        if self._phase == _CONNECTED and self._talk is not None:
            self._talk.ask(now)

    def actions(self) -> "list[Action]":
        out = self._context.outbox
        self._context.outbox = []
        return out

    @property
    def wake_at(self) -> "float | None":
        if self._phase == _STOPPED:
            return None
        if self._phase != _CONNECTED:
            return self._until
        if self._talk is not None:
            return self._talk.wake_at
        return self._staging.requests.wake_at if self._staging is not None else None

    @property
    def status(self) -> Status:
        percent = self._work.percent if self._work is not None else None
        state = status.BOXED if self._phase == _STOPPED else status.STAGING
        cause = self._work.failed if self._work is not None and self._work.failed else self._context.cause
        return Status(state, "warehouse", None, percent, cause)

    @property
    def counters(self) -> "dict[str, int]":
        return dict(self._context.counters)

    # Where to go

    def _owner(self) -> str:
        if self._staging is not None:
            return self._staging.session
        credential = self._credentials.get(ladder.NEXT)
        return str(credential["credential_id"]) if credential is not None else ""

    def _take_up(self) -> None:
        """The manifest, if it is the one that came with the credential."""
        credential = self._credentials.get(ladder.NEXT)
        stored = self._context.records.load("manifest")
        self._work = None
        if credential is None or stored is None or stored["credential_id"] != credential["credential_id"]:
            return
        found = manifest.read(stored["doc"])
        self._manifest_id = found["manifest_id"]
        self._values = found["values"]
        try:
            items, refusal = manifest.ordered(self._context, found["items"]), None
        except RefusedManifestError as error:
            items, refusal = found["items"], error
        self._work = ItemWork(self._context, self._items, self._manifest_id, items)
        if refusal is None:
            self._work.load()
        else:
            self._context.trouble(refusal.cause, "manifest refused")
            self._work.refuse(refusal.item or items[0], refusal.cause)

    def _tick(self, now: float) -> None:
        if self._phase == _WAITING and now >= self._until:
            self._connect(now)
        elif self._phase == _CONNECTING and now >= self._until:
            self._context.trouble("connect_timeout", self._where)
            self._context.act(Disconnect())
            self._retry(now)
        elif self._phase == _CONNECTED:
            alive = True
            if self._staging is not None:
                alive = self._staging.requests.tick(now)
            elif self._talk is not None:
                alive = self._talk.tick(now)
            if not alive:
                self._context.act(Disconnect())
                self._retry(now)

    def _connect(self, now: float) -> None:
        policy, credential = self._context.policy, self._credentials.get(ladder.NEXT)
        if self._work is not None and credential is not None and not self._is_gone(now):
            self._staging = None
            self._context.prover.key = self._credentials.key(ladder.CURRENT)
            self._talk = StagingTalk(self._context, self._work, credential["credential_id"], self._manifest_id)
            action = operational_connect(policy, credential, credential["ca"])
        else:
            endpoint = self._endpoint()
            self._talk = None
            self._context.prover.key = self._key()
            self._staging = Staging(self._context, {})
            action = bootstrap_connect(policy, endpoint, self._staging.session, endpoint.ca_pem)
        self._where = "%s:%d" % (action.host, action.port)
        self._context.act(action)
        self._phase = _CONNECTING
        self._until = now + policy.connect_timeout_s

    def _is_gone(self, now: float) -> bool:
        """The broker does not know the credential any more: an operator wants the unit staged anew. By turns, so that
        a broker that was wrong is asked again.
        """
        policy = self._context.policy
        return (
            self._refused >= policy.rung_tries
            and now - self._first_fail_at >= policy.rung_span_s
            and self._refused % 2 == 1
        )

    def _key(self) -> "bytes | None":
        """The confirmed one proves `stage` and opens sealed items, also while a transfer of ownership waits for `online`.

        By turns one that an activation elsewhere gave, which may have come to count without our hearing of it.
        """
        place = ladder.NEXT if self._work is None and self._turn % 2 == 0 else ladder.CURRENT
        return self._credentials.key(place)

    def _endpoint(self) -> "Endpoint":
        known = self._context.identity.warehouse
        self._turn += 1
        return known[(self._turn - 1) % len(known)]

    def _wait_until(self, at: float) -> None:
        self._staging = None
        self._talk = None
        if self._work is not None:
            self._work.offline()
        self._phase = _WAITING
        self._until = at

    def _retry(self, now: float) -> None:
        if self._unreached == 0:
            self._first_fail_at = now
        self._unreached += 1
        policy = self._context.policy
        waited = self._unreached >= policy.rung_tries and now - self._first_fail_at >= policy.rung_span_s
        lost = self._roams and self._staging is not None and now - self._first_fail_at >= _LOST_S
        if waited and (self._work is None or lost):
            # No warehouse far and wide, and nothing that it gave is good any more: the unit lives without for one boot.
            self._live_without()
            return
        if waited and self._roams and not self._refused and self._unreached % policy.rung_tries == 0:
            self._box.other_network(self._values)
        if self._staging is not None and self._refused:
            self._refused += 1
        self._wait_until(now + self._backoff.next())

    def _live_without(self) -> None:
        self._box.skip(self._values if self._roams else {})
        self._context.note("warning", "no_warehouse", "going on without it until the next start")
        self._stop(Reboot())

    def _flash_failed(self, error: OSError, now: float) -> None:
        self._context.trouble("flash_error", str(error))
        if self._phase in (_CONNECTING, _CONNECTED):
            self._context.act(Disconnect())
        self._retry(now)

    def _stop(self, action: "Action") -> None:
        self._phase = _STOPPED
        self._context.act(Disconnect())
        self._context.act(action)

    # What arrives

    def _bootstrap_message(self, staging: Staging, verb: str, payload: bytes, now: float) -> None:
        result = staging.reply(verb, fields.read_map(payload), now)
        if isinstance(result, Refused):
            self._refused_stage(result, now)
        elif result is not None:
            manifest.read(staging.doc)  # Malformed: the reply counts for nothing
            result["bootstrap"] = []
            result["renew"] = 0
            stored = {"credential_id": result["credential_id"], "doc": staging.doc}
            self._context.records.save("manifest", stored)
            self._credentials.store_next(result)
            self._context.note("info", "staged", result["credential_id"])
            self._refused = 0
            self._backoff.reset()
            self._refusals.reset()
            self._context.act(Disconnect())
            self._take_up()
            self._wait_until(now)
            self._connect(now)

    def _refused_stage(self, refusal: Refused, now: float) -> None:
        if refusal.code == codes.NOT_IN_WAREHOUSE:
            self._live_without()
            return
        self._context.act(Disconnect())
        wait_s = self._refusals.next() if refusal.retry_after_s is None else refusal.retry_after_s
        if refusal.code == codes.ALREADY_STAGED and self._work is not None:
            wait_s = self._backoff.next()  # the credential that we hold is the right one after all
            self._refused += 1
        self._wait_until(now + wait_s)

    def _told(self, answer: "str | None") -> None:
        """Everything works and the service knows it."""
        if answer is None:
            return
        self._box.close(self._values)
        self._context.note("info", "out_of_box", self._manifest_id)
        # At the customer's already: this is its first start there.
        self._stop(Reboot() if answer == SHIPPED else Shutdown())
