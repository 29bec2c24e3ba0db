"""Firmware that goes wrong: a bad image leaves the old one running, and a failure is reported and tried again."""

from __future__ import annotations

import pytest

from device_sdk.core.ports import InstallError
from tests.support.peer import Peer
from tests.support.rig import Rig
from tests.support.signed_firmware import IMAGE, OTHER, confirmed, offer, signed, wanting


def test_an_image_that_is_not_the_promised_one_is_never_installed_and_quarantined_after_two_tries():
    rig = wanting(signed(IMAGE))
    wrong = bytearray(IMAGE)
    wrong[5000] ^= 1
    rig.peer.images[bytes.fromhex(signed(IMAGE)["image_id"])[:8]] = bytes(wrong)
    rig.run_for(24 * 3600)
    assert rig.peer.causes() == ["wrong_hash", "wrong_hash"]
    assert rig.machine.next_boot is None
    assert (rig.reboots, rig.machine.running["name"]) == (0, None)
    assert rig.client.status.cause == "wrong_hash"
    assert set(rig.peer.chunks_sent.values()) == {2}
    offer(rig, signed(OTHER, name="3.0", seq=3), OTHER)
    rig.run(confirmed(rig))
    offer(rig, signed(IMAGE), IMAGE)
    rig.run_for(60)
    assert rig.peer.causes()[-1] == "lower_seq"


def test_seq_rises_only_when_a_version_is_confirmed():
    rig = wanting(signed(IMAGE, seq=7))
    rig.machine.healthy_answer = False
    rig.run(lambda: "rolled_back" in rig.peer.states())
    rig.machine.healthy_answer = True
    offer(rig, signed(OTHER, name="1.5", seq=6), OTHER)
    rig.run(confirmed(rig))
    assert rig.machine.running["name"] == "1.5"
    offer(rig, signed(IMAGE, seq=5), IMAGE)
    rig.run(lambda: "lower_seq" in rig.peer.causes())


def test_older_bytes_under_a_higher_seq_are_installed_over_newer_ones():
    """A deliberate downgrade: the operator signs the old image again."""
    rig = wanting(signed(OTHER, name="1.0", seq=1), OTHER)
    for name, seq, image in (("1.0", 1, OTHER), ("2.0", 2, IMAGE), ("1.0-again", 3, OTHER)):
        if seq > 1:
            offer(rig, signed(image, name=name, seq=seq), image)
        rig.run(lambda name=name: rig.machine.running["name"] == name and rig.client.status.state == "online")
        rig.run(lambda seq=seq: rig.peer.states().count("confirmed") == seq)
    assert (rig.peer.causes(), rig.reboots) == ([], 3)
    offer(rig, signed(IMAGE, name="2.0", seq=2), IMAGE)
    rig.run(lambda: "lower_seq" in rig.peer.causes())


def test_an_unhealthy_image_is_rolled_back_reported_and_quarantined_after_two_tries():
    rig = wanting(signed(IMAGE))
    rig.machine.healthy_answer = False
    rig.run_for(24 * 3600)
    assert rig.peer.states()[-1] == "rolled_back"
    assert set(rig.peer.causes()) == {"unhealthy"}
    assert rig.reboots == 4
    assert rig.machine.running["name"] is None
    assert rig.client.status.state == "online"
    rig.peer.want(signed(IMAGE), settings={"rev": 1})
    rig.push()
    rig.run_for(3600)
    assert rig.reboots == 4


def test_a_quarantined_version_is_tried_again_once_an_operator_releases_it():
    rig = wanting(signed(IMAGE))
    rig.machine.healthy_answer = False
    rig.run_for(24 * 3600)
    rig.peer.want()  # held back by the service too
    rig.push()
    rig.run_for(60)
    rig.machine.healthy_answer = True
    released = {**signed(IMAGE), "release": 1}
    rig.peer.want(released)
    rig.push()
    rig.run(confirmed(rig))
    assert rig.machine.running["name"] == "2.0"


def test_a_release_that_is_known_already_releases_nothing_again():
    rig = wanting({**signed(IMAGE), "release": 1})
    rig.machine.healthy_answer = False
    rig.run_for(24 * 3600)
    assert rig.reboots == 4
    rig.peer.want({**signed(IMAGE), "release": 1}, settings={"rev": 1})
    rig.push()
    rig.run_for(3600)
    assert rig.reboots == 4


def test_an_image_that_crashes_at_start_is_rolled_back_by_the_boot_loader():
    rig = wanting(signed(IMAGE))
    rig.machine.bad_images = (signed(IMAGE)["version_id"],)
    rig.run_for(24 * 3600)
    assert rig.reboots == 2
    assert set(rig.peer.causes()) == {"not_confirmed"}
    assert rig.machine.running["name"] is None


def test_an_image_that_cannot_reach_the_service_is_given_up_after_its_trial():
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "rebooting")
    rig.peer.up = False
    rig.run(lambda: rig.reboots == 1)
    rig.run_for(899)
    assert rig.machine.running["name"] == "2.0"
    rig.run_for(10)
    assert rig.machine.running["name"] is None
    rig.peer.up = True
    rig.run(confirmed(rig))
    assert "no_contact" in rig.peer.causes()


@pytest.mark.parametrize("method", ["begin", "write", "sync", "read", "install"])
@pytest.mark.parametrize("error", [InstallError("no_space"), OSError("flash")], ids=["InstallError", "OSError"])
def test_an_installer_that_fails_is_reported_and_tried_again(method, error):
    rig = wanting(signed(IMAGE))
    rig.machine.fail[method] = error
    cause = "no_space" if isinstance(error, InstallError) else "flash_error"
    rig.run(lambda: cause in rig.peer.causes())
    assert rig.machine.next_boot is None
    rig.machine.fail = {}
    rig.run(confirmed(rig))


def test_a_confirm_that_fails_is_tried_again_at_the_next_contact():
    rig = wanting(signed(IMAGE))
    rig.machine.fail["confirm"] = OSError("flash")
    rig.run(lambda: rig.reboots == 1 and rig.client.status.state == "online")
    assert rig.machine.trial
    rig.machine.fail = {}
    rig.drop()
    rig.run(confirmed(rig))
    assert not rig.machine.trial


ERRORS = [InstallError("no_way_back"), OSError("flash")]


@pytest.mark.parametrize(
    ("method", "error"),
    [("revert", ERRORS[0]), ("revert", ERRORS[1]), ("save", ERRORS[1])],
    ids=["the installer says no", "the installer's flash fails", "the flash fails"],
)
def test_a_way_back_that_fails_is_left_to_the_boot_loader(method, error):
    rig = wanting(signed(IMAGE))
    rig.run(lambda: rig.client.status.state == "rebooting")
    rig.peer.up = False
    rig.run(lambda: rig.reboots == 1)
    rig.machine.fail[method] = error
    rig.run(lambda: rig.reboots == 2)
    rig.machine.fail = {}
    assert rig.machine.running["name"] is None
    rig.peer.up = True
    if method == "save":
        rig.boot()  # what could not be recorded at that start is told after the next
    rig.run(lambda: "rolled_back" in rig.peer.states())


@pytest.mark.parametrize("error", ERRORS, ids=["InstallError", "OSError"])
def test_a_slot_that_cannot_say_what_runs_costs_no_start(error):
    rig = Rig(Peer())

    def booted():
        raise error

    rig.machine.booted = booted
    rig.run(lambda: rig.client.status.state == "online")
