"""The operator's commands from end to end: what they print, their JSON, their exit codes, and never a traceback."""

from __future__ import annotations

import base64
import errno
import json
from pathlib import Path

import pytest

from device_sdk.drivers.config import read_config
from service.cli import backup, context, device, device_file, group, keys, product, release, stats, trace, version
from service.cli.context import CommandError
from service.credentials.keyfile import KeyFile
from tests.support.command_line import CliRunner
from tests.support.storage import empty_database

runner = CliRunner()

CONFIG = """
data_dir = "DATA"
[environments.local]
broker = "embedded"
[environments.local.endpoints]
bootstrap = { host = "127.0.0.1", port = 1884, tls = false }
api_key = { host = "127.0.0.1", port = 1883, tls = false }
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A data directory with keys and an empty database, and a configuration that names it."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    config = tmp_path / "firstlight.toml"
    config.write_text(CONFIG.replace("DATA", str(data)))
    KeyFile.create(data / "keys.json")
    (data / "firstlight.db").write_bytes(empty_database())
    monkeypatch.chdir(tmp_path)
    token = context.chosen_config.set(config)
    yield data
    context.chosen_config.reset(token)


@pytest.fixture
def app():
    """The nouns on one command line, as main.py mounts them."""
    import typer

    made = typer.Typer(pretty_exceptions_enable=False)
    for name, noun in {
        "product": product.app,
        "group": group.app,
        "device": device.app,
        "version": version.app,
        "release": release.app,
        "keys": keys.app,
    }.items():
        made.add_typer(noun, name=name)
    for name, command in {
        "trace": trace.trace,
        "stats": stats.stats,
        "backup": backup.backup,
        "restore": backup.restore,
    }.items():
        made.command(name)(command)
    return made


@pytest.fixture
def run(app):
    def call(*arguments, code=0):
        result = runner.invoke(app, [str(one) for one in arguments])
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        if code == 1 and "refused" not in result.stderr:
            assert result.stderr.startswith("firstlight: ")
            assert len(result.stderr.splitlines()) == 1
        return result

    return call


@pytest.fixture
def run_json(run):
    def call(*arguments, code=0):
        return json.loads(run(*arguments, "--json", code=code).stdout)

    return call


@pytest.fixture
def with_group(installed, run):
    run("product", "create", "thermometer", "--name", "Thermometer", "--hardware", "rev-a")
    run("group", "create", "line-1", "--product", "thermometer", "--ou", "acme", "--environment", "local")
    return installed


@pytest.mark.usefixtures("with_group")
def test_products_and_groups_are_made_listed_and_shown(run, run_json):
    assert [one["product_id"] for one in run_json("product", "list")] == ["thermometer"]
    assert run_json("product", "show", "thermometer")["hardware"] == "rev-a"
    made = run_json("group", "create", "line-2", "--product", "thermometer", "--key-kind", "derived")
    assert len(base64.b64decode(made["new_secret"])) == 32
    assert made["secret"] == "***"
    assert run_json("group", "show", "line-2")["group"]["secret"] == "***"
    assert [one["group"]["group_id"] for one in run_json("group", "list")] == ["line-1", "line-2"]
    assert made["new_secret"] not in run("group", "list").stdout
    for arguments in (("product", "list"), ("product", "show", "thermometer"), ("group", "show", "line-1")):
        assert "thermometer" in run(*arguments).stdout


@pytest.mark.usefixtures("with_group")
def test_a_device_is_registered_shown_listed_blocked_and_traced(run, run_json):
    key = run_json("device", "register", "line-1", "sn-1")["key"]
    assert len(base64.b64decode(key)) == 32
    assert run_json("device", "register", "line-1", "sn-1")["result"] == "already_registered"
    shown = run_json("device", "show", "line-1/sn-1")
    assert (shown["state"], shown["key"]) == ("registered", True)
    assert key not in run("device", "show", "sn-1").stdout
    assert run_json("device", "block", "sn-1")["state"] == "blocked"
    assert [one["serial"] for one in run_json("device", "list", "--state", "blocked")["devices"]] == ["sn-1"]
    assert "line-1/sn-1 registered" in run("device", "unblock", "sn-1").stdout
    steps = run_json("trace", "sn-1")["steps"]
    assert [one["trace"]["step"] for one in steps] == ["blocked", "unblocked"]
    assert "unblocked" in run("trace", "line-1/sn-1").stdout
    assert run_json("stats")["counters"]["device_blocked"] == 1
    assert run_json("stats", "--all")["counters"]["storage_full"] == 0
    assert "device_blocked" in run("stats").stdout
    run("device", "approve", "sn-1", code=1)


@pytest.mark.usefixtures("with_group")
def test_a_table_that_is_not_shown_on_a_terminal_keeps_each_row_on_one_line(run):
    serial = "a-serial-that-is-long-" + 90 * "x"
    run("device", "register", "line-1", serial)
    rows = run("device", "list").stdout.splitlines()
    assert sum(f"line-1/{serial}" in row and "registered" in row for row in rows) == 1


@pytest.mark.usefixtures("with_group")
def test_an_import_prints_one_line_for_each_row(run, tmp_path):
    path = tmp_path / "devices.csv"
    path.write_text("serial\nsn-1\nsn-2\nsn 3\n")
    result = run("device", "import", path, "--group", "line-1", "--json", code=1)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["row"], one["result"]) for one in lines] == [(1, "registered"), (2, "registered"), (3, "error")]
    assert lines[2]["cause"] == "serial_illegal"
    assert len(base64.b64decode(lines[0]["key"])) == 32
    assert "2 registered, 0 already registered, 1 refused" in result.stderr
    path.write_text("serial\nsn-1\nsn-2\n")
    again = run("device", "import", path, "--group", "line-1")
    assert [line.split("\t")[:3] for line in again.stdout.splitlines()] == [
        ["1", "already_registered", "line-1/sn-1"],
        ["2", "already_registered", "line-1/sn-2"],
    ]


@pytest.mark.usefixtures("with_group")
def test_a_version_goes_from_an_offline_key_to_the_target(run, run_json, tmp_path):
    image, key = tmp_path / "image.bin", tmp_path / "release.pem"
    image.write_bytes(b"firmware" * 1000)
    assert len(run_json("release", "keygen", key)["key_id"]) == 32
    signing = ["--key", key, "--product", "Thermometer", "--hardware", "rev-a", "--name", "2.0", "--seq", "2"]
    signed = run_json("release", "sign", image, *signing)
    adding = ["version", "add", "thermometer", "2.0", image, "--signature", f"{image}.sig", "--target"]
    assert "no release key" in run(*adding, code=1).stderr
    run("release", "key", "add", f"{key}.pub", "--name", "main")
    assert [one["name"] for one in run_json("release", "key", "list")] == ["main"]
    added = run_json(*adding)
    assert (added["is_target"], added["version"]["version_id"]) == (True, signed["version_id"])
    assert run_json("product", "show", "thermometer")["target"] == "2.0"
    assert run_json("version", "target", "thermometer", "--none") is None
    assert "target of thermometer is 2.0" in run("version", "target", "thermometer", "2.0").stdout
    assert [one["is_target"] for one in run_json("version", "list", "thermometer")] == [True]
    assert "2.0" in run("version", "list", "thermometer").stdout
    run("version", "target", "thermometer", code=2)


@pytest.mark.usefixtures("with_group")
def test_a_leaked_release_key_is_retired_and_its_versions_are_refused(run, run_json, tmp_path):
    image, key = tmp_path / "image.bin", tmp_path / "release.pem"
    image.write_bytes(b"firmware" * 1000)
    run("release", "keygen", key)
    run("release", "sign", image, "--key", key, "--product", "Thermometer", "--hardware", "rev-a", "--name", "2.0",
        "--seq", "2")  # fmt: skip
    run("release", "key", "add", f"{key}.pub", "--name", "main")
    adding = ["version", "add", "thermometer", "2.0", image, "--signature", f"{image}.sig"]
    run(*adding, "--target")
    assert "Thermometer 2.0 (target of product thermometer)" in run("release", "key", "retire", "main", code=1).stderr
    run("version", "target", "thermometer", "--none")
    (listed,) = run_json("release", "key", "list")
    assert listed["retired_at"] is None
    retired = run_json("release", "key", "retire", "main")
    assert retired["retired_at"]
    assert "is retired 2" in run("release", "key", "retire", "main").stdout
    assert run_json("release", "key", "list") == [retired]
    assert "retired" in run("release", "key", "list").stdout
    assert "was retired" in run(*adding, code=1).stderr
    assert "was retired" in run("version", "target", "thermometer", "2.0", code=1).stderr
    assert "no release key is named 'x'" in run("release", "key", "retire", "x", code=1).stderr


def test_making_a_key_and_signing_need_no_installation(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(release.PASSPHRASE_VARIABLE, "correct horse")
    image = tmp_path / "image.bin"
    image.write_bytes(b"x")
    run("release", "keygen", "release.pem")
    signing = ["--key", "release.pem", "--product", "P", "--hardware", "h", "--name", "1", "--seq", "1"]
    run("release", "sign", image, *signing)
    assert json.loads(Path("image.bin.sig").read_text())["size"] == 1
    monkeypatch.delenv(release.PASSPHRASE_VARIABLE)
    assert "passphrase" in run("release", "sign", image, *signing, code=1).stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "image.bin",
        "image.bin.sig",
        "release.pem",
        "release.pem.pub",
    ]


@pytest.mark.usefixtures("with_group")
def test_backup_restore_and_key_rotation(run, run_json, installed, tmp_path):
    run("device", "register", "line-1", "sn-1")
    assert run_json("keys", "rotate")["resealed"] == 1
    assert len(run_json("backup", tmp_path / "backup")["sha256"]) == 64
    run("device", "register", "line-1", "sn-2")
    assert "there is a database" in run("restore", tmp_path / "backup", code=1).stderr
    (installed / "firstlight.db").rename(tmp_path / "old.db")
    for leftover in installed.glob("firstlight.db-*"):
        leftover.unlink()
    assert "restored" in run("restore", tmp_path / "backup").stdout
    assert "keys.json" in run("backup", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["product", "show", "nothing"], 1, "no product nothing"),
        (["group", "show", "nothing"], 1, "no group nothing"),
        (["group", "create", "x", "--product", "thermometer", "--key-kind", "group"], 1, "--reactivation operator"),
        (["group", "create", "x", "--product", "thermometer", "--key-kind", "other"], 2, "Invalid value"),
        (["group", "create", "x", "--product", "thermometer", "--secret", "!"], 1, "not base64"),
        (["device", "show", "nothing"], 1, "no device nothing"),
        (["device", "show", "a b"], 1, "GROUP/SERIAL"),
        (["device", "register", "line-1", "sn-1", "--key", "!"], 1, "not base64"),
        (["device", "register", "nobody", "sn-1"], 1, "no group"),
        (["device", "list", "--limit", "0"], 1, "1 to 1000"),
        (["device", "import", "nothing.csv"], 1, "cannot read"),
        (["version", "add", "thermometer", "1", "no.bin", "--signature", "no.sig"], 1, "cannot read"),
        (["release", "key", "add", "nothing", "--name", "x"], 1, "cannot read"),
        (["trace", "nothing"], 1, "no device nothing"),
        (["restore", "nothing"], 1, "holds no backup"),
        (["device", "register"], 2, "Missing argument"),
    ],
)
@pytest.mark.usefixtures("with_group")
def test_a_mistake_is_one_clear_line(run, arguments, code, said):
    assert said in run(*arguments, code=code).stderr


@pytest.mark.usefixtures("with_group")
def test_a_serial_in_two_groups_names_the_candidates(run):
    run("group", "create", "line-2", "--product", "thermometer")
    for name in ("line-1", "line-2"):
        run("device", "register", name, "sn-1")
    assert "line-1/sn-1, line-2/sn-1" in run("trace", "sn-1", code=1).stderr


def test_without_a_database_the_line_names_what_makes_one(run, installed):
    for one in installed.glob("firstlight.db*"):
        one.unlink()
    assert "firstlight init" in run("product", "list", code=1).stderr
    assert list(installed.glob("firstlight.db*")) == []


@pytest.mark.parametrize("kind", ["individual", "derived"])
def test_a_device_file_lets_the_device_start_and_is_never_overwritten(run, installed, kind):
    run("product", "create", "thermometer", "--name", "Thermometer", "--hardware", "rev-a")
    run("group", "create", "g", "--product", "thermometer", "--environment", "local", "--key-kind", kind)
    run("release", "keygen", "release.key")
    run("release", "key", "add", "release.key.pub", "--name", "laptop")
    shown = run("device", "register", "g", "sn-1", "--device-file", "device.json").stdout
    path = Path("device.json")
    assert path.stat().st_mode & 0o777 == 0o600
    config = read_config(path)
    assert (config.group_id, config.serial, config.product, config.hardware) == ("g", "sn-1", "Thermometer", "rev-a")
    assert (config.bootstrap[0].host, config.bootstrap[0].port, config.bootstrap[0].tls) == ("127.0.0.1", 1884, False)
    assert len(config.key) == 32
    assert len(config.release_keys) == 1
    assert base64.b64encode(config.key).decode() not in shown
    run("device", "register", "g", "sn-2", "--device-file", "device.json", code=1)
    assert "no device g/sn-2" in run("device", "show", "g/sn-2", code=1).stderr


def test_a_key_is_in_its_file_before_the_device_is_registered(run, installed):
    run("product", "create", "thermometer", "--name", "Thermometer", "--hardware", "rev-a")
    run("group", "create", "g", "--product", "thermometer", "--environment", "local")
    # No file, no device.
    assert "No such file" in run("device", "register", "g", "sn-1", "--device-file", "none/d.json", code=1).stderr
    assert "no device g/sn-1" in run("device", "show", "g/sn-1", code=1).stderr
    # No device, no file.
    run("device", "register", "g", "sn-1", "--device-file", "d.json", "--ou", "a//b", code=1)
    assert not Path("d.json").exists()
    run("device", "register", "g", "sn-1")
    said = run("device", "register", "g", "sn-1", "--device-file", "d.json", code=1).stderr
    assert "registered already, and its key was shown then" in said
    assert not Path("d.json").exists()


def test_a_device_file_that_the_disk_does_not_take_leaves_nothing(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CommandError, match="No space"):
        device_file.write(tmp_path / "d.json", {})
    assert [*tmp_path.iterdir()] == []


def test_a_group_whose_devices_hold_what_is_not_known_here_has_no_device_files(run, installed):
    run("product", "create", "thermometer", "--name", "Thermometer", "--hardware", "rev-a")
    run("group", "create", "g", "--product", "thermometer", "--environment", "local", "--key-kind", "public_key")
    assert "public_key" in run("device", "register", "g", "sn-1", "--device-file", "device.json", code=1).stderr
    assert not Path("device.json").exists()


def test_a_further_release_key_is_made_with_an_endorsement_and_registered_with_it(run, run_json, installed):
    run("release", "keygen", "old.key")
    run("release", "key", "add", "old.key.pub", "--name", "old")
    said = run("release", "keygen", "new.key", "--endorsed-by", "old.key").stdout
    assert "endorsement: new.key.endorsement" in said
    assert "endorsement" in run("release", "key", "add", "new.key.pub", "--name", "new", code=1).stderr
    run("release", "key", "add", "new.key.pub", "--name", "new", "--endorsement", "new.key.endorsement")
    run("release", "keygen", "third.key")
    made = run_json("release", "endorse", "third.key.pub", "--key", "new.key")
    assert made == json.loads(Path("third.key.endorsement").read_text())
    assert "there already" in run("release", "endorse", "third.key.pub", "--key", "new.key", code=1).stderr
    run("release", "key", "add", "third.key.pub", "--name", "third", "--unendorsed")
    assert run_json("release", "key", "endorse", "third.key.endorsement")["added"] is True
    listed = {one["name"]: one for one in run_json("release", "key", "list")}
    assert listed["third"]["endorsed_by"] == [listed["new"]["key_id"]]
    assert "new" in run("release", "key", "list").stdout
    run("release", "key", "endorse", "nothing", code=1)


def test_a_key_whose_endorser_does_not_open_is_not_even_made(run, installed, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_RELEASE_PASSPHRASE", "one")
    run("release", "keygen", "old.key")
    assert "passphrase" in run("release", "keygen", "new.key", "--endorsed-by", "old.key", code=1).stderr
    assert not Path("new.key").exists()
    monkeypatch.setenv("FIRSTLIGHT_RELEASE_PASSPHRASE", "two")
    monkeypatch.setenv("FIRSTLIGHT_ENDORSER_PASSPHRASE", "one")
    run("release", "keygen", "new.key", "--endorsed-by", "old.key")
    assert Path("new.key.endorsement").is_file()
