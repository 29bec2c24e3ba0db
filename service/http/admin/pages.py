"""The administration pages: sign-in, Daily Operations > Daemons, configuration. Server-rendered, without scripts.

Owns the routes; what they show and change is done by the operations. Every change is a form of the session's own, and
ends in a redirect, so that a reload repeats nothing.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from service.errors import Secret, ServiceError
from service.http.admin import session as sessions
from service.http.admin.rendering import page
from service.http.services import Services, services
from service.operations import administrators, configuration, jobs
from service.operations.administrators import Session
from service.operations.enrolment.table import DECLARED
from service.operations.verbs.verb import Role

opening = APIRouter(include_in_schema=False)
pages = APIRouter(include_in_schema=False)
SHOWN_RUNS = 50
Of = Annotated[Services, Depends(services)]
Form_ = Annotated[Session, Depends(sessions.own_form)]
Who = Annotated[Session, Depends(sessions.session)]


@opening.get("/admin/style.css")
async def style() -> Response:
    data = files("service.http.admin").joinpath("static/style.css").read_bytes()
    return Response(data, media_type="text/css", headers={"Cache-Control": "max-age=3600"})


@opening.get(sessions.SIGN_IN)
async def sign_in_page(of: Of) -> Response:
    return _sign_in(of, "")


@opening.post(sessions.SIGN_IN)
async def sign_in(
    request: Request,
    of: Of,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    form: Annotated[str, Form()] = "",
) -> Response:
    sessions.check_origin(request)
    sessions.check_sign_in_form(request, of, form)
    try:
        token = await administrators.sign_in(
            of.database, name, Secret(password.encode()), now=of.clock(), random_bytes=of.random_bytes
        )
    except ServiceError as error:
        if error.code != "REFUSED":
            raise
        return _sign_in(of, error.public, status=401)
    answer = RedirectResponse("/admin/daemons", 303)
    await administrators.sign_out(of.database, request.cookies.get(sessions.cookie_name(of, "session"), ""))
    sessions.set_cookie(answer, of, "session", token.reveal().decode("ascii"), int(administrators.LIFE.total_seconds()))
    sessions.drop_cookie(answer, of, "form")
    return answer


@pages.get("/admin")
async def front() -> Response:
    return RedirectResponse("/admin/daemons", 303)


@pages.post("/admin/sign-out")
async def sign_out(request: Request, of: Of, _: Form_) -> Response:
    await administrators.sign_out(of.database, request.cookies.get(sessions.cookie_name(of, "session"), ""))
    answer = RedirectResponse(sessions.SIGN_IN, 303)
    sessions.drop_cookie(answer, of, "session")
    return answer


@pages.get("/admin/daemons")
async def daemons(of: Of, who: Who) -> Response:
    await jobs.declare(of.database, DECLARED, of.clock())
    return page("daemons.html", who, jobs=await jobs.list_all(of.database), now=of.clock())


@pages.get("/admin/daemons/{name}")
async def daemon(of: Of, who: Who, name: str) -> Response:
    return await _daemon(of, who, name)


@pages.post("/admin/daemons/{name}/run")
async def run(of: Of, who: Form_, name: str) -> Response:
    who.check(Role.OPERATOR)
    await jobs.want(of.database, name, by=who.name, now=of.clock())
    return _back(name)


@pages.post("/admin/daemons/{name}/enable")
async def enable(of: Of, who: Form_, name: str) -> Response:
    who.check(Role.ADMIN)
    await jobs.set_enabled(of.database, name, enabled=True, by=who.name, now=of.clock())
    return _back(name)


@pages.post("/admin/daemons/{name}/disable")
async def disable(of: Of, who: Form_, name: str) -> Response:
    who.check(Role.ADMIN)
    await jobs.set_enabled(of.database, name, enabled=False, by=who.name, now=of.clock())
    return _back(name)


@pages.post("/admin/daemons/{name}/schedule")
async def schedule(of: Of, who: Form_, name: str, cron: Annotated[str, Form()] = "") -> Response:
    who.check(Role.ADMIN)
    try:
        await jobs.schedule(of.database, name, cron, by=who.name, now=of.clock())
    except ServiceError as error:
        if error.code != "BAD_REQUEST":
            raise
        return await _daemon(of, who, name, problem=error.public, cron=cron, status=400)
    return _back(name)


@pages.get("/admin/configuration")
async def configuration_page(of: Of, who: Who) -> Response:
    return page("configuration.html", who, entries=await configuration.show(of.database), problem="", wrong="")


@pages.post("/admin/configuration/{name}")
async def configure(of: Of, who: Form_, name: str, value: Annotated[str, Form()] = "") -> Response:
    who.check(Role.ADMIN)
    try:
        await configuration.put(of.database, name, value, by=who.name, now=of.clock())
    except ServiceError as error:
        if error.code != "BAD_REQUEST":
            raise
        entries = await configuration.show(of.database)
        return page("configuration.html", who, 400, entries=entries, problem=error.public, wrong=name)
    return RedirectResponse("/admin/configuration", 303)


async def _daemon(of: Services, who: Session, name: str, status: int = 200, **more: Any) -> Response:
    view = await jobs.show(of.database, name)
    runs = await jobs.runs(of.database, name, limit=SHOWN_RUNS)
    shown = {"problem": "", "cron": view.cron or "", **more}
    return page("daemon.html", who, status, job=view, runs=runs, now=of.clock(), **shown)


def _sign_in(of: Services, problem: str, status: int = 200) -> Response:
    form = of.random_bytes(16).hex()
    answer = page("sign-in.html", None, status, problem=problem, form=form)
    sessions.set_cookie(answer, of, "form", form, sessions.FORM_COOKIE_S)
    return answer


def _back(name: str) -> Response:
    return RedirectResponse(f"/admin/daemons/{quote(name, safe='')}", 303)
