"""`firstlight serve` as a process: health, drain, start errors. `firstlight status` beside it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from service.app import StartError, serve_until
from service.settings import load_settings
from tests.support.installation import Installation, free_ports


@pytest.fixture
def site(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_service_and_it_ends_with_exit_code_0(site: Installation, number: int) -> None:
    with site.serving(FIRSTLIGHT_LOG__FORMAT="json") as serving:
        health = serving.wait_until(200)
        assert set(health["links"]) == {"local bootstrap", "local operational"}
        code, output = serving.stop(number)
    assert code == 0, output
    messages = [json.loads(line)["message"] for line in output.splitlines()]
    assert messages[-1] == "firstlight has stopped"


def test_status_and_stats_tell_of_a_service_that_runs_and_of_one_that_does_not(site: Installation) -> None:
    with site.serving() as serving:
        serving.wait_until(200)
        found = serving.get("/stats")
        assert found is not None
        assert found[1]["counters"] == {}
        running = site.run("status", "--json")
        assert running.returncode == 0, running.stderr
        assert json.loads(running.stdout)["service"]["ok"] is True
        assert serving.stop()[0] == 0
    stopped = site.run("status")
    assert stopped.returncode == 3
    assert "does not run" in stopped.stdout
    assert "devices: none" in stopped.stdout


async def _refusal(site: Installation) -> str:
    with pytest.raises(StartError) as refused:
        await serve_until(load_settings(site.config), asyncio.Event())
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_port_in_use_ends_the_process_with_one_line_and_no_trace(site: Installation) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.bootstrap))
        other.listen()
        refused = site.run("serve")
    assert refused.returncode == 1
    assert refused.stderr.startswith("firstlight: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("taken", ["health", "operational"])
async def test_a_port_in_use_is_an_ordinary_start_error(site: Installation, taken: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", getattr(site, taken)))
        other.listen()
        assert f"cannot listen on 127.0.0.1:{getattr(site, taken)}" in await _refusal(site)


def _with_web(site: Installation, *lines: str) -> None:
    text = site.config.read_text()
    site.config.write_text(text + "\n[web]\n" + "\n".join(lines) + "\n")


async def test_a_port_of_the_web_in_use_is_an_ordinary_start_error(site: Installation) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        _with_web(site, f"port = {port}")
        assert f"cannot listen on 127.0.0.1:{port} (web)" in await _refusal(site)


async def test_plain_http_to_elsewhere_is_an_ordinary_start_error(site: Installation) -> None:
    _with_web(site, "port = 0", 'host = "0.0.0.0"')
    assert "there is no plain HTTP to elsewhere" in await _refusal(site)


def test_the_web_is_drained_with_the_rest_and_a_request_under_way_is_answered(site: Installation) -> None:
    port = free_ports(1)[0]
    _with_web(site, f"port = {port}")
    body = json.dumps({"session": "5" * 32, "group_id": "g", "serial": "s", "nonce": "A" * 22}).encode()
    head = f"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with site.serving(FIRSTLIGHT_LOG__FORMAT="json") as serving:
        serving.wait_until(200)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/nowhere", timeout=10)
        with refused.value as answer:
            assert (answer.code, json.load(answer)["code"]) == (404, "NOT_FOUND")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as asking:
            asking.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
            assert asking.recv(1000).startswith(b"HTTP/1.1 100 ")  # the route waits for the body
            asking.sendall(body[:10])
            serving.process.send_signal(signal.SIGTERM)
            assert _ends(port)
            with pytest.raises(subprocess.TimeoutExpired):  # it waits for us, and not only for a moment
                serving.process.wait(0.5)
            asking.sendall(body[10:])
            with asking.makefile("rb") as answered:
                said, _, reply = answered.read().partition(b"\r\n\r\n")
        code, output = serving.process.wait(30), serving.log.read_text()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert json.loads(reply)["expires_s"] == 120
    assert code == 0, output
    assert json.loads(output.splitlines()[-1])["message"] == "firstlight has stopped"


def _ends(port: int, within_s: float = 20.0) -> bool:
    """Wait until nobody takes connections there any more."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return True
        time.sleep(0.02)
    return False


async def test_a_missing_key_file_is_an_ordinary_start_error(site: Installation) -> None:
    (site.folder / "data" / "keys.json").unlink()
    assert "keys.json is missing" in await _refusal(site)


async def test_secrets_that_the_keys_at_hand_do_not_open_are_an_ordinary_start_error(site: Installation) -> None:
    database = site.folder / "data" / "firstlight.db"
    assert site.run("product", "create", "p", "--name", "P", "--hardware", "r").returncode == 0
    assert site.run("group", "create", "g", "--product", "p").returncode == 0
    assert site.run("device", "register", "g", "sn-1").returncode == 0
    before = database.read_bytes()
    assert site.run("keys", "rotate").returncode == 0
    database.write_bytes(before)
    assert "which keys.json does not hold" in await _refusal(site)


async def test_a_missing_database_and_a_newer_schema_are_ordinary_start_errors(site: Installation) -> None:
    database = site.folder / "data" / "firstlight.db"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert "schema 9999, newer than" in await _refusal(site)
    database.unlink()
    assert "no Firstlight database" in await _refusal(site)


def test_an_unknown_key_in_the_configuration_ends_a_command_with_one_line(site: Installation) -> None:
    site.config.write_text("colour = 1\n" + site.config.read_text())
    refused = site.run("serve")
    assert (refused.returncode, refused.stderr) == (1, "firstlight: firstlight.toml: colour: unknown key\n")


def test_a_broker_that_cannot_be_reached_is_no_start_error_but_shows_in_health(site: Installation) -> None:
    text = site.config.read_text().replace('broker = "embedded"', 'broker = "none"')
    links = "".join(
        f'[environments.local.links.{role}]\nhost = "127.0.0.1"\nport = {port}\n'
        for role, port in (("bootstrap", site.bootstrap), ("operational", site.operational))
    )
    site.config.write_text(text + links)
    with site.serving() as serving:
        health = serving.wait_until(503)
        assert sorted(problem.split(":")[0] for problem in health["problems"]) == [
            "link local bootstrap",
            "link local operational",
        ]
        status = site.run("status")
        assert status.returncode == 1
        assert "has problems" in status.stdout
        assert serving.stop()[0] == 0
