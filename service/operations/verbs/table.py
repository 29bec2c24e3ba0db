"""Every verb by its name. Owns the list; each verb stands in its own module."""

from __future__ import annotations

from collections.abc import Mapping

from service.operations.verbs import (
    allocate,
    block,
    cancel_order,
    close_order,
    create_site,
    create_type,
    enter_order,
    hand_over,
    onboard,
    receive,
    register,
    release_units,
    release_version,
    rename,
    replace,
    reprovision,
    restage,
    retire,
    set_attributes,
    set_settings,
    set_site,
    set_target,
    set_type,
    ship,
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
_WAREHOUSE = (
    cancel_order,
    close_order,
    create_site,
    create_type,
    enter_order,
    hand_over,
    receive,
    release_units,
    restage,
    set_site,
    set_type,
    ship,
)
MAKING: Mapping[str, Making] = {module.NAME: making_of(module) for module in (onboard, register, *_WAREHOUSE)}
