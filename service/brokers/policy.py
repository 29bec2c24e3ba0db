"""Who may publish, receive and subscribe to what: the access rules of both brokers, as values.

Owns the rules only; embedded.py applies them in process, mosquitto/render.py writes the same as ACL files, and the ACL
matrix test holds both to this module. Source: docs/protocol.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_sdk.wire import ids, topics
from service.mqtt import account_topics
from service.mqtt.port import SPACES, Role, root_of


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a connection is, bound when it was authenticated.

    `owner` is the session, the credential or the account's name; None the service. `account`: the space of an
    operator ("o") or an integrator ("e"); None for devices and the service.
    """

    role: Role
    owner: str | None
    root: str = topics.ROOT
    account: str | None = None

    @property
    def is_service(self) -> bool:
        return self.owner is None

    @property
    def own_root(self) -> str:
        """What topics begin with on its side: the service sees those of a warehouse below the mark."""
        return root_of(self.role, self.root) if self.is_service else self.root

    def own_up(self) -> str | None:
        """The beginning of what it may write; None: nothing."""
        if self.account == account_topics.EVENTS:
            return None
        return f"{self.root}/{self.account or SPACES[self.role]}/{self.owner}/up/"

    def own_down(self) -> str:
        """The beginning of what it is told."""
        if self.account == account_topics.EVENTS:
            return f"{self.root}/{account_topics.EVENTS}/{self.owner}/"
        return f"{self.root}/{self.account or SPACES[self.role]}/{self.owner}/dn/"


def may_publish(who: Principal, topic: str) -> bool:
    if who.owner is None:
        return _is_ours(who, topic, "dn") or _is_event(who, topic)
    own = who.own_up()
    return own is not None and _one_level_below(topic, own)


def may_receive(who: Principal, topic: str) -> bool:
    if who.owner is None:
        return _is_ours(who, topic, "up")
    return _one_level_below(topic, who.own_down())


def may_subscribe(who: Principal, topic_filter: str) -> bool:
    """A device or an account: its own `dn/#`, `dn/+` or one `dn/{verb}`. The service: what is below its root."""
    if who.owner is None:
        return topic_filter.startswith(f"{who.own_root}/")
    own = who.own_down()
    return topic_filter in (own + "#", own + "+") or _one_level_below(topic_filter, own)


def _one_level_below(topic: str, prefix: str) -> bool:
    rest = topic[len(prefix) :]
    return topic.startswith(prefix) and bool(rest) and not any(c in rest for c in "/+#\0")


def _is_ours(who: Principal, topic: str, direction: str) -> bool:
    spaces = (SPACES[who.role], account_topics.OPERATORS) if who.role is Role.OPERATIONAL else (SPACES[who.role],)
    for prefix in (f"{who.own_root}/{space}/" for space in spaces):
        parts = topic[len(prefix) :].split("/")
        if topic.startswith(prefix) and len(parts) == 3 and parts[1] == direction and all(parts):
            return True
    return False


def _is_event(who: Principal, topic: str) -> bool:
    prefix = f"{who.root}/{account_topics.EVENTS}/"
    parts = topic[len(prefix) :].split("/")
    return who.role is Role.OPERATIONAL and topic.startswith(prefix) and len(parts) == 2 and all(parts)


def receivers_of(who: Principal, topic: str) -> tuple[str, ...]:
    """The client ids that a message of the service is for: one device's, or those of an account's sessions.

    The topic was checked before.
    """
    owner = topic.split("/")[-2 if _is_event(who, topic) else -3]
    return (owner,) if ids.is_hex_id(owner) else account_topics.session_names(owner)
