"""Every verb by its name. Owns the list; each verb stands in its own module."""

from __future__ import annotations

from collections.abc import Mapping

from service.operations.verbs import (
    allocate,
    block,
    onboard,
    register,
    release_version,
    rename,
    replace,
    reprovision,
    retire,
    set_attributes,
    set_settings,
    set_target,
    transfer,
    unblock,
    undo_replace,
    unfreeze,
)
from service.operations.verbs.making import Making, making_of
from service.operations.verbs.verb import Verb, verb_of

FLEET: Mapping[str, Verb] = {
    module.NAME: verb_of(module)
    for module in (
        allocate,
        block,
        release_version,
        rename,
        replace,
        reprovision,
        retire,
        set_attributes,
        set_settings,
        set_target,
        transfer,
        unblock,
        undo_replace,
        unfreeze,
    )
}
MAKING: Mapping[str, Making] = {module.NAME: making_of(module) for module in (onboard, register)}
