"""OUs that are bound to an environment or have a firmware target of their own."""

from __future__ import annotations

import pytest

from service.domain.catalogue import Ou
from service.domain.placement import bound_environment
from service.errors import ServiceError
from service.operations import ous
from service.storage.store import SqlStore
from tests.support.storage import new_database

KNOWN = ("prod", "lab")


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


async def bind(database, path, environment):
    return await ous.change(database, path, {"environment": environment}, environments=KNOWN)


async def test_an_ou_is_bound_with_everything_below_it_that_has_nothing_nearer(database):
    store = SqlStore(database, {})
    before = (await store.catalogue()).rev
    await bind(database, "acme", "prod")
    await bind(database, "acme/lab", "lab")
    catalogue = await store.catalogue()
    assert catalogue.rev == before + 2
    paths = ("acme/emea/plant-7", "acme/lab/bench", "acme/laboratory", "other")
    assert [bound_environment(catalogue, path) for path in paths] == ["prod", "lab", "prod", None]


async def test_an_ou_without_anything_of_its_own_has_no_row(database):
    await bind(database, "acme", "prod")
    assert await bind(database, "acme", None) == Ou("acme")
    assert await ous.list_all(database) == []


@pytest.mark.parametrize(
    ("path", "changes", "found"),
    [
        ("acme//x", {"environment": "prod"}, ("BAD_REQUEST", "ou_illegal")),
        ("acme", {}, ("BAD_REQUEST", "ou_change_illegal")),
        ("acme", {"path": "x"}, ("BAD_REQUEST", "ou_change_illegal")),
        ("acme", {"environment": "a/b"}, ("BAD_REQUEST", "environment_illegal")),
        ("acme", {"environment": "moon"}, ("NOT_FOUND", "environment_unknown")),
        ("acme", {"target_version_id": "0" * 32}, ("NOT_FOUND", "version_unknown")),
    ],
)
async def test_a_wrong_change_changes_nothing(database, path, changes, found):
    with pytest.raises(ServiceError) as caught:
        await ous.change(database, path, changes, environments=KNOWN)
    assert (caught.value.code, caught.value.cause) == found
    assert await ous.list_all(database) == []
