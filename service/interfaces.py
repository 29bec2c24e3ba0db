"""Every HTTP interface of the service. Owns the list; each interface stands in its own module below service/http."""

from __future__ import annotations

from service.http import enrolment, partners, things, things_calls
from service.http.admin import pages as admin
from service.http.admin.session import signed_in
from service.http.web import Interface, open_to_all

INTERFACES: tuple[Interface, ...] = (
    Interface(things.opening, open_to_all),  # a nonce for anybody, and activations, which prove themselves
    Interface(things.owning, things_calls.owner_guard),
    Interface(things.serving, things_calls.thing_guard),
    Interface(partners.router, partners.partner, {partners.IMPORT_PATH: partners.MAX_IMPORT_BYTES}, partners.FORMS),
    Interface(enrolment.inbound, enrolment.provider_guard, {enrolment.INBOUND_PATH: enrolment.MAX_BODY_BYTES}),
    Interface(enrolment.dispatching, enrolment.dispatch_guard, {enrolment.DISPATCH_PATH: enrolment.MAX_BODY_BYTES}),
    Interface(admin.opening, open_to_all),  # signing in, and the pages' style
    Interface(admin.pages, signed_in),
)
