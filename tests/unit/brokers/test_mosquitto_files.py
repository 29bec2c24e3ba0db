"""The texts that Mosquitto reads: rendered whole, parsed strictly, kept while they serve."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.wire import limits
from service.brokers import doctor
from service.brokers.gate import Login
from service.brokers.mosquitto import certificates
from service.brokers.mosquitto.acl import AclError, parse_acl, render_acl, too_wide
from service.brokers.mosquitto.dynsec import password_hash, render_dynsec
from service.brokers.mosquitto.plan import BrokerPlan, Listener
from service.brokers.mosquitto.render import configuration, render
from service.brokers.policy import Principal, may_publish, may_receive, may_subscribe
from service.domain.credential import CredentialKind
from service.errors import Secret
from service.mqtt.port import EVERYWHERE, Role
from tests.support.broker_site import account_login
from tests.support.mosquitto import make_issuer

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEY = Secret(b"5" * 64)
LOGIN = Login("a" * 32, CredentialKind.API_KEY, KEY, hashlib.sha256(KEY.reveal()).digest())


WAREHOUSE = Listener(8887, "192.0.2.9")


def plan(folder, **more) -> BrokerPlan:
    values = {"api_key": Listener(8884), "x509": Listener(8883)} | more
    return BrokerPlan("test", folder, ("mqtt.example.org", "192.0.2.1"), Listener(8885), 1885, 1884, **values)


@pytest.mark.parametrize("role", Role)
def test_our_own_acl_file_is_taken_by_the_parser_and_lets_nobody_reach_further(role: Role) -> None:
    rules = parse_acl(render_acl(role, "pv1"))
    assert too_wide(rules) == []
    assert {rule.topic.rsplit("/", 1)[1] for rule in rules if rule.user is None} == {"+"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "topc read pv1/c/%u/dn/+\n",
        "pattern read pv1/c/%u/dn/+",
        "pattern read pv1/#\n",
        "pattern read pv1/%u/#/x\n",
        "pattern red pv1/%u/x\n",
        "topic readwrite #\n",
        "user\ntopic read x\n",
        "user firstlight\ntopic\n",
        "user firstlight\ntopic read a+b\n",
    ],
)
def test_an_acl_file_that_is_cut_off_or_says_more_than_we_write_is_refused(text: str) -> None:
    with pytest.raises(AclError):
        parse_acl(text)


@given(st.integers(min_value=0, max_value=400))
def test_an_acl_file_cut_at_any_byte_is_refused_or_says_less(cut: int) -> None:
    whole = render_acl(Role.OPERATIONAL, "pv1")
    try:
        rules = parse_acl(whole[:cut])
    except AclError:
        return
    assert rules == parse_acl(whole)[: len(rules)]


def test_a_load_test_identity_is_seen_as_too_wide() -> None:
    text = render_acl(Role.OPERATIONAL, "pv1") + "user loadtest\ntopic readwrite pv1/#\n"
    assert [rule.user for rule in too_wide(parse_acl(text))] == ["loadtest"]
    assert len(too_wide(parse_acl("pattern read pv1/c/%u/#\n"))) == 1


def test_the_plugin_s_file_holds_each_login_without_role_and_shuts_all_four_defaults() -> None:
    document = json.loads(render_dynsec(Secret(b"s"), Secret(b"a"), [LOGIN], bytes))
    assert set(document["defaultACLAccess"].values()) == {False}
    assert len(document["defaultACLAccess"]) == 4
    device = document["clients"][2]
    assert (device["username"], device["clientid"], device["roles"]) == ("a" * 32, "a" * 32, [])
    assert base64.b64decode(device["password"]) == password_hash(KEY, bytes(12))
    assert KEY.reveal().decode() not in json.dumps(document)
    bootstrap = json.loads(render_dynsec(Secret(b"s"), None, []))
    assert [client["username"] for client in bootstrap["clients"]] == ["firstlight"]
    assert bootstrap["roles"] == []


def test_the_plugin_s_file_holds_each_account_with_its_sessions_and_a_role_of_its_own_and_no_key(tmp_path) -> None:
    alice, erp = account_login("alice", "o"), account_login("erp", "e")
    where = plan(tmp_path, root="site/pv1")
    render(where, make_issuer(), [LOGIN], (), NOW, accounts=[alice, erp])
    text = where.dynsec(Role.OPERATIONAL).read_text()
    document = json.loads(text)
    clients = {one["username"]: one for one in document["clients"]}
    assert {"alice", "alice.2", "alice.3", "alice.4", "erp", "erp.2", "erp.3", "erp.4"} <= clients.keys()
    second = clients["alice.2"]
    assert (second["clientid"], second["roles"]) == ("alice.2", [{"rolename": "account-alice"}])
    assert base64.b64decode(second["password"]) == password_hash(alice.key, base64.b64decode(second["salt"]))
    assert all(
        secret not in text for one in (alice, erp) for secret in (one.key.reveal().decode(), one.key_sha256.hex())
    )
    allowed = {role["rolename"]: {acl["topic"] for acl in role["acls"]} for role in document["roles"]}
    assert allowed["account-alice"] == {"site/pv1/o/alice/up/+", "site/pv1/o/alice/dn/+", "site/pv1/o/alice/dn/#"}
    assert allowed["account-erp"] == {"site/pv1/e/erp/+", "site/pv1/e/erp/#"}
    assert [check for check in doctor.files(where) if not check.ok] == []
    assert "alice" not in where.dynsec(Role.BOOTSTRAP).read_text()


def test_an_account_in_the_plugin_s_file_that_the_database_does_not_know_or_that_has_another_key_is_seen(
    tmp_path,
) -> None:
    alice, bob, erp = (account_login(name, space) for name, space in (("alice", "o"), ("bob", "o"), ("erp", "e")))
    where = plan(tmp_path)
    render(where, make_issuer(), [LOGIN], (), NOW, accounts=[alice, bob])
    assert doctor.accounts_in_file(where, [bob, alice]).ok
    found = doctor.accounts_in_file(where, [account_login("bob", "o", b"new"), erp])
    assert not found.ok
    assert {word.partition(".")[0] for word in found.reason.split(", ")} == {"alice", "bob", "erp"}
    where.dynsec(Role.OPERATIONAL).write_text("{")
    assert not doctor.accounts_in_file(where, []).ok


def test_a_login_that_only_looks_like_an_account_s_is_seen(tmp_path) -> None:
    where = plan(tmp_path)
    render(where, make_issuer(), [], (), NOW, accounts=[account_login("alice", "o")])
    whole = where.dynsec(Role.OPERATIONAL).read_text()
    for wrong in (
        whole.replace("pv1/o/alice/dn/#", "pv1/o/#"),
        whole.replace('"username": "alice.2"', '"username": "alice.9"'),
        whole.replace('"clientid": "alice.3"', '"clientid": "bob"'),
        whole.replace(
            '"topic": "pv1/o/alice/up/+",\n     "allow": true', '"topic": "pv1/o/alice/up/+",\n     "allow": false'
        ),
    ):
        assert wrong != whole
        where.dynsec(Role.OPERATIONAL).write_text(wrong)
        assert [check.name for check in doctor.files(where) if not check.ok], wrong


def test_rendering_twice_keeps_passwords_and_certificate_and_renews_what_ran_out(tmp_path) -> None:
    issuer, where = make_issuer(), plan(tmp_path)
    render(where, issuer, [LOGIN], {7}, NOW)
    kept = [where.certificate, where.private_key, where.admin_password_file, where.password_file(Role.BOOTSTRAP)]
    before = [path.read_bytes() for path in kept]
    render(where, issuer, [], {7, 8}, NOW + timedelta(days=30))
    assert [path.read_bytes() for path in kept] == before
    assert certificates.revoked_serials(where.crl.read_bytes()) == {7, 8}
    render(where, issuer, [], (), NOW + certificates.SERVER_LIFE)
    assert where.certificate.read_bytes() != before[0]
    render(where, make_issuer(), [], (), NOW + certificates.SERVER_LIFE)  # another CA
    assert all(
        path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"
    )


@pytest.mark.parametrize("left", ["of another certificate", "cut off", "no key"])
def test_a_key_that_does_not_belong_to_the_brokers_certificate_is_made_again_with_one(tmp_path, left: str) -> None:
    issuer, where = make_issuer(), plan(tmp_path)
    render(where, issuer, [], (), NOW)
    if left == "of another certificate":  # a rendering that was cut off between the two files
        where.private_key.write_bytes(certificates.server_certificate(issuer, where.hostnames, NOW)[1])
    elif left == "cut off":
        where.private_key.write_bytes(where.private_key.read_bytes()[:40])
    else:
        where.private_key.unlink()
    render(where, issuer, [], (), NOW)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(where.certificate, where.private_key)


def test_an_environment_without_certificates_gets_no_listener_for_them(tmp_path) -> None:
    text = configuration(plan(tmp_path, x509=None), Role.OPERATIONAL)
    assert "require_certificate" not in text
    assert text.count("listener ") == 2
    assert "require_certificate true" in configuration(plan(tmp_path), Role.OPERATIONAL)


@pytest.mark.parametrize("role", Role)
def test_every_limit_that_the_protocol_relies_on_is_in_every_configuration(tmp_path, role: Role) -> None:
    lines = configuration(plan(tmp_path, warehouse=WAREHOUSE, warehouse_service_port=1886), role).splitlines()
    for wanted in (
        "retain_available false", "persistence false", "max_packet_size 262144", "max_queued_messages 2000",
        "max_inflight_messages 512", "set_tcp_nodelay true", "per_listener_settings false",
    ):  # fmt: skip
        assert wanted in lines
    assert limits.MAX_OUTSTANDING_CHUNKS + 200 < 2000  # room for what is not chunks
    assert any(line.startswith("plugin ") for line in lines)
    assert ("allow_anonymous true" in lines) is (role is not Role.OPERATIONAL)


def test_the_warehouse_listens_on_its_own_address_and_marks_whatever_comes_from_there(tmp_path) -> None:
    where = plan(tmp_path, warehouse=WAREHOUSE, warehouse_service_port=1886)
    devices, service = configuration(where, Role.WAREHOUSE).split("\nlistener ")[1:]
    assert devices.startswith("8887 192.0.2.9\n")
    assert "mount_point warehouse/\n" in devices
    assert service.startswith("1886 127.0.0.1\n")
    assert "mount_point" not in service
    rules = parse_acl(render_acl(Role.WAREHOUSE, "pv1"))
    assert {rule.topic.split("/")[0] for rule in rules} == {"warehouse"}
    for role in EVERYWHERE:
        assert "mount_point" not in configuration(where, role)
        assert "warehouse" not in render_acl(role, "pv1")


def test_an_environment_without_a_warehouse_has_no_files_of_one(tmp_path) -> None:
    render(plan(tmp_path), make_issuer(), [LOGIN], set(), NOW)
    assert not (tmp_path / "warehouse").exists()
    render(plan(tmp_path, warehouse=WAREHOUSE, warehouse_service_port=1886), make_issuer(), [LOGIN], set(), NOW)
    assert {one.name for one in (tmp_path / "warehouse").iterdir()} == {"mosquitto.conf", "acl", "dynsec.json"}
    assert LOGIN.credential_id not in (tmp_path / "warehouse" / "dynsec.json").read_text()
    assert (tmp_path / "passwords" / "service-warehouse").exists()


topics = st.lists(
    st.sampled_from(["pv1", "b", "c", "a" * 32, "b" * 32, "up", "dn", "x", "+", "#", "", "$SYS"]), max_size=7
)


@given(topics)
def test_the_policy_lets_a_device_write_only_its_own_up_and_read_only_its_own_dn(levels: list[str]) -> None:
    topic = "/".join(levels)
    device = Principal(Role.OPERATIONAL, "a" * 32)
    own = ["pv1", "c", "a" * 32]
    ours = levels[:3] == own and len(levels) == 5 and levels[4] not in ("", "+", "#")
    assert may_publish(device, topic) is (ours and levels[3] == "up")
    assert may_receive(device, topic) is (ours and levels[3] == "dn")
    allowed = levels[:4] == [*own, "dn"] and len(levels) == 5 and levels[4] != ""
    assert may_subscribe(device, topic) is allowed
