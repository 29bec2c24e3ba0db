"""Sign-in at the administration pages: cookies, forms that are ours, and who may see a page.

Owns the guard of every page and the checks of every form, in this order: same origin, session, form token, role. The
cookies are HttpOnly and SameSite=Strict, with TLS also Secure and bound to this host.
"""

from __future__ import annotations

import hmac
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Form, Request
from starlette.responses import Response

from service.errors import ServiceError
from service.http.refusals import Answered
from service.http.services import Services, services
from service.operations import administrators
from service.operations.administrators import Session

SIGN_IN = "/admin/sign-in"
FORM_COOKIE_S = 3600


def cookie_name(of: Services, what: str) -> str:
    return f"__Host-firstlight-{what}" if _tls(of) else f"firstlight-{what}"


def set_cookie(response: Response, of: Services, what: str, value: str, max_age_s: int) -> None:
    response.set_cookie(
        cookie_name(of, what), value, max_age=max_age_s, path="/", secure=_tls(of), httponly=True, samesite="strict"
    )


def drop_cookie(response: Response, of: Services, what: str) -> None:
    response.delete_cookie(cookie_name(of, what), path="/", secure=_tls(of), httponly=True, samesite="strict")


async def signed_in(request: Request, of: Annotated[Services, Depends(services)]) -> None:
    """The guard of every page: puts the session into the request, or sends the browser to sign in."""
    try:
        token = request.cookies.get(cookie_name(of, "session"), "")
        request.state.session = await administrators.session_of(of.database, token, of.clock())
    except ServiceError as error:
        if error.code != "REFUSED":
            raise
        raise Answered(303, None, {"Location": SIGN_IN, "Cache-Control": "no-store"}) from error
    if request.method != "GET":
        check_origin(request)


def session(request: Request) -> Session:
    found: Session = request.state.session
    return found


async def own_form(request: Request, csrf: Annotated[str, Form()] = "") -> Session:
    """For every route that changes something."""
    found = session(request)
    found.check_form(csrf)
    return found


def check_origin(request: Request) -> None:
    """Raise ServiceError FORBIDDEN for a form that another site has sent."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = site is not None and site not in ("same-origin", "none")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        foreign = True
    if foreign:
        raise ServiceError("FORBIDDEN", "that form is of another site", cause="foreign_origin")


def check_sign_in_form(request: Request, of: Services, form: str) -> None:
    """Before there is a session, a form is ours if it has what its page's cookie has. Raises ServiceError FORBIDDEN."""
    cookie = request.cookies.get(cookie_name(of, "form"), "")
    if not cookie or not hmac.compare_digest(cookie.encode(), form.encode("utf-8", "replace")):
        raise ServiceError("FORBIDDEN", "open the page again and sign in there", cause="csrf")


def _tls(of: Services) -> bool:
    return of.settings.web is not None and of.settings.web.certificate is not None
