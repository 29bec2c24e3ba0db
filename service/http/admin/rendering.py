"""From a template to a page: escaped, never cached, and with no leave to run or load anything foreign."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from service.operations.administrators import Session
from service.operations.jobs import Run
from service.operations.verbs.verb import Role

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)


def moment(at: datetime | None) -> str:
    return "–" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def came_of(run: Run) -> str:
    words = [f"{name} {number}" for name, number in run.result.items()] + ([run.cause] if run.cause else [])
    return ", ".join(words)


_templates.filters |= {"moment": moment, "came_of": came_of}


def page(template: str, who: Session | None, status: int = 200, **values: Any) -> HTMLResponse:
    """A page for this session; None: before there is one."""
    may = {"operate": who is not None and who.role.may(Role.OPERATOR), "administer": _is_admin(who)}
    text = _templates.get_template(template).render(who=who, may=may, **values)
    return HTMLResponse(text, status, headers=HEADERS)


def _is_admin(who: Session | None) -> bool:
    return who is not None and who.role.may(Role.ADMIN)
