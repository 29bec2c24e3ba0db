"""What every driver must do for the core, held against both of them over a real socket."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import pytest

from device_sdk.core import actions
from device_sdk.drivers import aio, connection
from device_sdk.drivers.threaded import ThreadedDriver
from tests.support.certificates import Authority, server_context
from tests.support.impostor import KINDS, impostor
from tests.support.mqtt_server import MqttServer


class ScriptedCore:
    """Stands where the core stands: asks for what the test gives it, and remembers what it is told.

    `script` maps the first word of a call ("start", "connected", ...) to the actions that follow it.
    """

    def __init__(self, script):
        self.script = script
        self.calls = []
        self.wake_at = None
        self._wanted = []

    def _call(self, *call):
        self.calls.append(call)
        self._wanted += self.script.get(call[0], [])

    def start(self, now):
        self._call("start")

    def connected(self, now):
        self._call("connected")

    def connect_failed(self, reason, now):
        self._call("connect_failed", reason)

    def disconnected(self, now):
        self._call("disconnected")

    def received(self, topic, payload, now):
        self._call("received", topic, payload)

    def tick(self, now):
        self.wake_at = None
        self._call("tick")

    def actions(self):
        wanted, self._wanted = self._wanted, []
        return wanted


def run_aio(core):
    async def bounded():
        async with asyncio.timeout(30):
            return await aio.Driver(core).run(asyncio.Event())

    return asyncio.run(bounded())


def run_threaded(core):
    return ThreadedDriver(core).run()


@pytest.fixture(params=[run_aio, run_threaded], ids=["aio", "threaded"])
def run(request):
    return request.param


def echo(_client_id, topic, payload):
    return [(topic.replace("/up/", "/dn/"), payload)]


def connect(port, host="127.0.0.1", **fields):
    values = {
        "tls": False,
        "ca_pem": None,
        "client_id": "c" * 32,
        "username": "c" * 32,
        "password": "k" * 64,
        "certificate_pem": None,
        "private_key_pem": None,
        "keepalive_s": 30,
        "subscribe": ["pv1/c/x/dn/+"],
    }
    return actions.Connect(host, port, **{**values, **fields})


END = [actions.Reboot()]


def test_what_the_core_publishes_arrives_and_what_is_sent_back_is_received(run):
    with MqttServer(echo) as server:
        core = ScriptedCore(
            {
                "start": [connect(server.port)],
                "connected": [actions.Publish("pv1/c/x/up/online", b"\x00one", 1)],
                "received": END,
            }
        )
        assert run(core) == "reboot"
    assert core.calls == [("start",), ("connected",), ("received", "pv1/c/x/dn/online", b"\x00one")]


def test_the_login_of_the_connect_action_is_used(run):
    seen = []
    with MqttServer(echo) as server:
        server.login = lambda *who: seen.append(who) or True
        run(ScriptedCore({"start": [connect(server.port)], "connected": END}))
    assert seen == [("c" * 32, "c" * 32, "k" * 64)]


@pytest.mark.parametrize(("code", "reason"), [(2, "refused"), (3, "unreachable"), (4, "refused"), (5, "refused")])
def test_a_refused_login_is_told_apart_from_a_broker_that_cannot(run, code, reason):
    with MqttServer(echo) as server:
        server.connack = code
        core = ScriptedCore({"start": [connect(server.port)], "connect_failed": END})
        run(core)
    assert core.calls[-1] == ("connect_failed", reason)


def test_nobody_listening_is_unreachable(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        core = ScriptedCore({"start": [connect(taken.getsockname()[1])], "connect_failed": END})
        run(core)
    assert core.calls[-1] == ("connect_failed", "unreachable")


def test_a_cut_connection_is_told_and_the_next_one_works(run):
    with MqttServer(echo) as server:
        core = ScriptedCore({"start": [connect(server.port)], "disconnected": [connect(server.port)]})

        def connected(now):
            core._call("connected")
            if core.calls.count(("connected",)) == 1:
                server.cut()
            else:
                core._wanted += END

        core.connected = connected
        run(core)
    assert core.calls == [("start",), ("connected",), ("disconnected",), ("connected",)]


def test_a_disconnect_that_the_core_asked_for_is_not_told(run):
    with MqttServer(echo) as server:
        core = ScriptedCore({"start": [connect(server.port)], "connected": [actions.Disconnect()], "tick": END})

        def connected(now):
            core._call("connected")
            core.wake_at = now + 0.3  # counted from here: connecting may take longer

        core.connected = connected
        run(core)
    assert core.calls == [("start",), ("connected",), ("tick",)]


def test_a_disconnect_of_a_connection_that_tls_has_just_lost_is_not_told_either(run):
    authority = Authority()
    with tls_server(authority, "127.0.0.1") as server:
        wish = connect(server.port, tls=True, ca_pem=authority.pem)
        core = ScriptedCore({"start": [wish]})

        def connected(now):
            core._call("connected")
            core.wake_at = now

        def tick(now):
            core._call("tick")
            if core.calls.count(("tick",)) == 1:
                for writer in server._writers:  # so that the cut is a reset
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4)
                    )
                server.cut()
                time.sleep(0.2)  # until it is here: the driver's own DISCONNECT meets it
                core._wanted.append(actions.Disconnect())
                core.wake_at = time.monotonic() + 0.3
            else:
                core._wanted += END

        core.connected, core.tick = connected, tick
        run(core)
    assert core.calls == [("start",), ("connected",), ("tick",), ("tick",)]


def test_the_core_is_woken_when_it_asked_to_be(run):
    core = ScriptedCore({"tick": END})
    began = time.monotonic()
    core.wake_at = began + 0.2
    run(core)
    assert 0.2 <= time.monotonic() - began < 20


def test_a_full_pair_of_windows_is_received_whole_and_in_order(run):
    chunks = [bytes([index % 256]) * 2048 for index in range(2 * 256)]
    with MqttServer(lambda *_: [("pv1/c/x/dn/chunk", chunk) for chunk in chunks]) as server:
        core = ScriptedCore(
            {"start": [connect(server.port)], "connected": [actions.Publish("pv1/c/x/up/fetch", b"", 0)]}
        )

        def received(topic, payload, now):
            core._call("received", topic, payload)
            if len(core.calls) == 2 + len(chunks):
                core._wanted += END

        core.received = received
        run(core)
    assert [call[2] for call in core.calls[2:]] == chunks


def tls_server(authority, *hosts, client_authority=None):
    context = server_context(authority, *hosts)
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_authority.pem)
    return MqttServer(echo, tls=context)


@pytest.mark.parametrize(
    ("pinned", "hosts", "expected"),
    [
        ("right", ["127.0.0.1"], ("connected",)),
        ("wrong", ["127.0.0.1"], ("connect_failed", "tls")),
        ("system", ["127.0.0.1"], ("connect_failed", "tls")),
        ("right", ["other.example"], ("connect_failed", "tls")),
        ("garbage", ["127.0.0.1"], ("connect_failed", "tls")),
    ],
)
def test_only_the_pinned_authority_and_the_right_host_name_are_believed(run, pinned, hosts, expected):
    right = Authority()
    pem = {"right": right.pem, "wrong": Authority().pem, "system": None, "garbage": "-----BEGIN X"}[pinned]
    with tls_server(right, *hosts) as server:
        core = ScriptedCore(
            {"start": [connect(server.port, tls=True, ca_pem=pem)], "connected": END, "connect_failed": END}
        )
        run(core)
    assert core.calls[-1] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_somebody_between_device_and_broker_is_told_as_tls_and_hears_nothing(run, kind):
    trusted = Authority()
    with impostor(kind, trusted) as server:
        wish = connect(server.port, tls=True, ca_pem=trusted.pem)
        core = ScriptedCore({"start": [wish], "connected": END, "connect_failed": END})
        run(core)
    assert core.calls[-1] == ("connect_failed", "tls")
    assert server.connections == 1
    assert server.heard == b""
    assert not any(word in server.raw for word in (b"MQTT", b"c" * 32, b"k" * 64))


def test_a_client_certificate_from_memory_is_presented(run):
    authority = Authority()
    certificate, key = authority.issue("c" * 32)
    with tls_server(authority, "127.0.0.1", client_authority=authority) as server:
        wish = connect(
            server.port,
            tls=True,
            ca_pem=authority.pem,
            username=None,
            password=None,
            certificate_pem=certificate,
            private_key_pem=key,
        )
        core = ScriptedCore({"start": [wish], "connected": END, "connect_failed": END})
        run(core)
    assert core.calls[-1] == ("connected",)


@contextlib.contextmanager
def unwilling_server(authority):
    """Refuses the client's certificate once, as OpenSSL does it: with an alert, after the client's handshake."""
    context = server_context(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.pem)

    def serve():
        plain, _ = listener.accept()
        with plain, contextlib.suppress(ssl.SSLError), context.wrap_socket(plain, server_side=True):
            raise AssertionError("let in")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_a_certificate_that_the_broker_does_not_want_is_a_refusal_and_known_at_once(run):
    authority, began = Authority(), time.monotonic()
    certificate, key = Authority().issue("c" * 32)
    with unwilling_server(authority) as port:
        wish = connect(
            port, tls=True, ca_pem=authority.pem, username=None, password=None,
            certificate_pem=certificate, private_key_pem=key,
        )  # fmt: skip
        core = ScriptedCore({"start": [wish], "connected": END, "connect_failed": END})
        run(core)
    assert core.calls[-1] == ("connect_failed", "refused")
    assert time.monotonic() - began < connection.CONNECT_TIMEOUT_S


def test_plain_text_where_tls_was_expected_fails_as_tls(run):
    with MqttServer(echo) as server:
        core = ScriptedCore({"start": [connect(server.port, tls=True, ca_pem=Authority().pem)], "connect_failed": END})
        run(core)
    assert core.calls[-1][0] == "connect_failed"


def test_the_threaded_driver_stops_when_told():
    with MqttServer(echo) as server:
        core = ScriptedCore({"start": [connect(server.port)]})
        driver = ThreadedDriver(core)
        core.connected = lambda now: driver.stop()
        assert driver.run() == "stopped"


async def test_the_asyncio_driver_stops_when_told():
    with MqttServer(echo) as server:
        stop = asyncio.Event()
        core = ScriptedCore({"start": [connect(server.port)]})
        core.connected = lambda now: stop.set()
        async with asyncio.timeout(20):
            assert await aio.run(core, stop=stop) == "stopped"


async def test_an_error_of_the_flash_while_a_message_is_handled_is_raised():
    with MqttServer(echo) as server:
        core = ScriptedCore(
            {"start": [connect(server.port)], "connected": [actions.Publish("pv1/c/x/up/online", b"", 1)]}
        )

        def received(topic, payload, now):
            raise OSError(28, "No space left on device")

        core.received = received
        async with asyncio.timeout(20):
            with pytest.raises(OSError, match="No space"):
                await aio.run(core, stop=asyncio.Event())
