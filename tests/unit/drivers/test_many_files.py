"""A program with many open files: the threaded driver's socket may have a high number."""

from __future__ import annotations

import os
import resource
import socket

import pytest

from device_sdk.drivers import threaded

HIGH = 1500  # select() takes none above 1023


@pytest.fixture
def pair():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= HIGH:
        pytest.skip("so many files may not be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HIGH + 1), hard))
    one, other = socket.socketpair()
    high = socket.socket(fileno=os.dup2(one.fileno(), HIGH))
    yield high, other
    for sock in (high, one, other):
        sock.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_socket_with_a_high_number_is_waited_for(pair):
    high, other = pair
    assert threaded._wait(high, 0.0) == (False, False)
    assert threaded._wait(high, 0.0, to_write=True) == (False, True)
    other.send(b"x")
    assert threaded._wait(high, 10.0) == (True, False)
    assert threaded._more(high)
    high.recv(1)
    other.close()
    assert threaded._wait(high, 10.0)[0]  # the end is something to read
