"""The order in which the items of a manifest are installed, as both sides compute it.

Owns the rules of `needs` only; what an item is stands in the service's domain/manifest.py and the device's staging.py.
Source: docs/protocol.md, section "The manifest". Runs on MicroPython.
"""

from device_sdk.wire import versions

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Sequence

    Need = tuple[str, str]  # (name, lowest version)
    Entry = tuple[str, str, Sequence[Need]]  # (name, version, needs)

SOFTWARE = "software"
CONTENT = "content"
CERTIFICATE = "certificate"
SECRET = "secret"  # noqa: S105 - the name of a kind
KINDS = (SOFTWARE, CONTENT, CERTIFICATE, SECRET)


class NeedsError(ValueError):
    """These items cannot be installed in any order. `cause`: the lower_snake word for it; the text names the items."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


def install_order(entries: "Sequence[Entry]") -> "list[str]":
    """The names, each after all that it needs; among those that are free the one that stands first comes first.

    Raises NeedsError: "duplicate_item", "unmet_need" (not in the manifest, or too low there) or "need_cycle".
    """
    version_of: dict[str, str] = {}
    for name, version, _ in entries:
        if name in version_of:
            raise NeedsError("duplicate_item", "%s stands there twice" % name)
        version_of[name] = version
    for name, _, needs in entries:
        for needed, lowest in needs:
            _check_need(name, needed, lowest, version_of)
    order: list[str] = []
    left = list(entries)
    while left:
        free = _first_free(left, order)
        if free is None:
            raise NeedsError("need_cycle", "each waits for another: %s" % ", ".join([name for name, _, _ in left]))
        order.append(free[0])
        left.remove(free)
    return order


def _check_need(name: str, needed: str, lowest: str, version_of: "dict[str, str]") -> None:
    if needed not in version_of:
        raise NeedsError("unmet_need", "%s needs %s, which is not in the manifest" % (name, needed))
    if not versions.at_least(version_of[needed], lowest):
        told = (name, needed, lowest, version_of[needed])
        raise NeedsError("unmet_need", "%s needs %s>=%s, the manifest has %s" % told)


def _first_free(left: "Sequence[Entry]", done: "list[str]") -> "Entry | None":
    for entry in left:
        if all([needed in done for needed, _ in entry[2]]):
            return entry
    return None


def needs_text(needs: "Sequence[Need]") -> str:
    """As it is signed: `runtime>=2.1,fonts>=1`, in the manifest's order."""
    return ",".join(["%s>=%s" % (name, lowest) for name, lowest in needs])
