"""What a configuration file may say, and how a wrong one is refused: one line that names the place."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from service.cli import config_text
from service.installation import broker_plan, domain_environments
from service.settings import SettingsError, load_settings

EMBEDDED = config_text.embedded("local", "127.0.0.1")
MOSQUITTO = config_text.mosquitto("site", "broker.example", "mosquitto")


@pytest.fixture
def write(tmp_path: Path):
    def at(text: str) -> Path:
        path = tmp_path / "firstlight.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return at


def test_the_written_embedded_configuration_is_accepted(write, tmp_path: Path) -> None:
    settings = load_settings(write(EMBEDDED))
    assert settings.database_path == tmp_path / "data" / "firstlight.db"
    assert settings.environments["local"].broker == "embedded"
    assert settings.http.port == 8787


def test_the_written_mosquitto_configuration_is_accepted_and_gives_the_broker_plan(write, tmp_path: Path) -> None:
    settings = load_settings(write(MOSQUITTO))
    site = settings.environments["site"]
    assert site.endpoints.x509 is not None
    plan = broker_plan(settings, "site")
    assert plan.directory == tmp_path / "data" / "broker" / "site"
    assert plan.hostnames == ("broker.example",)
    assert plan.x509 is not None
    assert (plan.run_as, plan.x509.port) == ("mosquitto", config_text.X509_PORT)


def test_paths_are_relative_to_the_file(write, tmp_path: Path) -> None:
    text = MOSQUITTO.replace("port = 18831", 'port = 18831\npassword_file = "secrets/word"')
    links = load_settings(write(text)).environments["site"].links
    assert links is not None
    assert links.operational.password_file == tmp_path / "secrets" / "word"


def test_an_environment_variable_overrides_the_file(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTLIGHT_HTTP__PORT", "9000")
    monkeypatch.setenv("FIRSTLIGHT_ENVIRONMENTS__LOCAL__ENDPOINTS__API_KEY__PORT", "2883")
    monkeypatch.setenv("FIRSTLIGHT_LOG__FORMAT", "json")
    settings = load_settings(write(EMBEDDED))
    assert settings.http.port == 9000
    assert settings.http.host == "127.0.0.1"
    assert settings.log.format == "json"
    endpoints = settings.environments["local"].endpoints
    assert endpoints.api_key is not None
    assert endpoints.api_key.port == 2883
    assert endpoints.bootstrap.port == config_text.EMBEDDED_BOOTSTRAP_PORT


WRONG = [
    ("an unknown key at the top", 'dta_dir = "x"\n' + EMBEDDED, "dta_dir: unknown key"),
    ("an unknown key in a section", EMBEDDED.replace("[log]", "[log]\ncolour = 1"), "log.colour: unknown key"),
    ("an unknown key far down", EMBEDDED + "\nsni = 1\n", "environments.local.endpoints.api_key.sni: unknown key"),
    ("an unknown broker", EMBEDDED.replace('"embedded"', '"emqx"'), "environments.local.broker: "),
    ("a port out of range", EMBEDDED.replace("port = 1884", "port = 70000"), "endpoints.bootstrap.port: "),
    ("a section that is missing", 'data_dir = "x"', "environments: is missing"),
    ("TLS on the embedded broker", EMBEDDED.replace("tls = false", "tls = true"), "speaks no TLS"),
    ("Mosquitto without links", MOSQUITTO.split("# Where the service itself")[0], "needs links.bootstrap"),
    ("no TOML", "= 1", "is not TOML"),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_file_is_refused_in_one_line_that_names_the_place(write, text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(write(text))
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_misspelt_section_in_a_variable_is_refused(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTLIGHT_HTPP__PORT", "9000")
    with pytest.raises(SettingsError, match="FIRSTLIGHT_HTPP__PORT"):
        load_settings(write(EMBEDDED))


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="firstlight init"):
        load_settings(tmp_path / "firstlight.toml")


def test_history_is_kept_as_long_as_the_configuration_says(write) -> None:
    settings = load_settings(write(EMBEDDED.replace("events_days = 90", "events_days = 7")))
    assert (settings.history.events_days, settings.history.commands_days, settings.history.audit_days) == (7, 90, 400)


@pytest.mark.parametrize(("line", "days"), [("", 730), ("staged_life_days = 30", 30)])
def test_a_warehouse_says_how_long_its_credentials_wait(write, line: str, days: int) -> None:
    warehouse = f'[environments.local.endpoints.warehouse]\nhost = "127.0.0.1"\nport = 1885\ntls = false\n{line}\n'
    environment = domain_environments(load_settings(write(f"{EMBEDDED}\n{warehouse}")))["local"]
    assert environment.staged_life == timedelta(days=days)
    with pytest.raises(SettingsError, match="staged_life_days"):
        load_settings(write(f"{EMBEDDED}\n{warehouse.replace(line, '') if line else warehouse}staged_life_days = 0\n"))
