"""The versions of manifest items: their form, and which of two is the higher.

A version is 1 to 8 numbers with dots between them, each of 1 to 9 digits: `7`, `1.0`, `2.10.3`. They are compared number
by number from the left; numbers that are missing count as 0. So 1.2 < 1.10, and 1.2 and 1.2.0 are equally high (though
two versions: what is wanted is compared as text). Source: docs/protocol.md, section "Versions". Runs on MicroPython.
"""

MAX_NUMBERS = 8
MAX_DIGITS = 9

_DIGITS = frozenset("0123456789")


def is_version(text: object) -> bool:
    if not isinstance(text, str):
        return False
    numbers = text.split(".")
    return len(numbers) <= MAX_NUMBERS and all([_is_number(number) for number in numbers])


def numbers_of(version: str) -> "list[int]":
    """The numbers without zeros at the end: equally high versions have the same. Raises ValueError for another form."""
    if not is_version(version):
        raise ValueError("not a version")
    numbers = [int(number) for number in version.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return numbers


def at_least(version: str, wanted: str) -> bool:
    """Whether `version` is as high as `wanted`, or higher. Raises ValueError for another form."""
    return numbers_of(version) >= numbers_of(wanted)


def _is_number(text: str) -> bool:
    return 1 <= len(text) <= MAX_DIGITS and _DIGITS.issuperset(text)
