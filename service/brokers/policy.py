"""Who may publish, receive and subscribe to what: the access rules of both brokers, as values.

Owns the rules only; embedded.py applies them in process, mosquitto/render.py writes the same as ACL files, and the ACL
matrix test holds both to this module. Source: docs/protocol.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_sdk.wire import topics
from service.mqtt.port import Role

SPACES = {Role.BOOTSTRAP: topics.BOOTSTRAP, Role.OPERATIONAL: topics.OPERATIONAL}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a connection is, bound when it was authenticated. `owner` is the session or credential, None the service."""

    role: Role
    owner: str | None
    root: str = topics.ROOT

    @property
    def is_service(self) -> bool:
        return self.owner is None

    def _own(self, direction: str) -> str:
        return f"{self.root}/{SPACES[self.role]}/{self.owner}/{direction}/"


def may_publish(who: Principal, topic: str) -> bool:
    if who.owner is None:
        return _is_ours(who, topic, "dn")
    return _one_level_below(topic, who._own("up"))  # noqa: SLF001


def may_receive(who: Principal, topic: str) -> bool:
    if who.owner is None:
        return _is_ours(who, topic, "up")
    return _one_level_below(topic, who._own("dn"))  # noqa: SLF001


def may_subscribe(who: Principal, topic_filter: str) -> bool:
    """A device: its own `dn/#`, `dn/+` or one `dn/{verb}`. The service: what is below its root."""
    if who.owner is None:
        return topic_filter.startswith(f"{who.root}/")
    own = who._own("dn")  # noqa: SLF001
    return topic_filter in (own + "#", own + "+") or _one_level_below(topic_filter, own)


def _one_level_below(topic: str, prefix: str) -> bool:
    rest = topic[len(prefix) :]
    return topic.startswith(prefix) and bool(rest) and not any(c in rest for c in "/+#\0")


def _is_ours(who: Principal, topic: str, direction: str) -> bool:
    prefix = f"{who.root}/{SPACES[who.role]}/"
    parts = topic[len(prefix) :].split("/")
    return topic.startswith(prefix) and len(parts) == 3 and parts[1] == direction and all(parts)
