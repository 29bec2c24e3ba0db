"""Topics of operators and integrators: `pv1/o/{operator}/up|dn/{verb}` and `pv1/e/{integrator}/{event}`.

Owns how these are written and read; devices never use them, so they are not in the SDK's wire package. Names come from
the database, where only letters, digits and hyphens are legal. Source: docs/protocol.md, section 2.
"""

from __future__ import annotations

import re

from device_sdk.wire import topics

OPERATORS = "o"
EVENTS = "e"
SESSIONS = 4  # of one account at a time
_NAME = re.compile(r"[a-z0-9-]{1,32}\Z")
_VERB = re.compile(r"[a-z-]{1,16}\Z")


def session_names(account: str) -> tuple[str, ...]:
    """What an account may log in as: user name and client id are one of these. All have the topics of the account.

    No account's name has a dot, so no session is another account's.
    """
    return (account, *(f"{account}.{number}" for number in range(2, SESSIONS + 1)))


def account_of(session_name: str) -> str:
    """The account behind a session's name, or the name itself."""
    account = session_name.partition(".")[0]
    return account if session_name in session_names(account) else session_name


def up_filter(root: str = topics.ROOT) -> str:
    """What the service subscribes to."""
    return f"{root}/{OPERATORS}/+/up/+"


def down(operator: str, verb: str, root: str = topics.ROOT) -> str:
    """Where the reply to `verb`, or the push of that name, arrives."""
    return f"{root}/{OPERATORS}/{operator}/dn/{verb}"


def event(integrator: str, kind: str, root: str = topics.ROOT) -> str:
    return f"{root}/{EVENTS}/{integrator}/{kind}"


def parse(topic: str, root: str = topics.ROOT) -> tuple[str, str] | None:
    """(operator, verb) of an operator's request, else None. Says nothing of whether there is such an operator."""
    prefix = f"{root}/{OPERATORS}/"
    if not topic.startswith(prefix):
        return None
    parts = topic[len(prefix) :].split("/")
    if len(parts) != 3 or parts[1] != "up" or not _NAME.match(parts[0]) or not _VERB.match(parts[2]):
        return None
    return parts[0], parts[2]
