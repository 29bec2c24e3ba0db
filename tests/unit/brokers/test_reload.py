"""Telling Mosquitto to reload by signal: nobody else may be hit."""

import asyncio
import signal
import subprocess

import pytest

from service.brokers.gate import GateError
from service.brokers.mosquitto.gate import reload_by_signal


def reload(pid_file):
    asyncio.run(reload_by_signal(pid_file)())


def test_a_pid_file_that_names_a_stranger_signals_nobody(tmp_path):
    stranger = subprocess.Popen(["sleep", "60"])
    pid_file = tmp_path / "mosquitto.pid"
    pid_file.write_text(f"{stranger.pid}\n")
    try:
        with pytest.raises(GateError, match="'sleep'"):
            reload(pid_file)
    finally:
        stranger.terminate()
    assert stranger.wait(10) == -signal.SIGTERM  # a SIGHUP would have come first


def test_a_pid_file_that_names_a_mosquitto_signals_it(tmp_path):
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o700)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as broker:
        (tmp_path / "pid").write_text(f"{broker.pid}\n")
        reload(tmp_path / "pid")
        assert broker.wait(10) == -signal.SIGHUP


@pytest.mark.parametrize("content", ["", "x", "0", "-1", "1 2", str(2**40)])
def test_a_pid_file_that_names_no_process_is_an_error_of_the_gate(tmp_path, content):
    (tmp_path / "pid").write_text(content)
    with pytest.raises(GateError):
        reload(tmp_path / "pid")


def test_a_process_that_has_ended_is_an_error_of_the_gate(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait(10)
    (tmp_path / "pid").write_text(str(ended.pid))
    with pytest.raises(GateError):
        reload(tmp_path / "pid")
