"""What reports are to say besides firmware.

Owns the newest value for each field of a report (settings, placement, moving) until a report with it was answered.
Stores nothing: whose news must outlive a restart stores it and tells it again. Runs on MicroPython.
"""

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any


class News:
    """`fields`: what the next report carries."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}

    def tell(self, field: str, value: object) -> None:
        self.fields[field] = value

    def drop(self, field: str) -> None:
        self.fields.pop(field, None)

    def told(self, sent: "dict[str, Any]") -> None:
        """A report with these was answered ok; what became newer in the meantime is told in the next one."""
        for field in sent:
            if field in self.fields and self.fields[field] is sent[field]:
                self.fields.pop(field)

    def waits(self, field: str) -> bool:
        return field in self.fields
