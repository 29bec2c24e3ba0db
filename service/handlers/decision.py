"""What a handler is given besides device and request, and what it gives back. Values only.

Owns Context, Decision and the effects that the pipeline carries out after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.brokers.gate import Login
from service.credentials.authority import Csr, Order, Signed
from service.credentials.item_seals import ItemSeals, SealedImage
from service.credentials.proofs import Prover
from service.domain.catalogue import Catalogue
from service.domain.device import Device
from service.domain.event import Event
from service.domain.hook import Answer, Question
from service.errors import ServiceError
from service.protocol import encode


@dataclass(frozen=True, slots=True)
class World:
    """What is the same for every message of a batch."""

    catalogue: Catalogue
    service_key: Ed25519PrivateKey
    issuers: frozenset[str]  # environments that issue certificates
    random_bytes: Callable[[int], bytes]
    admit: Callable[[str, str], None]  # group, serial, both proven: raises ServiceError THROTTLED
    listening_since: datetime  # since when no message was missed
    seals: ItemSeals
    told_service_keys: tuple[bytes, ...] = ()  # what devices of kind public_key are to trust; none: what they have
    down_since: Mapping[str, datetime] = field(default_factory=dict)  # environments whose operational link is down


@dataclass(frozen=True, slots=True)
class Proven:
    """Who proved a message: with this prover, by what was known of this device (None: of nobody)."""

    device: Device | None
    prover: Prover


@dataclass(frozen=True, slots=True)
class Context:
    """One message: who sent it (as the topic says), when, and how the reply is to be written."""

    world: World
    now: datetime
    owner: str  # the session, or the credential id
    operational: bool  # whether the topic was a credential's
    trace_id: str
    encoding: str
    next_number: Mapping[str, int] = field(default_factory=dict)  # product_id -> number of its next thing
    spki_in_use: frozenset[bytes] | set[bytes] = frozenset()
    partner: Device | None = None  # the other device of its thing, while a replacement is under way
    csr: Csr | None = None  # of the claim; None when there is none or it cannot be read
    self_registered: Mapping[str, int] = field(default_factory=dict)  # group_id -> how many registered themselves
    answer: Answer | None = None  # of the group's hook, once it has been asked
    asked_in: str | None = None  # the environment whose brokers brought the message
    signed: tuple[Order, Signed] | None = None  # the certificate that this message was found to need
    proven: Proven | None = None  # when it was found so; holds while its device has not changed
    incomplete: bool = False  # there is more to load about the device, which only a proven message is worth

    def reply(self, request_id: str, fields: Mapping[str, object]) -> bytes:
        return encode.reply(request_id, fields, self.trace_id, self.encoding)


class Incomplete(Exception):  # noqa: N818 - a request, not a fault
    """The message is proven: load the rest of its device, whose id this says, and handle it again."""


class Unsigned(Exception):  # noqa: N818 - a request, not a fault
    """The message gets a certificate: have this order signed and handle it again. So that many are signed together."""

    def __init__(self, order: Order, proven: Proven) -> None:
        super().__init__(order.credential_id)
        self.order = order
        self.proven = proven


@dataclass(frozen=True, slots=True)
class Grant:
    """The broker must let this login in before the reply is sent."""

    environment: str
    login: Login


@dataclass(frozen=True, slots=True)
class Push:
    """A desired document for another connection of the same device, or for this one without a request."""

    environment: str
    credential_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Authorise:
    """A credential may fetch this image."""

    credential_id: str
    thing_id: str
    image_id: str
    size: int
    sealed: SealedImage | None = None  # where its bytes are no file, but made for this device


@dataclass(frozen=True, slots=True)
class AskHook:
    """Nothing is decided before the group's hook has answered; then the same message is looked at again."""

    question: Question


Effect = Grant | Push | Authorise | AskHook


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the device's trace."""

    step: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The device as it is to be saved (None: unchanged), the reply's bytes, and what else follows.

    `refusal` in place of a reply: a proven sender is told no, and `device` may still have changed.
    """

    device: Device | None = None
    reply: bytes | None = None
    refusal: ServiceError | None = None
    steps: tuple[Step, ...] = ()
    counters: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()
    events: tuple[Event, ...] = ()
    partner: Device | None = None  # the other device of its thing, where that has changed too
    number_taken: str | None = None  # product_id
    newcomer_of: str | None = None  # group_id of a device that registered itself
    spki: bytes | None = None  # a key that is in use from now on
    credential_id: str | None = None  # for the trace, where it is not the sender's
