"""The settings of a site: features, payment, network; what may stand in them, and how a change is merged in. Pure.

They travel to devices in the desired document, so the wire's rules and size hold for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from service.domain.warehouse import SECTIONS, DeviceType, misfit
from service.operations.requests import bad_request
from service.operations.verbs import set_settings
from service.storage.warehouse_queries import Settings

MAX_NAME_CHARS = 64


def merged(before: Settings, asked: Mapping[str, Any]) -> Settings:
    """`before` with what is asked beside it; null takes a section or one of its values away.

    Raises ServiceError BAD_REQUEST.
    """
    found: dict[str, dict[str, Any]] = {section: dict(values) for section, values in before.items()}
    for section, values in asked.items():
        if section not in SECTIONS:
            raise bad_request("settings_illegal", f"settings stand under {', '.join(SECTIONS)}")
        if values is None:
            found.pop(section, None)
            continue
        if not isinstance(values, dict) or not all(_is_name(name) for name in values):
            raise bad_request("settings_illegal", f"{section} is a map from names of 1 to 64 printable characters")
        set_settings.check(values, 2)
        of_section = {**found.get(section, {}), **values}
        found[section] = {name: value for name, value in of_section.items() if value is not None}
    found = {section: values for section, values in found.items() if values}
    if len(json.dumps(found)) > set_settings.MAX_BYTES:
        raise bad_request("settings_illegal", f"settings have at most {set_settings.MAX_BYTES} bytes as JSON")
    return found


def check_kinds(settings: Settings, types: Iterable[DeviceType]) -> None:
    """Raise ServiceError BAD_REQUEST unless each value is what these device types say it must be."""
    for one in types:
        wrong = misfit(settings, one)
        if wrong is not None:
            raise bad_request("setting_kind", wrong)


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= MAX_NAME_CHARS and text.isascii() and text.isprintable() and "." not in text
