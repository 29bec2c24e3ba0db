"""The real firstlight-device program killed at named points, and started again until its firmware is confirmed.

Each case is one SIGKILL in the first start (activation, download, installation) or in the second (the new image on
trial). Afterwards the device is whole and has been activated at most once more than needed. Of the chunks that it had
received no more than one window is fetched again, and of those in its record none. What was still on its way is lost
with the connection and sent again: two windows, or more where the device has seen the line stand idle.
"""

import json
import signal

import pytest

from device_sdk.core.records import Records
from device_sdk.drivers.failpoints import NAMES
from device_sdk.drivers.store import FileFlash
from device_sdk.wire import frames
from tests.support.agents import AGENT_EXIT_RESTART, SERIAL, run_agent, scripted_site, write_config

IMAGE_BYTES = 2_500_001  # several windows of the default size, and a last chunk of an odd length
OPTIONS = ("--once", "--allow-plaintext", "--reboot", "exit")
FIRST, SECOND = "first start", "second start"

FEW = [
    (FIRST, "flash.written", 2),
    (FIRST, "slots.chunk_written", 60),
    (FIRST, "slots.installed", 1),
    (SECOND, "slots.before_confirm", 1),
]
MANY = [
    *[(FIRST, f"flash.{point}", n) for point in ("before_write", "written", "synced", "renamed") for n in (1, 2, 3, 5)],
    *[(FIRST, "flash.dir_synced", n) for n in (1, 2, 4, 6)],
    *[(FIRST, f"slots.{point}", 1) for point in ("before_boot", "booted", "before_begin", "forgotten", "begun")],
    *[(FIRST, "slots.before_chunk", n) for n in (1, 17, 100)],
    *[(FIRST, "slots.chunk_written", n) for n in (1, 16, 48, 152)],
    *[(FIRST, f"slots.{point}", 1) for point in ("before_install", "image_synced")],
    *[(FIRST, f"record.{point}", n) for point in ("before_write", "written", "renamed") for n in (1, 2, 3)],
    (FIRST, "agent.before_reboot", 1),
    *[(SECOND, f"slots.{point}", 1) for point in ("before_boot", "booted", "confirmed")],
    *[(SECOND, f"flash.{point}", n) for point in ("before_write", "written", "renamed") for n in (1, 2, 3)],
    *[(SECOND, f"record.{point}", n) for point in ("before_write", "written", "renamed") for n in (1, 2)],
]
# An image that is not healthy is reverted in the second start, and tried once more before it is given up.
REVERTING = [(SECOND, f"slots.{point}", 1) for point in ("before_revert", "reverted")]
SETTINGS = [(FIRST, f"settings.{point}", 1) for point in ("written", "synced", "renamed", "dir_synced")]
VALUES = {"interval_s": 60, "name": "roof"}


def test_every_named_point_is_killed_at() -> None:
    assert {name for _, name, _ in [*FEW, *MANY, *REVERTING, *SETTINGS]} == set(NAMES)


def kill_and_recover(tmp_path, start, name, number):
    with scripted_site(IMAGE_BYTES) as (service, server):
        config = write_config(tmp_path, server.port)
        if start == SECOND:
            assert run_agent(config, *OPTIONS).returncode == AGENT_EXIT_RESTART
        killed = run_agent(config, *OPTIONS, failpoint=f"{name}:{number}")
        assert killed.returncode == -signal.SIGKILL, "the point was not reached\n" + killed.stdout
        asked, recorded = list(service.windows), recorded_chunks(tmp_path)
        for _ in range(4):
            done = run_agent(config, *OPTIONS)
            if done.returncode == 0:
                break
            assert done.returncode == AGENT_EXIT_RESTART, done.stdout + done.stderr
        assert done.returncode == 0, done.stdout
        assert service.confirmed == {SERIAL}
        assert (tmp_path / "state" / "slots" / "current").read_bytes() == service.image
        assert service.activations[SERIAL] <= 2
        assert not recorded & {index for window in service.windows[len(asked) :] for index in window}
        if name in ("slots.before_chunk", "slots.chunk_written"):
            # Chunks come in order, so the first `number` of them had been received.
            twice = [index for window in service.windows[len(asked) :] for index in window if index < number]
            assert len(twice) <= max(len(window) for window in asked)
            assert len(twice) == len(set(twice))
        assert not server.errors


def recorded_chunks(tmp_path):
    """What the device will know that it has."""
    progress = Records(FileFlash(tmp_path / "state" / "records")).load("progress")
    if progress is None:
        return set()
    return {*range(progress["low"]), *frames.bitmap_indexes(progress["low"], progress["bits"])}


@pytest.mark.parametrize(("start", "name", "number"), FEW)
def test_killed_at_one_of_a_few_points_the_device_ends_confirmed(tmp_path, start, name, number):
    kill_and_recover(tmp_path, start, name, number)


@pytest.mark.long
@pytest.mark.sampled(20)
@pytest.mark.parametrize(("start", "name", "number"), MANY)
def test_killed_at_any_point_the_device_ends_confirmed(tmp_path, start, name, number):
    kill_and_recover(tmp_path, start, name, number)


@pytest.mark.long
@pytest.mark.parametrize(("_start", "name", "number"), REVERTING)
def test_killed_while_it_goes_back_to_the_old_image_the_device_ends_on_it_and_says_why(tmp_path, _start, name, number):
    options = (*OPTIONS, "--health-command", "false")
    with scripted_site(IMAGE_BYTES) as (service, server):
        config = write_config(tmp_path, server.port)
        assert run_agent(config, *options).returncode == AGENT_EXIT_RESTART
        killed = run_agent(config, *options, failpoint=f"{name}:{number}")
        assert killed.returncode == -signal.SIGKILL, "the point was not reached\n" + killed.stdout
        for _ in range(8):
            done = run_agent(config, *options)
            if done.returncode != AGENT_EXIT_RESTART:
                break
        assert "slot-a" in (tmp_path / "state" / "slots" / "current").readlink().name, done.stdout
        assert service.firmware[SERIAL]["state"] in ("failed", "rolled_back")
        assert service.activations[SERIAL] == 1
        assert not server.errors


@pytest.mark.long
@pytest.mark.parametrize(("_start", "name", "number"), SETTINGS)
def test_killed_while_it_stores_settings_the_device_ends_with_them_whole(tmp_path, _start, name, number):
    with scripted_site(IMAGE_BYTES) as (service, server):
        service.settings = {"rev": 1, "values": VALUES}
        config = write_config(tmp_path, server.port)
        killed = run_agent(config, *OPTIONS, failpoint=f"{name}:{number}")
        assert killed.returncode == -signal.SIGKILL, "the point was not reached\n" + killed.stdout
        for _ in range(4):
            done = run_agent(config, *OPTIONS)
            if done.returncode == 0:
                break
            assert done.returncode == AGENT_EXIT_RESTART, done.stdout + done.stderr
        assert done.returncode == 0, done.stdout
        assert json.loads((tmp_path / "state" / "settings.json").read_text()) == VALUES
        assert service.settings_told[SERIAL]["rev"] == 1
        assert service.confirmed == {SERIAL}
        assert not server.errors
