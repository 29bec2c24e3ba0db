"""Mosquitto's ACL files: how ours are written, and a strict parser that says whether one is what we wrote.

Mosquitto 2.0 opens everything when its ACL file is missing or has one bad line (the guard plugin keeps it shut), so
nothing is handed to it before this parser has read it. Source: mosquitto.conf(5), acl_file.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.brokers.mosquitto.plan import SERVICE_USER
from service.mqtt import account_topics
from service.mqtt.port import SPACES, Role, root_of

_ACCESS = ("read", "write", "readwrite", "deny")
_OWNER = {Role.BOOTSTRAP: "%c", Role.OPERATIONAL: "%u", Role.WAREHOUSE: "%c"}


class AclError(ValueError):
    """A line that Mosquitto would refuse, or that lets more in than intended; says which."""


@dataclass(frozen=True, slots=True)
class Rule:
    user: str | None  # None: a pattern, which holds for every user
    access: str
    topic: str


def render_acl(role: Role, root: str) -> str:
    """The ACL file of one Mosquitto. Patterns end in `+`: a client id may hold a slash, `#` would reach further.

    Mosquitto compares with the topic as it stands below the listener's mount point: in the warehouse both the devices'
    lines and the service's name it.
    """
    space, owner = f"{root_of(role, root)}/{SPACES[role]}", _OWNER[role]
    return (
        "# Rendered by `firstlight broker render`; changes here are lost.\n"
        "# `topic` lines after a `user` line belong to that user; `pattern` lines hold for every user.\n"
        f"user {SERVICE_USER}\n"
        f"topic read {space}/+/up/+\n"
        f"topic write {space}/+/dn/+\n" + (_accounts(root) if role is Role.OPERATIONAL else "") + "\n"
        f"pattern write {space}/{owner}/up/+\n"
        f"pattern read {space}/{owner}/dn/+\n"
    )


def _accounts(root: str) -> str:
    """The service's side of operators and integrators; theirs stands in the plugin, a role for each of them."""
    operators, events = f"{root}/{account_topics.OPERATORS}", f"{root}/{account_topics.EVENTS}"
    return f"topic read {operators}/+/up/+\ntopic write {operators}/+/dn/+\ntopic write {events}/+/+\n"


def parse_acl(text: str) -> list[Rule]:
    """Raises AclError for anything that Mosquitto would not take, or that we never write."""
    rules: list[Rule] = []
    user: str | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        keyword, _, rest = line.partition(" ")
        if keyword == "user" and rest:
            user = rest
            continue
        access, _, topic = rest.partition(" ")
        if keyword not in ("topic", "pattern") or access not in _ACCESS or not topic:
            raise AclError(f"line {number}: {line!r} is no ACL rule")
        if keyword == "topic" and user is None:
            raise AclError(f"line {number}: a topic before any user would be for anonymous clients")
        _check_filter(number, topic, is_pattern=keyword == "pattern")
        rules.append(Rule(None if keyword == "pattern" else user, access, topic))
    if text and not text.endswith("\n"):
        raise AclError("the file was cut off")
    if not rules:
        raise AclError("no rules")
    return rules


def too_wide(rules: list[Rule]) -> list[Rule]:
    """Patterns that reach beyond their own client, and users other than the service: signs of a test set-up."""
    return [
        rule
        for rule in rules
        if (rule.user is None and not ({"%u", "%c"} & set(rule.topic.split("/")) and rule.topic.endswith("/+")))
        or (rule.user is not None and rule.user != SERVICE_USER)
    ]


def _check_filter(number: int, topic: str, *, is_pattern: bool) -> None:
    levels = topic.split("/")
    if any(("+" in x and x != "+") or ("#" in x and x != "#") for x in levels) or "#" in levels[:-1]:
        raise AclError(f"line {number}: {topic!r} is no topic filter")
    if is_pattern and not ({"%u", "%c"} & set(levels)):
        raise AclError(f"line {number}: a pattern without %u or %c holds for everybody")
