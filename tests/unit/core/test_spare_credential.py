"""A new credential has to wait while the old one is in force: for an operator the device does not stand still."""

from __future__ import annotations

from device_sdk.core.records import Records
from tests.support.rig import Rig


def waiting(retry_after_s):
    """In service, then activated anew while its broker was away; the new credential is told to wait, the old one is not."""
    rig = Rig()
    rig.run(lambda: rig.client.status.state == "online")
    old = rig.owner
    online = rig.peer._online

    def only_old(owner, request, out):
        refused = {"ok": False, "code": "CONFLICT", "retry_after_s": retry_after_s}
        return online(owner, request, out) if owner == old else refused

    rig.peer._online = only_old
    rig.peer.down = {"ops"}
    rig.drop()
    rig.run(lambda: Records(rig.machine).load("next") is not None)
    rig.peer.down = set()
    return rig, old


def test_one_that_waits_for_an_operator_goes_on_with_the_credential_in_force():
    rig, old = waiting(60)
    rig.run(lambda: rig.client.status.state == "online" and rig.owner == old, max_s=600)
    rig.run_for(24 * 3600)
    assert rig.owner == old
    assert len(rig.peer.said("activate")) <= 3  # it does not ask for one credential after the other
    assert Records(rig.machine).load("next") is not None


def test_one_whose_old_credential_is_being_asked_keeps_that_one_silent():
    rig, old = waiting(30)
    tried = len(rig.peer.connects)
    asked = len(rig.peer.said("online"))
    rig.run(lambda: len(rig.peer.said("online")) >= asked + 3, max_s=600)
    assert old not in [one.username for one in rig.peer.connects[tried:]]
