"""`firstlight environment list`: where devices of each environment connect, the warehouse among them where there is one."""

from __future__ import annotations

import json

import pytest

from service.cli.main import app
from tests.support.command_line import CliRunner
from tests.unit.cli.test_nouns import CONFIG

HERE = """
[environments.local.endpoints.warehouse]
host = "127.0.0.1"
port = 1885
tls = false
"""
ELSEWHERE = """
[environments.local.endpoints.warehouse]
host = "warehouse.example.org"
port = 8884
bind = "192.0.2.9"
[environments.local.links]
bootstrap = { port = 1890 }
operational = { port = 1891 }
warehouse = { port = 1892 }
"""


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        (CONFIG, None),
        (CONFIG + HERE, "127.0.0.1:1885"),
        (CONFIG.replace("embedded", "mosquitto") + ELSEWHERE, "warehouse.example.org:8884 TLS"),
    ],
)
def test_an_environment_shows_its_warehouse_if_it_has_one(tmp_path, config, shown):
    path = tmp_path / "firstlight.toml"
    path.write_text(config)
    said = CliRunner().invoke(app, ["--config", str(path), "environment", "list", "--json"])
    assert said.exit_code == 0, said.stderr
    (one,) = json.loads(said.stdout)["environments"]
    assert one["warehouse"] == shown
    table = CliRunner().invoke(app, ["--config", str(path), "environment", "list"], env={"COLUMNS": "200"})
    assert (shown or "-") in table.stdout
