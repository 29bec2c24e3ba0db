"""What routes may use: the database for the operations, the way into the pipeline, keys, time and randomness.

Owns the bundle and how a route comes by it: `services: Annotated[Services, Depends(services)]`. Routes hold no state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from fastapi import Request

from service.credentials.followed_keys import FollowedKeys
from service.domain.catalogue import Environment
from service.images.files import ImageFiles
from service.operations.looks import Looks
from service.pipeline.service import Pipeline
from service.settings import Settings
from service.storage.database import Database


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    environments: Mapping[str, Environment]
    database: Database
    keys: FollowedKeys
    images: ImageFiles
    pipeline: Pipeline
    looks: Looks  # the audit of what changes nothing
    clock: Callable[[], datetime]  # aware UTC
    random_bytes: Callable[[int], bytes]


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def trace_of(request: Request) -> str:
    """The request's trace id, for what is logged or traced of it."""
    return str(request.state.trace)
