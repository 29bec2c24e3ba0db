"""The firstlight-device program as a user runs it: options, lines, exit codes."""

import base64
import hashlib
import json

import pytest

from tests.support.agents import KEY, SERIAL, run_agent, scripted_site, write_config
from tests.support.certificates import Authority, server_context


@pytest.mark.parametrize("driver", ["aio", "threaded"])
def test_one_device_goes_from_nothing_to_confirmed_firmware(tmp_path, driver):
    with scripted_site() as (service, server):
        done = run_agent(
            write_config(tmp_path, server.port), "--once", "--allow-plaintext", "--json", "--driver", driver
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
        assert "restart" in events
        assert service.confirmed == {SERIAL}
        assert (tmp_path / "state" / "slots" / "current").read_bytes() == service.image
        assert hashlib.sha256(service.image).hexdigest() == service.image_id
        assert not server.errors


def test_a_second_run_comes_back_with_its_credential_and_fetches_nothing(tmp_path):
    with scripted_site() as (service, server):
        config = write_config(tmp_path, server.port)
        run_agent(config, "--once", "--allow-plaintext")
        served = sum(service.served.values())
        assert run_agent(config, "--once", "--allow-plaintext").returncode == 0
        assert service.activations[SERIAL] == 1
        assert sum(service.served.values()) == served


def test_with_reboot_exit_the_program_ends_with_ten_and_the_next_start_confirms(tmp_path):
    with scripted_site() as (service, server):
        config = write_config(tmp_path, server.port)
        options = ("--once", "--allow-plaintext", "--reboot", "exit")
        assert run_agent(config, *options).returncode == 10
        assert not service.confirmed
        assert run_agent(config, *options).returncode == 0
        assert service.confirmed == {SERIAL}


def test_a_failing_health_command_brings_the_old_firmware_back(tmp_path):
    with scripted_site() as (service, server):
        done = run_agent(
            write_config(tmp_path, server.port), "--once", "--allow-plaintext", "--health-command", "/bin/false"
        )
        assert done.returncode == 0, done.stdout
        assert service.firmware[SERIAL]["state"] in ("rolled_back", "failed")


def test_no_line_holds_the_key_or_the_api_key(tmp_path):
    with scripted_site() as (service, server):
        done = run_agent(write_config(tmp_path, server.port), "--once", "--allow-plaintext", "--verbose")
        text = done.stdout + done.stderr
        assert "activated" in text
        for secret in [KEY.hex(), base64.b64encode(KEY).decode(), repr(KEY), *service.api_keys.values()]:
            assert secret not in text


def test_a_broker_without_tls_needs_the_option(tmp_path):
    done = run_agent(write_config(tmp_path, 1), "--once")
    assert done.returncode == 3
    assert "--allow-plaintext" in done.stdout


def test_a_missing_configuration_is_exit_code_three(tmp_path):
    assert run_agent(tmp_path / "missing.json").returncode == 3


def test_a_state_directory_that_cannot_be_one_is_exit_code_four(tmp_path):
    (tmp_path / "state").write_text("a file")
    assert run_agent(write_config(tmp_path, 1), "--allow-plaintext").returncode == 4


def test_once_gives_up_after_its_timeout(tmp_path):
    with scripted_site() as (_, server):
        server.connack = 3
        config = write_config(tmp_path, server.port)
        assert run_agent(config, "--once", "--allow-plaintext", "--timeout", "1").returncode == 5


@pytest.mark.parametrize("driver", ["aio", "threaded"])
def test_over_tls_with_pinned_authorities_the_whole_way_works_without_the_option(tmp_path, driver):
    authority = Authority()
    with scripted_site(tls=server_context(authority, "127.0.0.1")) as (service, server):
        service.ca = authority.pem
        (tmp_path / "ca.pem").write_text(authority.pem)
        endpoint = {"host": "127.0.0.1", "port": server.port, "ca": "ca.pem"}
        done = run_agent(write_config(tmp_path, 1, bootstrap=[endpoint]), "--once", "--driver", driver)
        assert done.returncode == 0, done.stdout + done.stderr
        assert service.confirmed == {SERIAL}


def test_a_broker_of_another_authority_gets_not_one_message(tmp_path):
    with scripted_site(tls=server_context(Authority(), "127.0.0.1")) as (_, server):
        (tmp_path / "ca.pem").write_text(Authority().pem)
        endpoint = {"host": "127.0.0.1", "port": server.port, "ca": "ca.pem"}
        config = write_config(tmp_path, 1, bootstrap=[endpoint])
        done = run_agent(config, "--once", "--timeout", "5", "--verbose")
        assert done.returncode == 5
        assert "connect_tls" in done.stdout
        assert server.connects == []


def test_a_grant_without_tls_is_not_followed_unless_the_option_allows_it(tmp_path):
    authority = Authority()
    with scripted_site(tls=server_context(authority, "127.0.0.1")) as (service, server):
        (tmp_path / "ca.pem").write_text(authority.pem)
        endpoint = {"host": "127.0.0.1", "port": server.port, "ca": "ca.pem"}
        done = run_agent(write_config(tmp_path, 1, bootstrap=[endpoint]), "--once", "--timeout", "5")
        assert done.returncode == 5
        assert service.activations[SERIAL] >= 1
        assert not service.confirmed
        assert not any(client in service.api_keys for client in server.connects)
