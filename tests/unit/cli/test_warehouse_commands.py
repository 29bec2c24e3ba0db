"""The warehouse on the command line: what each noun makes, lists, shows and imports, and how it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from tests.support.builds import SECRET, write_build
from tests.unit.cli.test_nouns import installed  # noqa: F401 - a fixture

runner = CliRunner()
SETTINGS = {"features": {"kiosk": True}, "network": {"password": "swordfish"}}


@pytest.fixture
def run(installed):  # noqa: F811
    config = installed.parent / "firstlight.toml"

    def call(*words, code=0, stdin=None):
        result = runner.invoke(app, ["--config", str(config), *(str(word) for word in words)], input=stdin)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        return result.stdout or result.stderr

    call("product", "create", "tablet", "--name", "Tablet", "--hardware", "rev-a")
    group = ("--product", "tablet", "--key-kind", "derived", "--ou", "acme", "--environment", "local")
    call("group", "create", "tab", *group)
    return call


@pytest.fixture
def house(run):
    run("device-type", "create", "tablet-10", "--group", "tab", "--warehouse-setting", "features",
        "--handshake-setting", "payment", "--handshake-setting", "network")  # fmt: skip
    run("site", "create", "hall-1", "--ou", "acme/hall-1", "--title", "First hall")
    run("order", "create", "SO-1", "--site", "hall-1", "--line", "tablet-10:3")
    run("order", "assign", "SO-1", "t-1", "t-2", "t-3")
    return run


def shown(text):
    return json.loads(text)


def test_a_type_says_which_settings_belong_to_which_step(house):
    found = shown(house("device-type", "show", "tablet-10", "--json"))
    assert (found["warehouse_settings"], found["handshake_settings"]) == (["features"], ["payment", "network"])
    assert "payment, network" in house("device-type", "show", "tablet-10")
    assert "1 changed" in house("device-type", "set", "tablet-10", "--description", "ten inches")
    assert "ten inches" in house("device-type", "list")
    assert "setting_twice" in house("device-type", "set", "tablet-10", "--warehouse-setting", "network", code=1)
    assert "no device type" in house("device-type", "show", "none", code=1)
    house("device-type", "set", "tablet-10", "--manifest", "x", "--static", code=1)


def test_settings_of_a_site_are_shown_by_name_unless_they_are_asked_for(house, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    assert "1 changed" in house("site", "set", "hall-1", "--settings", f"@{path}")
    assert "swordfish" not in house("site", "show", "hall-1") + house("site", "show", "hall-1", "--json")
    assert "features.kiosk, network.password" in house("site", "show", "hall-1")
    assert shown(house("site", "show", "hall-1", "--reveal", "--json"))["settings"] == SETTINGS
    assert "swordfish" in house("site", "show", "hall-1", "--reveal")
    assert "revision 1" in house("site", "set", "hall-1", "--settings", "{}", "--settings-rev", "0", code=1)
    assert "@FILE" in house("site", "set", "hall-1", "--settings", "[]", code=1)
    assert "cannot read" in house("site", "set", "hall-1", "--settings", "@/none", code=1)
    assert "swordfish" not in house("audit")


def test_an_order_is_handed_over_and_its_units_show_where_they_are(house):
    assert "3 changed" in house("order", "hand-over", "SO-1", "--dry-run").replace("would be ", "")
    assert shown(house("order", "hand-over", "SO-1", "--json"))["changed"] == 3
    assert "3 unchanged" in house("order", "hand-over", "SO-1", "tab/t-1", "tab/t-2", "tab/t-3")
    order = shown(house("order", "show", "SO-1", "--json"))
    assert (order["units"], order["handed_over"], order["steps"]) == (3, 3, {"received": 3})
    assert "3 received" in house("order", "list", "--site", "hall-1")
    assert "tablet-10" in house("order", "show", "SO-1")
    unit = house("equipment", "show", "t-1")
    assert "handed_over" in unit
    assert "hall-1" in unit
    assert "no unit" in house("equipment", "show", "t-9", code=1)
    listed = shown(house("equipment", "list", "--order", "SO-1", "--step", "received", "--limit", "2", "--json"))
    assert ([one["name"] for one in listed["rows"]], listed["after"]) == (["tab/t-1", "tab/t-2"], "tab/t-2")
    assert "more: --after tab/t-2" in house("equipment", "list", "--limit", "2")
    assert "tab/t-3" in house("equipment", "list", "--after", "tab/t-2")


def test_an_order_is_cancelled_or_closed(house):
    assert "order_unfinished" in house("order", "close", "SO-1", code=1)
    assert "0 changed" in house("order", "cancel", "SO-9", code=1)
    assert "1 changed" in house("order", "cancel", "SO-1", "--dry-run").replace("would be ", "")
    found = shown(house("order", "cancel", "SO-1", "--note", "taken back", "--json"))
    assert (found["changed"], found["refused"]) == (1, 0)
    assert "1 unchanged" in house("order", "cancel", "SO-1", "--force")
    order = shown(house("order", "show", "SO-1", "--json"))
    assert (order["state"], order["units"]) == ("cancelled", 0)
    assert "taken back" in house("audit", "--json")
    assert "order_state" in house("order", "assign", "SO-1", "t-1", code=1)
    assert "0 of 0 out of box" in house("warehouse", "watch", "SO-1")  # ends, because nothing is to come


def test_units_are_received_shipped_and_restaged_by_serial(house):
    assert "1 changed" in house("equipment", "receive", "t-1", "--type", "tablet-10", "--note", "pallet 7")
    assert "pallet 7" in house("equipment", "show", "t-1")
    house("order", "hand-over", "SO-1")
    assert "cannot become shipped" in house("equipment", "ship", "t-1", code=1)
    assert "3 refused" in house("equipment", "ship", "--order", "SO-1", code=1)
    assert "units or an order" in house("equipment", "ship", "t-1", "--order", "SO-1", code=1)
    assert "1 unchanged" in house("equipment", "restage", "t-1")
    assert "1 unchanged" in house("restage", "tab/t-1", "--dry-run")
    assert "1 changed" in house("order", "release", "SO-1", "tab/t-1")


def test_a_file_is_imported_with_a_result_for_each_row(house, tmp_path):
    sites = tmp_path / "sites.csv"
    sites.write_text(
        'name,ou,settings\nhall-2,acme/hall-2,"{""payment"": {""terminal"": ""T2""}}"\nhall 3,acme,\nx,acme,{\n'
    )
    result = house("site", "import", sites, code=1).splitlines()
    assert result[0] == "1\tchanged\tsite/hall-2"
    assert [line.split("\t")[1:4:2] for line in result[1:]] == [
        ["refused", "name_illegal"],
        ["refused", "row_malformed"],
    ]
    assert shown(house("site", "show", "hall-2", "--json"))["settings"] == ["payment.terminal"]
    orders = tmp_path / "orders.jsonl"
    rows = [{"order": "SO-2", "site": "hall-2", "type": "tablet-10", "serial": f"u-{number}"} for number in range(250)]
    rows.insert(7, {"order": "SO-2", "serial": 5})
    orders.write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    lines = [json.loads(line) for line in house("order", "import", orders, "--json", code=1).splitlines()]
    assert [one["row"] for one in lines] == list(range(1, 253))
    refused = [(one["row"], one["cause"]) for one in lines if one["result"] == "refused"]
    assert refused == [(8, "bad_argument"), (252, "row_malformed")]
    assert {one["result"] for one in map(json.loads, house("order", "import", orders, "--json", code=1).splitlines())} == {
        "unchanged", "refused",
    }  # fmt: skip
    assert shown(house("order", "hand-over", "SO-2", "--json"))["refused"] == 0
    assert shown(house("order", "show", "SO-2", "--json"))["handed_over"] == 250
    assert house("equipment", "list", "--order", "SO-2", "--limit", "1000").count("u-") == 250


def test_a_file_that_is_none_is_refused_as_a_whole(house, tmp_path):
    path = tmp_path / "types.csv"
    assert "cannot read" in house("device-type", "import", path, code=1)
    path.write_text("name,colour\n")
    assert "the first line names the columns" in house("device-type", "import", path, code=1)
    path.write_text("name,group,handshake_settings\nkiosk,tab,network features\n")
    house("device-type", "import", path)
    assert shown(house("device-type", "show", "kiosk", "--json"))["handshake_settings"] == ["network", "features"]
    units = tmp_path / "units.csv"
    units.write_text("serial,type\nk-1,kiosk\nk-2,none\n")
    assert "type_unknown" in house("equipment", "import", units, code=1)


def test_units_that_are_not_registered_are_handed_over_with_their_keys(house, tmp_path):
    house("group", "create", "ind", "--product", "tablet", "--ou", "acme", "--environment", "local")
    house("device-type", "create", "kiosk", "--group", "ind")
    house("order", "create", "SO-3", "--site", "hall-1", "--line", "kiosk")
    house("order", "assign", "SO-3", "k-1", "k-2")
    assert "device_key_missing" in house("order", "hand-over", "SO-3", code=1)
    keys = tmp_path / "keys.csv"
    keys.write_text("unit,key\nind/k-1,AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nind/k-2,short\n")
    result = house("order", "hand-over", "SO-3", "--keys", keys, code=1)
    assert "1\tchanged\tind/k-1" in result
    assert "device_key_illegal" in result
    assert "AAECAw" not in result + house("audit")
    assert "--keys stands alone" in house("order", "hand-over", "SO-3", "ind/k-1", "--keys", keys, code=1)


def test_a_manifest_is_built_where_the_key_is_or_from_signatures(house, tmp_path):
    key, path = tmp_path / "release.key", write_build(tmp_path)
    house("release", "keygen", key)
    house("release", "key", "add", f"{key}.pub", "--name", "main")
    house("manifest", "sign", path, "--key", key, "--product", "Tablet")
    signatures = tmp_path / "build.sig.json"
    made = shown(
        house("manifest", "build", "tablet", "2030-07", path, "--signatures", signatures, "--static", "--json")
    )
    assert [(one["name"], one["bytes"]) for one in made["items"]] == [
        ("runtime", "inline"), ("app", "image"), ("menu", "inline"), ("ca", "inline"), ("wifi", "sealed"),
    ]  # fmt: skip
    assert "5 items" in house("manifest", "build", "tablet", "2030-07", path, "--key", key)
    text = house("manifest", "show", "tablet", "2030-07")
    assert "runtime>=1.2" in text
    assert SECRET.decode() not in text + house("manifest", "show", "tablet", "2030-07", "--json")
    assert "tablet/2030-07" in house("manifest", "list", "--product", "tablet")
    assert shown(house("device-type", "show", "tablet-10", "--json"))["manifest"] == "2030-07"
    assert "--key or --signatures" in house("manifest", "build", "tablet", "x", path, code=1)
    (tmp_path / "cycle").mkdir()
    cycle = write_build(
        tmp_path / "cycle", [("a", "software", "1", b"a", ("b>=1",)), ("b", "software", "1", b"b", ("a>=1",))]
    )
    assert "each waits for another: a, b" in house("manifest", "build", "tablet", "x", cycle, "--key", key, code=1)
    assert "no manifest" in house("manifest", "show", "tablet", "none", code=1)
    assert "build.toml" in house(
        "manifest", "sign", tmp_path / "none" / "build.toml", "--key", key, "--product", "T", code=1
    )


def test_watch_says_how_an_order_stands(house):
    assert "0 of 3 out of box (3 expected)" in house("warehouse", "watch", "SO-1", "--once")
    house("order", "hand-over", "SO-1")
    found = shown(house("warehouse", "watch", "SO-1", "--once", "--json"))
    assert (found["steps"], found["done"], len(found["units"])) == ({"received": 3}, False, 3)
    assert "Failed on SO-1" in house("warehouse", "failures", "SO-1")
    assert shown(house("warehouse", "failures", "SO-1", "--json")) == []
    assert shown(house("warehouse", "failures", "--json"))["rows"] == []
    assert "no order" in house("warehouse", "watch", "none", code=1)
