"""The administration pages: who gets in, what a form may do, and what no page gives away."""

from __future__ import annotations

import json
from datetime import timedelta

import httpx
import pytest

from service.errors import Secret, ServiceError
from service.operations import administrators, audits, configuration, jobs
from service.operations.verbs.verb import Role
from service.storage.job_tables import admin_session, admin_user
from tests.support.admin_site import PASSWORD, AdminSite, admin_site, field, post, sign_in
from tests.support.commands import Clock, rows_of
from tests.support.storage import new_database

PAGES = ("/admin", "/admin/daemons", "/admin/daemons/load", "/admin/configuration")
FORMS = (
    "/admin/sign-out", "/admin/daemons/load/run", "/admin/daemons/load/enable", "/admin/daemons/load/disable",
    "/admin/daemons/load/schedule", "/admin/configuration/enrolment.settle_s",
)  # fmt: skip


@pytest.fixture
async def site(tmp_path, monkeypatch):
    database = await new_database(tmp_path / "firstlight.db")
    async with admin_site(database, Clock(), tmp_path, monkeypatch) as made:
        yield made
    await database.close()


async def view(site: AdminSite, name: str = "load") -> jobs.View:
    return await jobs.show(site.database, name)


async def test_without_a_session_every_page_leads_to_sign_in_and_no_form_does_anything(site: AdminSite) -> None:
    async with site.client() as client:
        for method, paths in (("GET", PAGES), ("POST", FORMS)):
            for path in paths:
                answer = await client.request(method, path)
                assert (answer.status_code, answer.headers["location"]) == (303, "/admin/sign-in"), path
        client.cookies.set("firstlight-session", "0" * 64)
        assert (await client.get("/admin/daemons")).status_code == 303
    assert await rows_of(site.database, admin_session) == []


async def test_daemons_are_shown_run_enabled_and_scheduled(site: AdminSite) -> None:
    async with site.signed_in() as client:
        page = await client.get("/admin/daemons")
        for name in ("load", "extract", "transformation", "enrolment-request", "enrolment-response"):
            assert f'href="/admin/daemons/{name}"' in page.text
        assert (await post(client, "/admin/daemons/load/run")).headers["location"] == "/admin/daemons/load"
        assert (await view(site)).wanted_by == "admin"
        await post(client, "/admin/daemons/load/enable")
        await post(client, "/admin/daemons/load/schedule", cron="30 3 * * *")
        found = await view(site)
        assert (found.enabled, found.cron) == (True, "30 3 * * *")
        page = await client.get("/admin/daemons/load")
        assert "a run was asked for by admin" in page.text
        assert "03:30:00 UTC" in page.text
        await post(client, "/admin/daemons/load/disable")
        assert not (await view(site)).enabled
    done = [(one.verb, one.account) for one in await audits.page(site.database) if one.verb.startswith("job-")]
    assert done == [(f"job-{word}", "admin") for word in ("run", "enable", "schedule", "disable")]


async def test_what_is_no_schedule_is_said_on_the_page_and_changes_nothing(site: AdminSite) -> None:
    async with site.signed_in() as client:
        before = (await post(client, "/admin/daemons/load/schedule", cron="<b>every day</b>")).text
        assert "five fields" in before
        assert "&lt;b&gt;every day&lt;/b&gt;" in before
        assert "<b>" not in before
        assert (await view(site)).cron == "*/5 * * * *"
        assert (await client.get("/admin/daemons/nobody")).status_code == 404


async def test_configuration_is_shown_and_changed_and_audited(site: AdminSite) -> None:
    async with site.signed_in() as client:
        path = "/admin/configuration"
        assert "enrolment.settle_s" in (await client.get(path)).text
        answer = await post(client, f"{path}/enrolment.settle_s", path, value="30")
        assert answer.status_code == 303
        assert (await configuration.values(site.database))["enrolment.settle_s"] == 30
        refused = await post(client, f"{path}/enrolment.settle_s", path, value="soon")
        assert (refused.status_code, "is a number from 0 to 3600" in refused.text) == (400, True)
        assert (await post(client, f"{path}/nothing", path, value="1")).status_code == 404
    (line,) = [one for one in await audits.page(site.database) if one.verb == "config-set"]
    assert (line.account, line.before, line.after) == ("admin", None, {"name": "enrolment.settle_s", "value": "30"})


@pytest.mark.parametrize(
    ("role", "may"), [("viewer", set()), ("operator", {"run"}), ("admin", {"run", "enable", "configure"})]
)
async def test_each_role_may_do_its_part_and_sees_no_other_buttons(site: AdminSite, role: str, may: set[str]) -> None:
    async with site.signed_in(role) as client:
        await client.get("/admin/daemons")
        page = (await client.get("/admin/daemons/load")).text
        assert ('id="run"' in page, 'id="enable"' in page) == ("run" in may, "enable" in may)
        forms = {
            "run": "/admin/daemons/load/run",
            "enable": "/admin/daemons/load/enable",
            "configure": "/admin/configuration/enrolment.settle_s",
        }
        for what, path in forms.items():
            status = (await post(client, path, value="7")).status_code
            assert status == (303 if what in may else 403), (role, what)


async def test_a_form_without_its_token_or_with_another_s_does_nothing(site: AdminSite) -> None:
    async with site.signed_in() as client, site.signed_in("operator") as other:
        foreign = field(await other.get("/admin/daemons"), "csrf")
        assert foreign != field(await client.get("/admin/daemons"), "csrf")
        for token in ({}, {"csrf": ""}, {"csrf": foreign}, {"csrf": "é"}):
            for path in FORMS:
                answer = await client.post(path, data=token)
                assert answer.status_code == 403, (path, token)
        assert (await client.get("/admin/daemons")).status_code == 200  # not even signed out
    found = await view(site)
    assert (found.enabled, found.wanted_by) == (False, None)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_form_of_another_site_does_nothing_even_with_the_token(site: AdminSite, headers) -> None:
    async with site.signed_in() as client:
        token = field(await client.get("/admin/daemons"), "csrf")
        answer = await client.post("/admin/daemons/load/run", data={"csrf": token}, headers=headers)
        assert answer.status_code == 403
        form = field(await client.get("/admin/sign-in"), "form")
        fields = {"name": "admin", "password": PASSWORD, "form": form}
        assert (await client.post("/admin/sign-in", data=fields, headers=headers)).status_code == 403
    assert (await view(site)).wanted_by is None


async def test_sign_in_needs_the_form_of_its_own_page(site: AdminSite) -> None:
    async with site.client() as client:
        fields = {"name": "admin", "password": PASSWORD}
        assert (await client.post("/admin/sign-in", data=fields)).status_code == 403
        await client.get("/admin/sign-in")
        assert (await client.post("/admin/sign-in", data={**fields, "form": "0" * 32})).status_code == 403


async def test_whoever_is_refused_learns_nothing_of_why(site: AdminSite) -> None:
    await administrators.set_enabled(site.database, "viewer", enabled=False, by="local", now=site.clock())
    said = set()
    async with site.client() as client:
        tries = (
            ("admin", "wrong password"),
            ("nobody", PASSWORD),
            ("viewer", PASSWORD),
            ("", ""),
            ("x" * 500, "y" * 999),
        )
        for name, password in tries:
            answer = await sign_in(client, name, password)
            said.add((answer.status_code, answer.text.replace(field(answer, "form"), "")))
    ((status, text),) = said
    assert status == 401
    assert "wrong name or password" in text


async def test_wrong_passwords_lock_a_name_for_longer_and_longer_but_not_for_good(site: AdminSite) -> None:
    async with site.client() as client:
        for _ in range(administrators.FREE_TRIES):
            assert (await sign_in(client, "admin", "a wrong password")).status_code == 401
        assert (await sign_in(client, "admin", PASSWORD)).status_code == 401  # also the right one
        assert (await sign_in(client, "operator", PASSWORD)).status_code == 303
        site.clock.now += administrators.FIRST_LOCK + timedelta(seconds=1)
        assert (await sign_in(client, "admin", "a wrong password")).status_code == 401
        site.clock.now += administrators.FIRST_LOCK + timedelta(seconds=1)
        assert (await sign_in(client, "admin", PASSWORD)).status_code == 401  # locked for twice as long
        site.clock.now += administrators.LONGEST_LOCK
        assert (await sign_in(client, "admin", PASSWORD)).status_code == 303
    assert {row["failures"] for row in await rows_of(site.database, admin_user)} == {0}


async def test_a_session_ends_when_idle_when_old_and_when_it_is_told_to(site: AdminSite, monkeypatch) -> None:
    monkeypatch.setattr(administrators, "LIFE", timedelta(hours=1))
    async with site.signed_in() as client:
        for _ in range(2):
            site.clock.now += timedelta(minutes=20)
            assert (await client.get("/admin/daemons")).status_code == 200
        site.clock.now += timedelta(minutes=31)
        assert (await client.get("/admin/daemons")).status_code == 303
    async with site.signed_in() as client:
        for _ in range(4):
            site.clock.now += timedelta(minutes=20)
            last = await client.get("/admin/daemons")
        assert last.status_code == 303  # however busy
    async with site.signed_in() as client:
        token = client.cookies["firstlight-session"]
        await post(client, "/admin/sign-out")
        client.cookies.set("firstlight-session", token)
        assert (await client.get("/admin/daemons")).status_code == 303
    async with site.signed_in() as client:
        await administrators.set_enabled(site.database, "admin", enabled=False, by="local", now=site.clock())
        assert (await client.get("/admin/daemons")).status_code == 303


async def test_each_sign_in_is_a_new_session_and_ends_the_browser_s_last(site: AdminSite) -> None:
    async with site.signed_in() as client:
        first = client.cookies["firstlight-session"]
        assert (await sign_in(client, "admin", PASSWORD)).status_code == 303
        assert client.cookies["firstlight-session"] != first
    assert len(await rows_of(site.database, admin_session)) == 1


async def test_cookies_and_headers_leave_scripts_and_other_sites_nothing(site: AdminSite) -> None:
    async with site.client() as client:
        answer = await sign_in(client, "admin", PASSWORD)
        cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("firstlight-session="))
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        for path in (*PAGES[1:3], "/admin/sign-in"):
            page = await client.get(path)
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
            assert page.headers["cache-control"] == "no-store"
            assert page.headers["x-content-type-options"] == "nosniff"
            assert "<script" not in page.text
            assert " style=" not in page.text
        assert (await client.get("/admin/style.css")).headers["content-type"].startswith("text/css")


async def test_passwords_and_session_tokens_stand_nowhere_in_the_database(site: AdminSite) -> None:
    async with site.signed_in() as client:
        token = client.cookies["firstlight-session"]
    raw = b"".join(one.read_bytes() for one in site.database.path.parent.glob("firstlight.db*"))
    assert PASSWORD.encode() not in raw
    assert token.encode() not in raw
    hashes = {row["password_hash"].split("$")[1] for row in await rows_of(site.database, admin_user)}
    assert hashes == {"argon2id"}
    said = json.dumps([(one.arguments, one.before, one.after) for one in await audits.page(site.database)])
    assert PASSWORD not in said
    assert "argon2id" not in said


@pytest.mark.parametrize(
    ("name", "password"), [("Admin", PASSWORD), ("x", "short"), ("x", "y" * 257), ("admin", PASSWORD)]
)
async def test_names_and_passwords_have_their_form(site: AdminSite, name: str, password: str) -> None:
    with pytest.raises(ServiceError):
        await administrators.create(
            site.database, name, Role.ADMIN, Secret(password.encode()), by="local", now=site.clock()
        )


async def test_the_library_s_own_hash_is_argon2id_with_enough_memory() -> None:
    from argon2 import PasswordHasher, Type, extract_parameters

    assert PasswordHasher().type is Type.ID
    assert extract_parameters(administrators._NOBODY).memory_cost >= 19 * 1024
    assert extract_parameters(administrators._NOBODY) == extract_parameters(PasswordHasher().hash("x"))


async def test_a_form_that_is_too_large_is_refused(site: AdminSite) -> None:
    async with site.signed_in() as client:
        with_all = {"csrf": "0" * 64, "cron": "x" * 3_000_000}
        answer = await client.post("/admin/daemons/load/schedule", data=with_all)
        assert isinstance(answer, httpx.Response)
        assert answer.status_code == 413
