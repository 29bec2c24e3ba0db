"""Every refusal below a partner's paths has the partner's body, whoever refuses: route, framework, or what stands before."""

from __future__ import annotations

import json

import pytest

from tests.support.partner_site import LINK, partner_site, public_key

IMPORT = "/api/management/stb/import"
USER = "/api/management/user"
BUY = "/api/user/stb_user@example.com/product/hbo/buy/option/monthly"
FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}
MULTIPART = {"content-type": "multipart/form-data; boundary=y"}


@pytest.fixture
async def site(tmp_path):
    async with partner_site(tmp_path) as made:
        yield made


def told(answer):
    """Status and code of a refusal that has exactly the partner's body."""
    found = json.loads(answer.content)
    assert set(found) == {"error"}, answer.text
    assert set(found["error"]) == {"code", "text"}
    assert found["error"]["text"]
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-trace"]) == 16
    return answer.status_code, found["error"]["code"]


@pytest.mark.parametrize(
    ("path", "content", "headers", "expected"),
    [
        (IMPORT, b"{", JSON, (400, 9400)),
        (IMPORT, b"", JSON, (400, 9400)),
        (IMPORT, b'{"boxes": "\xff"}', JSON, (400, 9400)),
        (IMPORT, b"[" * 100_000, JSON, (400, 9400)),
        (IMPORT, b"{}", JSON, (400, 9400)),
        (IMPORT, b'{"boxes": 5}', JSON, (400, 9400)),
        (IMPORT, b'{"boxes": [], "more": 1}', JSON, (400, 9400)),
        (IMPORT, b'{"boxes": []}', FORM, (400, 9400)),
        (IMPORT, b'{"boxes": []}', {"content-type": "text/plain"}, (400, 9400)),
        (LINK, b"--x", MULTIPART, (400, 9400)),
        (LINK, b"--x", {"content-type": "multipart/form-data"}, (400, 9400)),
        (LINK, b"&".join(b"f%d=x" % one for one in range(101)), FORM, (400, 9400)),
        (LINK, b"x" * 1_100_000, FORM, (413, 9413)),
        (USER, b"x" * 1_100_000, {}, (413, 9413)),
        (IMPORT, b" " * (8 * 1024 * 1024 + 1), JSON, (413, 9413)),
    ],
)  # fmt: skip
async def test_a_body_that_cannot_be_taken_is_refused_in_the_partner_s_form(site, path, content, headers, expected):
    answer = await site.client.post(path, content=content, headers={**headers, "Service-Token": site.token})
    assert told(answer) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", LINK, (405, 9405)),
        ("DELETE", USER, (405, 9405)),
        ("POST", BUY, (405, 9405)),
        ("POST", "/api/management/stb/unknown", (404, 9404)),
        ("GET", "/api/user/somebody", (404, 9404)),
    ],
)
async def test_other_methods_and_addresses_below_the_partner_s_paths_too(site, method, path, expected):
    answer = await site.client.request(method, path, headers={"Service-Token": site.token})
    assert told(answer) == expected
    assert ("allow" in answer.headers) == (expected[0] == 405)


async def test_elsewhere_the_form_is_the_house_s(site):
    for path in ("/api/nowhere", "/api/managements"):
        assert set((await site.client.get(path)).json()) == {"code", "reason", "trace"}


async def test_too_many_requests_are_told_in_the_partner_s_form(tmp_path):
    async with partner_site(tmp_path, rate=0.001, burst=2) as site:
        answers = [await site.link(), await site.link(), await site.link()]
        assert [one.status_code for one in answers] == [200, 400, 429]
        assert told(answers[-1]) == (429, 9429)
        assert answers[-1].headers["retry-after"] == "5"


@pytest.mark.parametrize("token", ["header", "query"])
@pytest.mark.parametrize(
    ("path", "content", "headers"),
    [
        (IMPORT, b"{", JSON),
        (IMPORT, b'{"boxes": 5}', JSON),
        (IMPORT, b"", {}),
        (LINK, b"--x", MULTIPART),
        (USER, b"--x", MULTIPART),
    ],
)
async def test_the_token_is_looked_at_before_the_body_is_understood(site, path, content, headers, token):
    if token == "header":
        answer = await site.client.post(path, content=content, headers={**headers, "Service-Token": "wrong"})
    elif headers is MULTIPART:  # the form may have the token: there is nothing to be said before it is read
        answer = await site.client.post(path, content=content, headers=headers)
        assert told(answer) == (400, 9400)
        return
    else:
        answer = await site.client.post(path, content=content, headers=headers, params={"service_token": "wrong"})
    assert (answer.status_code, answer.content) == (401, b"")
    assert "www-authenticate" not in answer.headers


async def test_a_box_of_the_list_with_wrong_types_refuses_no_other(site):
    listed = [{"serial_no": 5}, {"serial_no": "A-1", "public_keys": [public_key()]}, "no box", {"serial_no": "A-2"}]
    answer = await site.client.post(IMPORT, json={"boxes": listed}, headers={"Service-Token": site.token})
    assert answer.status_code == 200, answer.text
    assert [one["result"] for one in answer.json()["boxes"]] == ["error", "imported", "error", "error"]


async def test_what_goes_wrong_inside_has_the_partner_s_form_too(site, monkeypatch):
    async def broken(*_, **__):
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr("service.operations.partners.services.add_user", broken)
    answer = await site.client.post(USER, data={"service_token": site.token, "email": "a@example.com"})
    assert told(answer) == (500, 9500)
    assert "inside" not in answer.text
