"""`firstlight openapi`: the document of the HTTP interfaces. The running service does not serve it."""

from __future__ import annotations

import json


def openapi() -> None:
    """Write the OpenAPI document of all HTTP interfaces, as JSON."""
    # FastAPI takes half a second to import, which the other commands shall not pay for.
    from service.http.web import build_app  # noqa: PLC0415
    from service.interfaces import INTERFACES  # noqa: PLC0415

    print(json.dumps(build_app(INTERFACES).openapi(), indent=2, ensure_ascii=False))
