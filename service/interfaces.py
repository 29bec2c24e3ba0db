"""Every HTTP interface of the service. Owns the list; each interface stands in its own module below service/http."""

from __future__ import annotations

from service.http.web import Interface

INTERFACES: tuple[Interface, ...] = ()
