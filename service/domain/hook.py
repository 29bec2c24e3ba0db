"""The activation hook: what it is asked, what it may answer, and what its answer changes. Pure.

Owns the values and the strict reading of an answer. Whoever asks it stands in pipeline/hooks.py; the hook is asked
about devices only that have proved their key. Source: docs/onboarding.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from device_sdk.wire import codes, ids, limits
from service.domain.catalogue import Catalogue
from service.domain.device import Device
from service.domain.thing import Scalar
from service.errors import ServiceError

MAX_OU_CHARS = 255
MAX_TEXT_CHARS = 128
MAX_ATTRIBUTES = 64
FIELDS = frozenset({"decision", "reason", "ou", "environment", "name", "attributes"})


class HookError(Exception):
    """The hook answered something that is no answer, or could not be reached."""


class Verdict(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    TIMED_OUT = "timed_out"  # no answer in time
    FAILED = "failed"  # no answer at all, or one that cannot be read


@dataclass(frozen=True, slots=True)
class Question:
    """What a hook is told. No key, no proof, no credential's secret."""

    hook: str  # the group's: a URL, or python:NAME
    credential_id: str  # of this activation: the same for its repeats
    group_id: str
    serial: str
    registered: bool  # False: it would register itself
    thing_id: str | None
    ou: str
    environment: str
    model: str | None = None
    boot_count: int = 0
    attributes: Mapping[str, object] = field(default_factory=dict, hash=False)

    def document(self) -> dict[str, Any]:
        """As it is sent: JSON values."""
        return {
            "version": 1,
            "activation": self.credential_id,
            "group": self.group_id,
            "serial": self.serial,
            "registered": self.registered,
            "thing": self.thing_id,
            "ou": self.ou,
            "environment": self.environment,
            "model": self.model,
            "boot_count": self.boot_count,
            "attributes": dict(self.attributes),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hook said. What it names is set at a device's first activation; later only the verdict counts."""

    verdict: Verdict
    reason: str = ""  # for the trace; the device is not told
    ou: str | None = None
    environment: str | None = None
    name: str | None = None
    attributes: Mapping[str, Scalar] = field(default_factory=dict, hash=False)


def read(document: object) -> Answer:
    """An answer from JSON: `decision` ("allow" or "deny") and what it overrides. Raises HookError."""
    if not isinstance(document, dict) or not FIELDS.issuperset(document):
        raise HookError("the answer is no JSON map of decision, reason, ou, environment, name and attributes")
    decision = document.get("decision")
    if decision not in (Verdict.ALLOW.value, Verdict.DENY.value):
        raise HookError('the answer\'s decision is neither "allow" nor "deny"')
    texts = {name: document.get(name) for name in ("reason", "ou", "environment", "name")}
    if not all(text is None or isinstance(text, str) for text in texts.values()):
        raise HookError("reason, ou, environment and name are texts")
    ou, environment, name = texts["ou"], texts["environment"], texts["name"]
    if ou is not None and (len(ou) > MAX_OU_CHARS or not all(ids.is_group_id(part) for part in ou.split("/"))):
        raise HookError("ou is no path of names")
    if environment is not None and not ids.is_group_id(environment):
        raise HookError("environment is no name")
    if name is not None and not (0 < len(name) <= MAX_TEXT_CHARS and name.isprintable()):
        raise HookError(f"name is not 1 to {MAX_TEXT_CHARS} printable characters")
    reason = "".join(char if char.isprintable() else "?" for char in (texts["reason"] or "")[:MAX_TEXT_CHARS])
    return Answer(Verdict(decision), reason, ou, environment, name, _attributes(document.get("attributes")))


def _attributes(given: object) -> dict[str, Scalar]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > MAX_ATTRIBUTES:
        raise HookError(f"attributes are a map of at most {MAX_ATTRIBUTES}")
    for name, value in given.items():
        legal = isinstance(value, (str, int, float, bool)) and len(str(value)) <= 2 * MAX_TEXT_CHARS
        legal = legal and (isinstance(value, str) or abs(value) <= limits.MAX_INT)  # nor is NaN
        if not isinstance(name, str) or not 0 < len(name) <= MAX_TEXT_CHARS or not legal:
            raise HookError("attributes are short texts, numbers, true and false")
    return given


def overridden(device: Device, answer: Answer, catalogue: Catalogue) -> Device:
    """The device as the hook wants it at its first activation; unchanged once it has a thing.

    Raises ServiceError: HOOK_DENIED, HOOK_TIMEOUT, UNAVAILABLE (no answer, or an environment that is not there).
    """
    if answer.verdict is Verdict.DENY:
        raise ServiceError(
            codes.HOOK_DENIED, "this activation is not allowed", cause="hook_denied", detail=answer.reason
        )
    if answer.verdict is Verdict.TIMED_OUT:
        raise ServiceError(
            codes.HOOK_TIMEOUT, "the decision takes too long", cause="hook_timeout", detail=answer.reason
        )
    if answer.verdict is Verdict.FAILED:
        raise ServiceError(codes.UNAVAILABLE, "no decision just now", cause="hook_failed", detail=answer.reason)
    if answer.environment is not None and answer.environment not in catalogue.environments:
        raise ServiceError(
            codes.UNAVAILABLE,
            "no decision just now",
            cause="hook_failed",
            detail=f"no environment {answer.environment}",
        )
    if device.thing is not None:
        return device
    return replace(
        device,
        ou=answer.ou or device.ou,
        environment=answer.environment or device.environment,
        attributes={**device.attributes, **answer.attributes},
    )
