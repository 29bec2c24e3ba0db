"""The text of one environment's part of firstlight.toml, as the installations of tests and of the bench have it.

Owns the wording only; ports are given, and what else the file says is its writer's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def environment_section(name: str, endpoints: Mapping[str, int], links: Mapping[str, int] | None = None) -> str:
    """`endpoints` and `links`: port by name. Without links it is the embedded broker, without TLS; else Mosquittos.

    Mosquittos are started as the user who runs this, root too.
    """
    lines = [f"[environments.{name}]", f'broker = "{"embedded" if links is None else "mosquitto"}"']
    if links is not None:
        lines.append(f"[environments.{name}.mosquitto]")
        lines += ['run_as = "root"'] if os.geteuid() == 0 else []
    for end, port in endpoints.items():
        lines += [f"[environments.{name}.endpoints.{end}]", f"port = {port}"]
        lines += ['host = "127.0.0.1"', "tls = false"] if links is None else ['host = "localhost"']
    for link, port in (links or {}).items():
        lines += [f"[environments.{name}.links.{link}]", f"port = {port}"]
    return "\n".join(lines) + "\n"
