"""What an operator asks, checked before anything is looked up: the verb, the role, the form of the arguments. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from device_sdk.wire import codes
from service.errors import ServiceError
from service.operations.accounts import Operator
from service.operations.requests import bad_request, field_refused
from service.operations.verbs.making import Making
from service.operations.verbs.table import FLEET, MAKING
from service.operations.verbs.verb import Arguments, Verb


def verb_of(name: str) -> Verb | Making:
    """Raises ServiceError UNKNOWN_VERB."""
    found = FLEET.get(name) or MAKING.get(name)
    if found is None:
        raise ServiceError(codes.UNKNOWN_VERB, "unknown verb", cause="unknown_verb")
    return found


def check_role(operator: Operator, verb: Verb | Making) -> None:
    """Raises ServiceError FORBIDDEN."""
    if not operator.role.may(verb.role):
        raise ServiceError(codes.FORBIDDEN, f"{verb.name} needs the role {verb.role.value}", cause="role_too_low")


def arguments_of(model: type[Arguments], asked: Mapping[str, Any]) -> Arguments:
    """Raises ServiceError BAD_REQUEST, also for what nothing could store or send: half of a surrogate pair, NaN."""
    try:
        json.dumps(asked, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise bad_request("bad_argument", "the arguments hold text that is not valid Unicode") from None
    except ValueError:
        raise bad_request("bad_argument", "the arguments hold a number that is none") from None
    try:
        return model.model_validate(dict(asked))
    except ValidationError as error:
        raise field_refused(error) from None
