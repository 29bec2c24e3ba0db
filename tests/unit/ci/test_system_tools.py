"""What `make test` does about missing system packages, with every program that it calls replaced."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "system-tools"
BROWSER = ("chromium", "chromedriver")
ALL = ("mosquitto", "mosquitto_pub", "node", "npm", *BROWSER)
OURS = "DPkg::Lock::Timeout=120"


class Machine:
    """A PATH with nothing but these programs; `calls` has what was called with which words."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "calls"
        self.script = folder / "system-tools"
        text = SCRIPT.read_text()
        search = 'PATH="$PATH:/usr/sbin:/usr/local/sbin"\n'
        assert search in text
        self.script.write_text(text.replace(search, ""))
        for name in ("sh", "mktemp", "tail", "rm", "env"):
            (self.bin / name).symlink_to(shutil.which(name) or "")
        self.has("id", "echo 1000")

    def has(self, name: str, body: str = "exit 0") -> None:
        program = self.bin / name
        program.write_text(f'#!{shutil.which("sh")}\necho "{name} $*" >>"{self.log}"\n{body}\n')
        program.chmod(0o755)

    def run(self) -> str:
        """What it says; it never fails."""
        done = subprocess.run(
            [self.bin / "sh", self.script], env={"PATH": str(self.bin)}, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout

    @property
    def calls(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if not line.startswith("id ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_where_everything_is_there_nothing_is_said_or_done(machine: Machine) -> None:
    for name in ALL:
        machine.has(name)
    assert machine.run() == ""
    assert not machine.log.exists()


def test_without_apt_get_it_says_what_is_missing_and_why(machine: Machine) -> None:
    said = machine.run()
    assert (
        said
        == "not installed, because there is no apt-get here: mosquitto mosquitto-clients nodejs npm chromium chromium-driver\n"
    )


def test_without_root_or_sudo_it_says_what_is_missing_and_why(machine: Machine) -> None:
    machine.has("apt-get")
    machine.has("node")
    for name in BROWSER:
        machine.has(name)
    said = machine.run()
    assert said == ("not installed, because that needs root or password-less sudo: mosquitto mosquitto-clients npm\n")
    assert machine.calls == []


def test_a_sudo_that_wants_a_password_is_no_sudo(machine: Machine) -> None:
    machine.has("apt-get")
    machine.has("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    assert machine.run().startswith("not installed, because that needs root or password-less sudo: ")
    assert machine.calls == ["sudo -n true"]


def test_root_installs_what_is_missing_and_stops_the_broker_that_came_with_it(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get")
    machine.has("service")
    for name in ("node", "npm", *BROWSER):
        machine.has(name)
    assert machine.run() == "installing mosquitto mosquitto-clients\n"
    wanted = ["apt-get update", f"apt-get install -y --no-install-recommends -o {OURS} mosquitto mosquitto-clients"]
    assert machine.calls in ([*wanted, "service mosquitto stop"], wanted)  # the latter where systemd runs this machine


def test_a_broker_that_was_there_before_is_left_running(machine: Machine) -> None:
    machine.has("id", "echo 0")
    for name in ("apt-get", "service", "systemctl", "mosquitto", "mosquitto_pub", "npm", *BROWSER):
        machine.has(name)
    machine.run()
    assert machine.calls == ["apt-get update", f"apt-get install -y --no-install-recommends -o {OURS} nodejs"]


def test_password_less_sudo_is_used_and_asks_no_questions(machine: Machine) -> None:
    machine.has("apt-get")
    machine.has("sudo", 'while [ "${1#-}" != "$1" ]; do shift; done; [ "$1" = true ] || "$@"')
    for name in ("mosquitto", "mosquitto_pub", "node", *BROWSER):
        machine.has(name)
    assert machine.run() == "installing npm\n"
    assert "sudo -n env DEBIAN_FRONTEND=noninteractive apt-get update" in machine.calls
    assert f"apt-get install -y --no-install-recommends -o {OURS} npm" in machine.calls


def test_packages_that_cannot_be_had_are_named_with_the_last_words_of_apt_get(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get", "echo 'E: no network'; exit 100")
    said = machine.run()
    assert "apt-get could not install mosquitto mosquitto-clients nodejs npm chromium chromium-driver:" in said
    assert said.endswith("E: no network\n")


def test_a_system_without_that_browser_gets_the_other_packages_all_the_same(machine: Machine) -> None:
    machine.has("id", "echo 0")
    for name in ("mosquitto", "mosquitto_pub", "node"):
        machine.has(name)
    machine.has("apt-get", 'case "$*" in *chromium*) echo "E: Unable to locate package chromium"; exit 100;; esac')
    said = machine.run()
    assert "apt-get could not install chromium chromium-driver:" in said
    assert f"apt-get install -y --no-install-recommends -o {OURS} npm" in machine.calls
