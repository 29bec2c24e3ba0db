"""Topic names of protocol version 1: how each is written and read.

Owns the only place where a topic is put together or taken apart. Source: docs/protocol.md, section "Topics". Runs on
MicroPython.
"""

from device_sdk.wire import ids

ROOT = "pv1"
BOOTSTRAP = "b"
OPERATIONAL = "c"
MAX_ROOT_CHARS = 64


def is_root(value: object) -> bool:
    """Whether topics may begin with it: levels of `A-Z a-z 0-9 . _ -`, at most MAX_ROOT_CHARS in all."""
    if not isinstance(value, str) or len(value) > MAX_ROOT_CHARS:
        return False
    return all([ids.is_group_id(level) for level in value.split("/")])


def up(space: str, owner: str, verb: str, root: str = ROOT) -> str:
    """Where `owner` (a session in space "b", a credential in "c") publishes a request."""
    return root + "/" + space + "/" + owner + "/up/" + verb


def down(space: str, owner: str, verb: str, root: str = ROOT) -> str:
    """Where the reply to `verb`, or a push of that name, arrives."""
    return root + "/" + space + "/" + owner + "/dn/" + verb


def down_filter(space: str, owner: str, root: str = ROOT) -> str:
    """What a device subscribes to once: its own pushes and replies, exactly one level deep."""
    return root + "/" + space + "/" + owner + "/dn/+"


def up_filter(space: str, root: str = ROOT) -> str:
    """What the service subscribes to."""
    return root + "/" + space + "/+/up/+"


def parse(topic: str, root: str = ROOT) -> "tuple[str, str, str, str] | None":
    """(space, owner, direction, verb) of a topic that is ours in form, else None.

    The root may hold several levels. The owner must be 32 lower-case hex and the verb 1-16 lower-case letters; nothing
    is said of who may use it.
    """
    prefix = root + "/"
    if not topic.startswith(prefix):
        return None
    parts = topic[len(prefix) :].split("/")
    if len(parts) != 4:
        return None
    space, owner, direction, verb = parts
    if space not in (BOOTSTRAP, OPERATIONAL) or direction not in ("up", "dn"):
        return None
    if not ids.is_hex_id(owner) or not ids.is_verb(verb):
        return None
    return space, owner, direction, verb
