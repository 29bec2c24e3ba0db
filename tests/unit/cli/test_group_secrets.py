"""`group rotate-secret`, `retire-secret` and what `group show` says of secrets."""

from __future__ import annotations

import base64
import json

import pytest

from service.cli import context, group, product
from service.credentials.keyfile import KeyFile
from tests.support.command_line import CliRunner
from tests.support.storage import empty_database

CONFIG = """
data_dir = "DATA"
[environments.local]
broker = "embedded"
[environments.local.endpoints]
bootstrap = { host = "127.0.0.1", port = 1884, tls = false }
api_key = { host = "127.0.0.1", port = 1883, tls = false }
"""


@pytest.fixture
def run(tmp_path):
    """Commands on an installation with a group `line-2` whose devices derive their keys."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    config = tmp_path / "firstlight.toml"
    config.write_text(CONFIG.replace("DATA", str(data)))
    KeyFile.create(data / "keys.json")
    (data / "firstlight.db").write_bytes(empty_database())
    token = context.chosen_config.set(config)

    def call(noun, *arguments, code=0):
        result = CliRunner().invoke(noun.app, list(arguments))
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    call(product, "create", "thermometer", "--name", "Thermometer", "--hardware", "rev-b")
    call(group, "create", "line-2", "--product", "thermometer", "--key-kind", "derived")
    yield call
    context.chosen_config.reset(token)


def test_a_secret_is_exchanged_shown_once_and_retired(run):
    made = json.loads(run(group, "rotate-secret", "line-2", "--grace-s", "3600", "--json").stdout)
    assert len(base64.b64decode(made["new_secret"])) == 32
    shown = run(group, "show", "line-2", "--json").stdout
    assert made["new_secret"] not in shown
    assert [(one["generation"], one["state"]) for one in json.loads(shown)["secrets"]] == [(2, "newest"), (1, "grace")]
    assert json.loads(shown)["group"]["old_secrets"][0]["secret"] == "***"
    run(group, "retire-secret", "line-2", "1")
    text = run(group, "show", "line-2").stdout
    assert "retired" in text
    assert made["new_secret"] not in text


def test_a_secret_of_one_s_own_and_what_is_refused(run):
    own = base64.b64encode(b"o" * 31 + b"!").decode()
    assert json.loads(run(group, "rotate-secret", "line-2", "--secret", own, "--json").stdout)["new_secret"] is None
    assert "has or had" in run(group, "rotate-secret", "line-2", "--secret", own, code=1).stderr
    assert "base64" in run(group, "rotate-secret", "line-2", "--secret", "%", code=1).stderr
    assert "newest" in run(group, "retire-secret", "line-2", "2", code=1).stderr
    assert "no secret of generation 9" in run(group, "retire-secret", "line-2", "9", code=1).stderr
