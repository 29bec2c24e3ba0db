"""The real firstlight-device program killed at named points, and started again until its firmware is confirmed.

Each case is one SIGKILL in the first start (activation, download, installation) or in the second (the new image on
trial). Afterwards the device is whole and has been activated at most once more than needed. Of the chunks that it had
received no more than one window is fetched again. What was still on its way is lost with the connection and sent again;
here that is at most the two windows outstanding.
"""

import signal

import pytest

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


def kill_and_recover(tmp_path, start, name, number):
    with scripted_site(IMAGE_BYTES) as (service, server):
        config = write_config(tmp_path, server.port)
        if start == SECOND:
            assert run_agent(config, *OPTIONS).returncode == AGENT_EXIT_RESTART
        killed = run_agent(config, *OPTIONS, failpoint=f"{name}:{number}")
        assert killed.returncode == -signal.SIGKILL, "the point was not reached\n" + killed.stdout
        asked = list(service.windows)
        for _ in range(4):
            done = run_agent(config, *OPTIONS)
            if done.returncode == 0:
                break
            assert done.returncode == AGENT_EXIT_RESTART, done.stdout + done.stderr
        assert done.returncode == 0, done.stdout
        assert service.confirmed == {SERIAL}
        assert (tmp_path / "state" / "slots" / "current").read_bytes() == service.image
        assert service.activations[SERIAL] <= 2
        again = sum(count - 1 for count in service.served.values())
        assert again <= sum(len(window) for window in asked[-2:])
        if name in ("slots.before_chunk", "slots.chunk_written"):
            # Chunks come in order, so the first `number` of them had been received.
            twice = [index for window in service.windows[len(asked) :] for index in window if index < number]
            assert len(twice) <= max(len(window) for window in asked)
            assert len(twice) == len(set(twice))
        assert not server.errors


@pytest.mark.parametrize(("start", "name", "number"), FEW)
def test_killed_at_one_of_a_few_points_the_device_ends_confirmed(tmp_path, start, name, number):
    kill_and_recover(tmp_path, start, name, number)


@pytest.mark.long
@pytest.mark.parametrize(("start", "name", "number"), MANY)
def test_killed_at_any_point_the_device_ends_confirmed(tmp_path, start, name, number):
    kill_and_recover(tmp_path, start, name, number)
