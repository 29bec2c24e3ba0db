"""Environments: added to an installation, checked, and served by one process each on the same database."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import time
from base64 import b64encode

import pytest

from tests.support.installation import Installation, serving
from tests.support.plain_client import PlainDevice
from tests.support.ports import free_ports

SECRET = bytes(range(32))


@pytest.fixture
def site(tmp_path):
    """An installation with a second embedded environment, on ports of its own."""
    made = Installation(tmp_path / "firstlight")
    added = made.run("environment", "add", "second", "--broker", "embedded", "--port-offset", "7")
    assert added.returncode == 0, added.stderr
    made.second = free_ports(2)
    text = made.config.read_text()
    for old, new in zip((1891, 1890), made.second, strict=True):
        assert f"port = {old}" in text
        text = text.replace(f"port = {old}", f"port = {new}")
    made.config.write_text(text)
    return made


def checks(site, *words):
    done = site.run("environment", "check", *words, "--json")
    return done.returncode, json.loads(done.stdout)["checks"]


def connect(device, within_s=20.0):
    """A login that another process has promised may take a second."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return device.connect()
        except (RuntimeError, OSError, ConnectionError):
            assert time.monotonic() < deadline, "never let in"
            time.sleep(0.2)


def test_each_environment_has_a_process_of_its_own_on_one_database(site):
    listed = json.loads(site.run("environment", "list", "--json").stdout)["environments"]
    assert [one["environment"] for one in listed] == ["local", "second"]
    for words in (
        ("product", "create", "th", "--name", "Thermometer", "--hardware", "a"),
        ("group", "create", "g", "--product", "th", "--key-kind", "derived", "--secret", b64encode(SECRET).decode(),
         "--self-registration", "--ou", "acme", "--environment", "second"),
    ):  # fmt: skip
        done = site.run(*words)
        assert done.returncode == 0, done.stderr
    (health,) = free_ports(1)
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(site.serving(FIRSTLIGHT_SERVE='["local"]'))
        other = {"FIRSTLIGHT_SERVE": '["second"]', "FIRSTLIGHT_HTTP__PORT": str(health)}
        second = stack.enter_context(serving(site.config, health, **other))
        assert set(local.wait_until(200)["links"]) == {"local bootstrap", "local operational"}
        assert set(second.wait_until(200)["links"]) == {"second bootstrap", "second operational"}
        code, found = checks(site)
        assert [one for one in found if not one["ok"]] == []
        assert (code, len(found)) == (0, 4)
        # The device knows the bootstrap of `local` only; it belongs to `second`, whose process lets it in.
        device = PlainDevice("g", "P-1", hmac.new(SECRET, b"P-1", hashlib.sha256).digest())
        device.activate("127.0.0.1", site.bootstrap)
        connect(device)
        assert device.current() is None  # the first word on the new login confirms it
        device.link.close()
    shown = json.loads(site.run("device", "show", "g/P-1", "--json").stdout)
    assert (shown["state"], shown["thing"]["environment"]) == ("confirmed", "second")


def test_an_environment_that_nobody_serves_fails_its_check(site):
    code, found = checks(site, "second")
    assert code == 1
    assert [one["ok"] for one in found] == [False, False]


def test_only_a_new_environment_with_free_ports_is_added(site):
    before = site.config.read_text()
    for words, problem in (
        (("add", "second"), "there is an environment second"),
        (("add", "third", "--host", "a b"), "--host"),
        (("add", "a/b"), "letters, digits"),
        (("check", "third"), "no environment third"),
    ):
        done = site.run("environment", *words)
        assert (done.returncode, problem in done.stderr) == (1, True), done.stderr
    assert site.config.read_text() == before
    served = site.run("serve", "--environment", "third")
    assert served.returncode == 1
    assert "no environment third" in served.stderr
