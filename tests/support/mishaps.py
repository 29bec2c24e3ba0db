"""What befalls devices in the field: one forgets everything, and one is there twice.

Owns these two, and how an operator makes good what comes of them; the world and its devices are lifecycle.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_sdk.simulator.memory import MemoryFlash, MemoryInstaller
from tests.support.life_unit import CHUNK, Unit

if TYPE_CHECKING:
    from tests.support.lifecycle import World


def lose_flash(unit: Unit, *, image_too: bool) -> None:
    """A factory reset: records are gone, and with `image_too` what was installed; it has no power then."""
    unit.power_off()
    unit.world.forgetful.add(unit.serial)
    unit.flash = MemoryFlash(unit.power)
    if image_too:
        unit.installer = MemoryInstaller(unit.power, unit.world.shared, CHUNK)


def add_clone(world: World, unit: Unit, *, with_flash: bool) -> Unit:
    """A second device with the serial and key of that one, and with `with_flash` all that it knows; it has no power."""
    clone = Unit(world, unit.serial, seed=f"clone {len(world.units)} of {unit.serial}")
    if with_flash:
        clone.flash.copy_from(unit.flash)
        clone.installer.copy_from(unit.installer)
    world.units.append(clone)
    world.clones.append(clone)
    world.forgetful.add(unit.serial)
    return clone


async def release_what_was_held_back(world: World) -> None:
    """An operator has devices try a version again that were taken for gone back to the old one, twice.

    That is how one looks that forgets everything while it reboots, or of which another copy speaks then. Of any other
    device it would be a fault, so those stay held back.
    """
    for (serial,) in world.rows("SELECT serial FROM device, json_each(tries) WHERE value >= 2"):
        if serial in world.forgetful:
            await world.operate("release-version", next(one for one in world.units if one.serial == serial))


async def let_in_what_is_frozen(world: World, suspects: set[str]) -> None:
    """An operator unfreezes a serial that has but one device now; once, then it is no longer among `suspects`.

    Two signs may be left of memory that was lost. When the one device then starts with a boot counter below the last one
    that was heard, that is the third. To be frozen once more would be a fault: one device gives no signs by itself.
    """
    for (serial,) in world.rows("SELECT serial FROM device WHERE frozen"):
        if serial in suspects:
            suspects.remove(serial)
            await world.operate("unfreeze", next(one for one in world.units if one.serial == serial))


async def take_away_clones(world: World) -> None:
    """An operator finds them: they lose their power, their serials go on, and the one that is left may come in again."""
    cloned = {clone.serial for clone in world.clones}
    for clone in world.clones:
        world.lose_connection(clone)
        clone.power_off()
        world.units.remove(clone)
    world.clones.clear()
    signs = dict(world.rows("SELECT serial, frozen FROM device WHERE frozen OR clone_signs"))
    for unit in world.units:
        if signs.get(unit.serial) or (unit.serial in cloned and unit.serial in signs):
            await world.operate("unfreeze", unit)
    if cloned:
        await world.set_group(reactivation="open")
