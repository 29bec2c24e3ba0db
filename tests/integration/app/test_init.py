"""`firstlight init`: makes an installation once and never writes over one."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from pathlib import Path

import pytest

from service.cli import environment, init
from service.cli.init import make_authority, shut_to
from service.cli.main import app
from service.settings import load_settings
from tests.support.command_line import CliRunner
from tests.support.installation import firstlight


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_init_makes_an_installation_and_says_what_comes_next(tmp_path: Path) -> None:
    made = firstlight("init", tmp_path / "site")
    assert made.returncode == 0, made.stderr
    settings = load_settings(tmp_path / "site" / "firstlight.toml")
    for path in (settings.key_file, settings.database_path, settings.ca_dir("local") / "ca.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert str(path.name) in made.stdout or str(path.parent) in made.stdout
    steps = made.stdout.split("Next:")[1].strip().splitlines()
    assert len(steps) == 3
    assert steps[-1].strip().endswith("serve")
    for step in steps[:-1]:
        result = CliRunner().invoke(app, shlex.split(step)[1:])
        assert result.exit_code == 0, (step, result.output)


def test_a_second_init_changes_nothing_and_says_so(tmp_path: Path) -> None:
    assert firstlight("init", tmp_path).returncode == 0
    before = _contents(tmp_path)
    again = firstlight("init", tmp_path, "--broker", "mosquitto", "--with-release-key")
    assert again.returncode == 1
    assert "exists already; nothing was changed" in again.stderr
    assert again.stderr.count("\n") == 1
    assert _contents(tmp_path) == before


def test_an_init_that_was_cut_off_is_finished_by_the_next_with_the_same_keys(tmp_path: Path) -> None:
    assert firstlight("init", tmp_path).returncode == 0
    keys = (tmp_path / "data" / "keys.json").read_bytes()
    (tmp_path / "firstlight.toml").unlink()
    again = firstlight("init", tmp_path)
    assert again.returncode == 0, again.stderr
    assert "keys.json: kept" in again.stdout
    assert (tmp_path / "data" / "keys.json").read_bytes() == keys


def test_an_init_that_was_cut_off_before_the_authority_s_certificate_is_finished(tmp_path: Path) -> None:
    assert make_authority(tmp_path, "plant") == f"{tmp_path}: the certificate authority of plant"
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.pem").unlink()
    assert make_authority(tmp_path, "plant") == f"{tmp_path}: the certificate authority of plant"
    assert make_authority(tmp_path, "plant") == f"{tmp_path}: kept"
    assert (tmp_path / "ca.key").read_bytes() == key


@pytest.mark.parametrize("write", [init._write_new, environment._replace], ids=["init", "environment add"])
def test_the_configuration_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch, write) -> None:
    path = tmp_path / "firstlight.toml"
    if write is environment._replace:
        path.write_text("old")
    flushed: list[tuple[bool, str]] = []

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append((is_folder, path.read_text() if path.exists() else ""))

    monkeypatch.setattr("os.fsync", fsync)
    write(path, "new")
    assert flushed == [(False, "old" if write is environment._replace else ""), (True, "new")]
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_that_the_broker_s_user_cannot_reach_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    closed.chmod(0o700)
    shut = shut_to("nobody", closed / "data")
    assert shut is not None
    assert shut in (closed, *closed.parents)
    assert shut_to("nobody", Path("/usr")) is None
    assert shut_to(pwd.getpwuid(os.geteuid()).pw_name, closed / "data") is None


def test_init_with_a_release_key_keeps_it_locally_and_says_what_that_means(tmp_path: Path) -> None:
    made = firstlight("init", tmp_path, "--with-release-key")
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE((tmp_path / "release.key").stat().st_mode) == 0o600
    assert "whoever has it can sign firmware" in made.stdout


def test_init_for_mosquitto_writes_the_files_of_both_brokers(tmp_path: Path) -> None:
    made = firstlight("init", tmp_path, "--broker", "mosquitto", "--host", "broker.example", "--environment", "plant")
    assert made.returncode == 0, made.stderr
    for role in ("bootstrap", "operational"):
        folder = tmp_path / "data" / "broker" / "plant" / role
        assert {"mosquitto.conf", "acl", "dynsec.json"} <= {path.name for path in folder.iterdir()}
    settings = load_settings(tmp_path / "firstlight.toml")
    assert settings.environments["plant"].endpoints.bootstrap.host == "broker.example"
    steps = [step.strip() for step in made.stdout.split("Next:")[1].strip().splitlines()]
    words = [step.split()[0].rsplit("/", 1)[-1] for step in steps]
    assert words == ["mosquitto", "mosquitto", "firstlight", "firstlight", "firstlight", "firstlight"]
    assert [step.split("firstlight.toml ")[-1] for step in steps[2:4]] == ["serve &", "doctor"], "the doctor asks it"


def test_names_that_could_write_into_the_configuration_are_refused(tmp_path: Path) -> None:
    for words in (["--host", 'x"\nport = 1'], ["--environment", "a.b"], ["--environment", "../up"]):
        refused = CliRunner().invoke(app, ["init", str(tmp_path / "new"), *words])
        assert refused.exit_code == 1
        assert not (tmp_path / "new" / "firstlight.toml").exists()
