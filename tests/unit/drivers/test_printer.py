"""What `firstlight-device` prints must not stop it."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from device_sdk.core import actions
from device_sdk.drivers.agent import Printer


class Full(io.StringIO):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def flush(self) -> None:
        raise OSError(self.code, "no")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EPIPE])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_that_cannot_be_written_is_lost_and_the_device_goes_on(monkeypatch, code: int, as_json: bool) -> None:
    monkeypatch.setattr(sys, "stdout", Full(code))
    printer = Printer(as_json=as_json, verbose=False)
    printer.note(actions.Note("info", "activated", "x"))
    printer.line("error", "state_directory", "no space")
