"""docs/partners/enrolment.md, step by step: an order with a provider that speaks JSON, and one with files.

The service runs as a process and works the jobs off; the operator's commands run beside it. Provider and platform are a
server of the standard library and the openssl program.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from service.cli.main import app
from tests.support.billing import Platform
from tests.support.enrolment import StandIn
from tests.support.enrolment_provider import provider_server
from tests.support.installation import Installation, free_ports

PASSWORD, POLICY_SECRET = "correct horse battery", "open sesame 4711"
PATIENCE_S = 60


class Operator:
    """Runs commands on the installation, and the jobs by the pages of the running service."""

    def __init__(self, config: Path, url: str) -> None:
        self.config, self.client = config, httpx.Client(base_url=url, trust_env=False)

    def does(self, *words: str, input_: str | None = None, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["--config", str(self.config), *words], input=input_)
        assert result.exit_code == code, f"{words}: {result.output} {result.exception}"
        return result.stdout

    def fails(self, *words: str) -> str:
        """What a refused command says."""
        result = CliRunner().invoke(app, ["--config", str(self.config), *words])
        assert result.exit_code == 1, f"{words}: {result.output} {result.exception}"
        return result.stderr

    def signs_in(self) -> None:
        page = self.client.get("/admin/sign-in").text
        form = re.search(r'name="form" value="(\w+)"', page)
        assert form is not None
        fields = {"name": "alice", "password": PASSWORD, "form": form[1]}
        assert self.client.post("/admin/sign-in", data=fields).status_code == 303

    def runs(self, *names: str) -> None:
        """Each to its good end, by the page's button and the service's scheduler."""
        for name in names:
            page = self.client.get("/admin/daemons").text
            before = len(self._runs(name))
            csrf = re.search(r'name="csrf" value="(\w+)"', page)
            assert csrf is not None
            answer = self.client.post(f"/admin/daemons/{name}/run", data={"csrf": csrf[1]})
            assert answer.status_code == 303, answer.text
            until = time.monotonic() + PATIENCE_S
            while (found := self._runs(name))[before:] == [] or found[0] == "running":
                assert time.monotonic() < until, f"{name} does not run"
                time.sleep(0.1)  # another process works
            assert found[0] == "done", self.client.get(f"/admin/daemons/{name}").text

    def _runs(self, name: str) -> list[str]:
        page = self.client.get(f"/admin/daemons/{name}").text
        return re.findall(r'<td><span class="tag (\w+)">', page)

    def order(self, number: str) -> tuple[str, dict[str, str]]:
        shown = json.loads(self.does("enrolment", "show", number, "--json"))
        return shown["state"], {one["serial"]: one["state"] for one in shown["units"]}


@pytest.mark.timeout(300)
def test_an_order_is_enrolled_with_a_provider_that_speaks_json_and_one_by_files(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "installation")
    (port,) = free_ports(1)
    with installation.config.open("a", encoding="utf-8") as file:
        file.write(f"[web]\nport = {port}\n")
    operator = Operator(installation.config, f"http://127.0.0.1:{port}")
    standin, platform = StandIn(), Platform(tmp_path / "platform")
    with provider_server(standin) as url:
        tokens = once(operator, url, platform)
        with installation.serving() as service:
            service.wait_until(200)
            operator.signs_in()
            by_json(operator, standin, tokens)
            without_an_answer(operator, standin, tmp_path)
            by_files(operator, platform, installation.folder / "data/enrolment", tmp_path)
            operator.client.close()
            code, said = service.stop()
    assert code == 0, said
    for secret in (POLICY_SECRET, PASSWORD, "provider-token", *tokens.values()):
        assert secret not in said


def once(operator: Operator, url: str, platform: Platform) -> dict[str, str]:
    does = operator.does
    # 1. Our certificate, the providers, who posts, who administers.
    assert does("enrolment", "certificate").startswith("-----BEGIN CERTIFICATE-----")
    does("enrolment", "provider", "create", "dep", "--adaptor", "dep", "--url", url, "--account", "RESELLER-7",
         "--secret-stdin", input_="provider-token\n")  # fmt: skip
    pem = str(platform.certificate)
    does("enrolment", "provider", "create", "billing", "--adaptor", "file", "--recipient", pem, "--signer", pem)
    dep = json.loads(does("enrolment", "provider", "token", "dep", "--json"))["token"]
    business = json.loads(does("enrolment", "dispatch-token", "--json"))["token"]
    does("admin", "create", "alice", "--role", "admin", "--password-stdin", input_=f"{PASSWORD}\n")
    does("config", "set", "enrolment.settle_s", "0")
    does("config", "set", "enrolment.events_on_success", "true")
    # 2. What is sold.
    does("product", "create", "tablet", "--name", "Tablet", "--hardware", "rev-a")
    does("group", "create", "tablets", "--product", "tablet", "--ou", "acme", "--environment", "local")
    does("device-type", "create", "tablet", "--group", "tablets")
    does("site", "create", "hall-1", "--ou", "acme/hall-1")
    for number in ("SO-1", "SO-2", "SO-3"):
        does("order", "create", number, "--site", "hall-1", "--line", "tablet:2")
    return {"dep": dep, "business": business}


def wish(provider: str) -> dict[str, object]:
    policies = {"permissions": ["lock"], "passwords": {"admin": POLICY_SECRET}}
    return {"providerId": provider, "organisation": "venue-9", "policies": policies}


def by_json(operator: Operator, standin: StandIn, tokens: dict[str, str]) -> None:
    # 2. The business system posts what goes out.
    dispatched = {"orderId": "SO-1", "lines": [{"line": 1, "serials": ["T-1", "T-2"]}], "enrolment": wish("dep")}
    path = "/api/orderDispatchResponse"
    assert operator.client.post(path, json=dispatched).status_code == 401
    as_business = {"Authorization": f"Bearer {tokens['business']}"}
    answer = operator.client.post(path, json=dispatched, headers=as_business)
    assert answer.json()["orders"][0] == {
        "order_id": "SO-1", "bound": 2, "already": 0, "enrolment": "enrol_pending", "code": None, "reason": None,
    }  # fmt: skip
    # 3. and 4. The jobs ask for it.
    operator.runs("enrolment-request", "extract", "transformation")
    assert standin.orders == {"SO-1": {"T-1", "T-2"}}
    assert operator.order("SO-1")[0] == "enrol_sent"
    # 6. The provider says by itself that it is done, before anybody asks.
    posted = standin.result("ref-1")
    inbound = "/api/inboundDeviceEnrolment"
    assert operator.client.post(inbound, json=posted, headers=as_business).status_code == 401
    as_provider = {"Authorization": f"Bearer {tokens['dep']}"}
    said = [operator.client.post(inbound, json=posted, headers=as_provider) for _ in range(2)]
    assert [(one.status_code, one.json()) for one in said] == [
        (202, {"status": "taken"}),
        (202, {"status": "repeated"}),
    ]
    operator.runs("load", "enrolment-response")
    assert operator.order("SO-1") == ("enrolled", {"T-1": "enrolled", "T-2": "enrolled"})
    # 4. What the provider holds, and what an override would do.
    assert "the same" in operator.does("enrolment", "reconcile", "SO-1")
    standin.orders["SO-1"] = {"T-1", "T-9"}
    assert "only there: T-9" in operator.does("enrolment", "reconcile", "SO-1", code=1)
    assert "REMOVES 1: T-9" in operator.does("enrolment", "override", "SO-1", "--dry-run")


def without_an_answer(operator: Operator, standin: StandIn, tmp_path: Path) -> None:
    # 4. The provider takes the order and never says what became of it.
    standin.in_progress = 1000
    dispatched = {"orderId": "SO-3", "lines": [{"line": 1, "serials": ["V-1"]}], "enrolment": wish("dep")}
    file = tmp_path / "without.json"
    file.write_text(json.dumps(dispatched))
    operator.does("enrolment", "dispatch", str(file))
    operator.runs("enrolment-request", "extract", "transformation")
    assert "enrol_failed" in operator.does("enrolment", "give-up", "SO-3")
    assert "only there: V-1" in operator.does("enrolment", "reconcile", "SO-3", code=1)
    assert "enrolled, held by the provider" in operator.does("enrolment", "adopt", "SO-3")
    assert "unenrol_pending" in operator.does("enrolment", "void", "SO-3")
    # 1. and 3. What changes at a provider, and what has ended and goes one day.
    operator.does("enrolment", "provider", "set", "dep", "--account", "RESELLER-8")
    operator.runs("enrolment-upkeep")


def by_files(operator: Operator, platform: Platform, folder: Path, tmp_path: Path) -> None:
    # 2. The same on the command line.
    dispatched = {"orderId": "SO-2", "lines": [{"line": 1, "serials": ["U-1", "U-2"]}], "enrolment": wish("billing")}
    file = tmp_path / "dispatch.json"
    file.write_text(json.dumps(dispatched))
    operator.does("enrolment", "dispatch", str(file))
    operator.runs("enrolment-request", "extract")
    # 5. The platform opens our file, and answers with one of its own.
    (envelope,) = (folder / "outbox/billing").glob("*.p7m")
    platform.verify(envelope.read_bytes(), Path(f"{envelope}.p7s").read_bytes(), (folder / "own.pem").read_text())
    # Our key is exchanged while the platform still encrypts to the one before.
    before = (folder / "own.pem").read_text()
    following = operator.does("enrolment", "key", "next")
    rotated = json.loads(operator.does("enrolment", "key", "rotate", "--json"))
    assert (folder / "own.pem").read_text() == following != before
    request = json.loads(platform.open(envelope.read_bytes()))
    (order,) = request["orders"]
    assert order["policies"]["passwords"] == {"admin": POLICY_SECRET}
    failed = {"serialNumber": "U-2", "status": "FAILED", "errors": {"code": "B-7", "message": "no contract"}}
    said = {
        "transactionId": order["transactionId"],
        "orderId": "SO-2",
        "status": "COMPLETE_WITH_ERRORS",
        "devices": [failed],
    }
    response = {**request, "identifier": "answer-1", "interfaceType": "RESPONSE", "orders": [said]}
    sealed = platform.seal(json.dumps(response).encode(), before)
    inbox = folder / "inbox/billing"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / "answer.p7m.p7s").write_bytes(platform.sign(sealed))
    (inbox / "answer.part").write_bytes(sealed)
    (inbox / "answer.part").rename(inbox / "answer.p7m")
    operator.runs("load", "enrolment-response")
    assert operator.order("SO-2") == ("enrol_failed", {"U-1": "enrolled", "U-2": "enrol_failed"})
    assert (folder / "done/load/billing/answer.p7m.report.json").exists()
    # What waits for the other provider is for the key of before, until the transformation has taken it.
    assert "outbox/dep/" in operator.fails("enrolment", "key", "retire", rotated["before"])
    operator.runs("transformation")
    operator.does("enrolment", "key", "retire", rotated["before"])
    events = json.loads(operator.does("enrolment", "events", "--json"))
    assert [(one["kind"], one["order_id"]) for one in events] == [
        ("enrolment_succeeded", "SO-1"), ("enrolment_failed", "SO-3"), ("enrolment_failed", "SO-2"),
    ]  # fmt: skip
    assert events[2]["notes"] == "OR COMPLETE_WITH_ERRORS\ntablets/U-2: B-7: no contract"
    # 4. What the platform acknowledged, and what an override would do.
    said_so = operator.does("enrolment", "reconcile", "SO-2")
    assert "SO-2 at billing: the same" in said_so
    assert "cannot be asked: this is what it acknowledged by our books; its last answer is of 20" in said_so
    assert json.loads(operator.does("enrolment", "reconcile", "SO-2", "--json"))["source"] == "books"
    operator.does("enrolment", "return", "SO-2", "U-1")
    operator.does("enrolment", "retry", "SO-2")
    assert operator.order("SO-2")[0] == "enrol_pending"
    preview = operator.does("enrolment", "override", "SO-2", "--dry-run")
    assert "REMOVES 1: U-1" in preview
    assert "by our books" in preview
    preview = json.loads(operator.does("enrolment", "override", "SO-2", "--dry-run", "--json"))
    assert (preview["keeps"], preview["adds"], preview["removes"]) == ([], ["U-2"], ["U-1"])
    assert "only there: U-9" in operator.does("enrolment", "reconcile", "SO-2", "--holds", "U-9", code=1)
