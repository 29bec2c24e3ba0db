"""Daemons, jobs, configuration and enrolment on the command line: what they print, their exit codes, and no traceback."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from service.cli import context
from service.cli.main import app
from service.credentials import cms, keyholder
from service.credentials.keyfile import KeyFile
from service.operations.enrolment import providers
from service.storage.database import Database
from tests.support.billing import Platform
from tests.support.enrolment import own_key
from tests.support.storage import empty_database
from tests.unit.cli.test_nouns import CONFIG

runner = CliRunner()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    data = tmp_path / "data"
    (data / "enrolment").mkdir(parents=True, mode=0o700)
    config = tmp_path / "firstlight.toml"
    config.write_text(CONFIG.replace("DATA", str(data)))
    KeyFile.create(data / "keys.json")
    (data / "firstlight.db").write_bytes(empty_database())
    monkeypatch.chdir(tmp_path)
    token = context.chosen_config.set(config)
    yield data
    context.chosen_config.reset(token)


def with_key(data) -> None:
    for name, content in own_key().items():
        (data / "enrolment" / name).write_bytes(content)
        (data / "enrolment" / name).chmod(0o600)


def ok(*words: str, input_: str | None = None) -> str:
    result = runner.invoke(app, list(words), input=input_)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


def refused(*words: str) -> str:
    result = runner.invoke(app, list(words))
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.stderr


def test_daemons_and_jobs_are_listed_scheduled_enabled_and_disabled(installed) -> None:
    assert [one["name"] for one in json.loads(ok("daemon", "list", "--json"))] == ["extract", "load", "transformation"]
    assert [one["name"] for one in json.loads(ok("job", "list", "--json"))] == [
        "enrolment-request", "enrolment-response", "enrolment-upkeep",
    ]  # fmt: skip
    assert "once enabled" in ok("daemon", "schedule", "load", "30 3 * * *")
    ok("daemon", "enable", "load")
    (view,) = [one for one in json.loads(ok("daemon", "list", "--json")) if one["name"] == "load"]
    assert (view["enabled"], view["cron"]) == (True, "30 3 * * *")
    assert view["next_due_at"].endswith("T03:30:00+00:00")
    ok("daemon", "disable", "load")
    assert "no daemon enrolment-request; there are extract, load, transformation" in refused(
        "daemon", "enable", "enrolment-request"
    )
    assert "five fields" in refused("job", "schedule", "enrolment-request", "daily")
    verbs = [one["verb"] for one in json.loads(ok("audit", "--json"))]
    assert verbs == ["daemon schedule", "daemon enable", "daemon disable"]


def test_a_daemon_runs_here_and_says_what_came_of_it(installed) -> None:
    assert ok("daemon", "run", "load") == "load done\n"
    shown = json.loads(ok("daemon", "show", "load", "--json"))
    assert [(one["state"], one["account"]) for one in shown["runs"]] == [("done", "local")]
    assert "Runs" in ok("daemon", "show", "load")
    Platform(installed.parent / "platform", days=3650)
    pem = str(installed.parent / "platform/billing.pem")
    ok("enrolment", "provider", "create", "billing", "--adaptor", "file", "--recipient", pem, "--signer", pem)
    result = runner.invoke(app, ["daemon", "run", "load"])
    assert result.exit_code == 1
    assert "failed: there is no key for files yet" in result.stdout


def test_configuration_is_shown_and_set_and_audited(installed) -> None:
    names = {one["name"]: one["value"] for one in json.loads(ok("config", "show", "--json"))}
    assert names["enrolment.events_on_failure"] is True
    assert "true" in ok("config", "set", "enrolment.events_on_success", "yes")
    assert "enrolment.events_on_success" in ok("config", "show")
    assert "is a number from 0 to 3600" in refused("config", "set", "enrolment.settle_s", "9999")
    assert "is true or false" in refused("config", "set", "enrolment.events_on_success", "perhaps")
    assert "no configuration entry" in refused("config", "set", "more", "1")
    (line,) = json.loads(ok("audit", "--json"))
    after = {"name": "enrolment.events_on_success", "value": "true"}
    assert (line["verb"], line["before"], line["after"]) == ("config set", None, after)
    ok("config", "set", "enrolment.events_on_success", "no")
    line = json.loads(ok("audit", "--json"))[-1]
    assert (line["before"], line["after"]) == ({"value": "true"}, {"value": "false"})


def test_our_certificate_is_made_once(installed) -> None:
    first = ok("enrolment", "certificate")
    assert first.startswith("-----BEGIN CERTIFICATE-----")
    assert ok("enrolment", "certificate") == first
    assert (installed / "enrolment/own.key").stat().st_mode & 0o777 == 0o600


def test_our_key_is_followed_by_another_and_retired(installed, monkeypatch) -> None:
    with_key(installed)
    monkeypatch.setattr(keyholder, "RSA_BITS", 2048)
    first = ok("enrolment", "certificate")
    following = ok("enrolment", "key", "next")
    assert ok("enrolment", "certificate") == first
    done = json.loads(ok("enrolment", "key", "rotate", "--json"))
    assert ok("enrolment", "certificate") == following
    assert [(one["key"], one["place"]) for one in json.loads(ok("enrolment", "key", "list", "--json"))] == [
        (done["key"], "in use"), (done["before"], "earlier"),
    ]  # fmt: skip
    assert "no key of before" in refused("enrolment", "key", "retire", done["key"])
    # A file that only the key of before reads stands in the way, unless it is said that it may fail.
    lies = installed / "enrolment/inbox/billing/answer.p7m"
    lies.parent.mkdir(parents=True)
    lies.write_bytes(cms.seal(b"{}", [cms.load_certificate(first)]))
    said = refused("enrolment", "key", "retire", done["before"])
    assert f"1 files need key {done['before']}: inbox/billing/answer.p7m" in said
    assert len(json.loads(ok("enrolment", "key", "list", "--json"))) == 2
    ok("enrolment", "key", "retire", done["before"], "--at-once")
    assert len(json.loads(ok("enrolment", "key", "list", "--json"))) == 1
    audited = json.loads(ok("audit", "--json"))
    assert [one["verb"] for one in audited] == [f"enrolment key {one}" for one in ("next", "rotate", "retire")]
    assert audited[1]["after"] == {"what": "rotated", "in use": done["key"]}


def test_providers_are_made_and_their_tokens_shown_once(installed) -> None:
    url = "https://provider.example/x"
    ok(
        "enrolment", "provider", "create", "dep", "--adaptor", "dep", "--url", url, "--account", "R7",
        "--secret-stdin", input_="hush hush\n",
    )  # fmt: skip
    token = json.loads(ok("enrolment", "provider", "token", "dep", "--json"))["token"]
    assert len(token) == 64
    shown = ok("enrolment", "provider", "list", "--json")
    assert token not in shown
    assert "hush" not in shown
    ok("enrolment", "provider", "disable", "dep")
    ok("enrolment", "provider", "enable", "dep")
    assert "there is a provider dep" in refused(
        "enrolment", "provider", "create", "dep", "--adaptor", "dep", "--url", url, "--account", "R7"
    )
    assert len(json.loads(ok("enrolment", "dispatch-token", "--json"))["token"]) == 64


def test_a_provider_changes_and_its_secret_is_shown_nowhere(installed) -> None:
    url, other = "https://provider.example/x", "https://other.example/y"
    ok(
        "enrolment", "provider", "create", "dep", "--adaptor", "dep", "--url", url, "--account", "R7",
        "--secret-stdin", input_="hush hush\n",
    )  # fmt: skip
    said = ok("enrolment", "provider", "set", "dep", "--url", other, "--secret-stdin", input_="psst psst\n")
    (shown,) = json.loads(ok("enrolment", "provider", "list", "--json"))
    assert (shown["url"], shown["account"], shown["has_secret"]) == (other, "R7", True)
    audited = ok("audit", "--json")
    line = json.loads(audited)[-1]
    assert (line["verb"], line["selector"]) == ("enrolment provider set", {"enrolment_provider": "dep"})
    assert (line["before"]["url"], line["after"]) == (url, {"url": other, "secret_sealed": "changed"})
    for secret in ("hush", "psst"):
        assert secret not in said + audited
    sealer = KeyFile.load(installed / "keys.json").sealer()

    async def stored() -> bytes:
        database = await Database.open(installed / "firstlight.db", sealer)
        try:
            found = await providers.secret_of(database, "dep")
        finally:
            await database.close()
        assert found is not None
        return found.reveal()

    assert asyncio.run(stored()) == b"psst psst"
    assert "no provider 'nobody'" in refused("enrolment", "provider", "set", "nobody", "--account", "x")
    assert "say what is to change" in refused("enrolment", "provider", "set", "dep")
    assert "without login" in refused("enrolment", "provider", "set", "dep", "--url", "http://u:p@x.example")
    assert "no token on standard input" in refused("enrolment", "provider", "set", "dep", "--secret-stdin")


def test_a_partner_s_new_certificate_takes_the_place_of_the_one_before(installed) -> None:
    with_key(installed)
    pem, new = installed / "enrolment/own.pem", Platform(installed.parent / "new", days=3650)
    now = str(new.certificate)
    ok("enrolment", "provider", "create", "b", "--adaptor", "file", "--recipient", str(pem), "--signer", now)
    ok("enrolment", "provider", "set", "b", "--recipient", now)
    (shown,) = json.loads(ok("enrolment", "provider", "list", "--json"))
    assert (shown["recipient_pem"], shown["signer_pem"]) == (new.pem, new.pem)
    assert "is not valid now" in refused("enrolment", "provider", "set", "b", "--signer", str(pem))
    (installed.parent / "none.pem").write_text("no certificate")
    none = str(installed.parent / "none.pem")
    assert "no certificate in PEM" in refused("enrolment", "provider", "set", "b", "--recipient", none)


def test_of_several_dispatched_orders_each_is_taken_or_refused_by_itself(installed, tmp_path) -> None:
    ok("product", "create", "tablet", "--name", "Tablet", "--hardware", "r")
    ok("group", "create", "tablets", "--product", "tablet", "--ou", "acme", "--environment", "local")
    ok("device-type", "create", "tablet", "--group", "tablets")
    ok("site", "create", "hall", "--ou", "acme/hall")
    for number in ("A", "C"):
        ok("order", "create", number, "--site", "hall", "--line", "tablet")
    line = {"line": 1, "serials": ["1"]}
    file = tmp_path / "dispatch.json"
    file.write_text(json.dumps([{"orderId": "A", "lines": [line]}, {"orderId": "B"}, {"orderId": "C"}]))
    result = runner.invoke(app, ["enrolment", "dispatch", str(file), "--json"])
    assert result.exit_code == 1
    assert [(one["order_id"], one.get("bound"), one.get("code")) for one in json.loads(result.stdout)] == [
        ("A", 1, None), ("C", 0, None), ("B", None, "NOT_FOUND"),
    ]  # fmt: skip
    assert result.stderr == "firstlight: 1 of 3 orders refused; B: no sales order 'B'\n"
    assert "REFUSED: no sales order" in runner.invoke(app, ["enrolment", "dispatch", str(file)]).stdout
    file.write_text(json.dumps([{"orderId": "A", "lines": [line]}]))
    assert json.loads(ok("enrolment", "dispatch", str(file), "--json"))[0]["already"] == 1


def test_orders_that_are_not_there_are_refused_in_one_line(installed, tmp_path) -> None:
    with_key(installed)
    for words in (
        ["show"],
        ["adopt"],
        ["give-up"],
        ["void"],
        ["retry"],
        ["override"],
        ["override", "--dry-run"],
        ["reconcile"],
    ):
        assert "no sales order 'SO-9'" in refused("enrolment", words[0], "SO-9", *words[1:])
    assert "no sales order" in refused("enrolment", "return", "SO-9", "T-1")
    file = tmp_path / "dispatch.json"
    file.write_text('{"orderId": "SO-9"}')
    assert "no sales order" in refused("enrolment", "dispatch", str(file))
    file.write_text("{")
    assert "no JSON" in refused("enrolment", "dispatch", str(file))
    assert "cannot read" in refused("enrolment", "dispatch", str(tmp_path / "nowhere"))
    assert json.loads(ok("enrolment", "list", "--json")) == []
    assert json.loads(ok("enrolment", "batches", "--state", "failed", "--json")) == []
    assert "Batches" in ok("enrolment", "batches")
    assert json.loads(ok("enrolment", "events", "--json")) == []
