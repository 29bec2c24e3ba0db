"""A broker that is killed while a device writes: the asyncio driver says so once, and asyncio says nothing."""

import asyncio
import contextlib
import gc
import socket
import struct
import threading
import time

import pytest

from device_sdk.core import actions
from device_sdk.drivers import aio, connection
from tests.support.certificates import Authority, server_context
from tests.unit.drivers.test_drivers import END, ScriptedCore, connect

ROUNDS = 6
PAYLOAD = bytes(200_000)
CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x01"


def reset(connection):
    """End it as a killed process's kernel does when bytes were unread."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextlib.contextmanager
def mortal_server(context, talk):
    """Accepts ROUNDS connections, does `talk(connection, round)` with each and resets it."""
    failures = []

    def serve():
        for number in range(ROUNDS):
            plain, _ = listener.accept()
            connection = plain
            try:
                if context is not None:
                    connection = context.wrap_socket(plain, server_side=True)
                talk(connection, number)
            except Exception as error:  # noqa: BLE001 - shown by the test
                failures.append(error)
            finally:
                reset(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], failures
        thread.join(20)


def run_recorded(core):
    """Run the driver; what asyncio's exception handler was told meanwhile and at the end."""
    told = []

    async def bounded():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        async with asyncio.timeout(60):
            await aio.Driver(core).run(asyncio.Event())
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(bounded())
    gc.collect()
    return told


def accept_and_read(connection, number):
    assert connection.recv(4096)
    connection.sendall(CONNACK)
    assert connection.recv(4096)
    connection.sendall(SUBACK)
    for _ in range(1 + number * 40):  # at another moment of the writing each time
        connection.recv(4096)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_peer_that_is_killed_during_writes_is_told_to_the_core_and_to_nobody_else(tls):
    authority = Authority()
    context = server_context(authority, "127.0.0.1") if tls else None
    with mortal_server(context, accept_and_read) as (port, failures):
        wish = connect(port, tls=tls, ca_pem=authority.pem if tls else None)
        writes = [actions.Publish("pv1/c/x/up/report", PAYLOAD, n % 2) for n in range(30)]
        core = ScriptedCore({"start": [wish], "connected": writes})

        def disconnected(now):
            core._call("disconnected")
            core._wanted += END if core.calls.count(("disconnected",)) == ROUNDS else [wish]

        core.disconnected = disconnected
        assert run_recorded(core) == []
    assert failures == []
    assert core.calls == [("start",), *[("connected",), ("disconnected",)] * ROUNDS]


def only_read(connection, number):
    assert number < 0 or connection.recv(1)  # the rest stays unread, for a reset


def answer_nothing(connection, _number):
    assert connection.recv(4096)


def accept_and_end(connection, _number):
    assert connection.recv(4096)
    connection.sendall(CONNACK)
    assert connection.recv(4096)


@pytest.mark.parametrize("talk", [lambda *_: None, only_read, answer_nothing, accept_and_end])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_connection_that_ends_before_it_stands_is_known_at_once(tls, talk):
    authority, began = Authority(), time.monotonic()
    context = server_context(authority, "127.0.0.1") if tls else None
    with mortal_server(context, talk) as (port, failures):
        wish = connect(port, tls=tls, ca_pem=authority.pem if tls else None)
        core = ScriptedCore({"start": [wish]})

        def connect_failed(reason, now):
            core._call("connect_failed", reason)
            core._wanted += END if len(core.calls) == 1 + ROUNDS else [wish]

        core.connect_failed = connect_failed
        assert run_recorded(core) == []
    assert failures == []
    assert core.calls == [("start",), *[("connect_failed", "unreachable")] * ROUNDS]
    assert time.monotonic() - began < connection.CONNECT_TIMEOUT_S  # all rounds together
