"""Further bootstrap endpoints: kept, told to the devices of an environment, and taken away again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.catalogue import Endpoint, Environment
from service.domain.credential import CredentialKind
from service.domain.desired import content
from service.errors import ServiceError
from service.operations import bootstraps
from service.storage.store import SqlStore
from tests.support.rig import Rig
from tests.support.storage import NOW, a_credential, a_device, a_thing

ENVIRONMENT = Environment("prod", {CredentialKind.API_KEY: Endpoint("ops", 8883, True)}, "CA of prod")


@pytest.fixture
def told(database):
    """The `trust` of a device's document in that environment."""
    store, device = SqlStore(database, {"prod": ENVIRONMENT}), a_device()
    device = replace(device, thing=a_thing(device))

    async def trust(environment="prod"):
        one = a_credential(device, environment=environment)
        return content(device, one, await store.catalogue(), NOW).get("trust")

    return trust


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


async def add(database, host="boot-2", port=8885, environment="prod", **fields):
    return await bootstraps.add(database, environment, host, port, now=NOW, **fields)


async def test_devices_of_the_environment_are_told_and_hear_also_that_the_last_one_is_gone(database, told):
    assert await told() is None
    added = await add(database)
    assert await bootstraps.list_all(database) == [added]
    assert await told() == {"bootstrap": [{"host": "boot-2", "port": 8885, "tls": True, "ca": "CA of prod"}]}
    assert await told("elsewhere") is None
    await add(database, "boot-1", 8884, tls=False)
    assert [one["host"] for one in (await told())["bootstrap"]] == ["boot-1", "boot-2"]
    assert "ca" not in (await told())["bootstrap"][0]
    await bootstraps.remove(database, "prod", "boot-1", 8884, now=NOW)
    await bootstraps.remove(database, "prod", "boot-2", 8885, now=NOW)
    assert await told() == {"bootstrap": []}
    assert await bootstraps.list_all(database) == []
    await add(database)  # and it may come back
    assert [one["host"] for one in (await told())["bootstrap"]] == ["boot-2"]


async def test_the_same_again_changes_nothing_and_what_contradicts_is_refused(database):
    store = SqlStore(database, {})
    first = await add(database)
    rev = (await store.catalogue()).rev
    assert await add(database) == first
    assert (await store.catalogue()).rev == rev
    assert await refused(add(database, tls=False)) == ("CONFLICT", "bootstrap_exists")
    for number in range(1, bootstraps.MAX_ENDPOINTS):
        await add(database, f"more-{number}")
    assert await refused(add(database, "one-too-many")) == ("CONFLICT", "bootstrap_full")
    await add(database, "elsewhere", environment="other")
    gone = bootstraps.remove(database, "prod", "nobody", 1, now=NOW)
    assert await refused(gone) == ("NOT_FOUND", "bootstrap_unknown")


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"host": ""}, "bootstrap_illegal"),
        ({"host": "a b"}, "bootstrap_illegal"),
        ({"host": "x" * 256}, "bootstrap_illegal"),
        ({"port": 0}, "bootstrap_illegal"),
        ({"port": 65536}, "bootstrap_illegal"),
        ({"ca_pem": "no certificate"}, "bootstrap_ca_illegal"),
        ({"ca_pem": "x" * 5000}, "bootstrap_ca_illegal"),
        ({"environment": "a/b"}, "environment_illegal"),
    ],
    ids=str,
)
async def test_what_is_no_endpoint_is_refused(database, fields, cause):
    assert await refused(add(database, **fields)) == ("BAD_REQUEST", cause)
    assert await bootstraps.list_all(database) == []


async def test_a_device_comes_in_where_it_was_told_when_the_factory_s_place_is_gone(database, told):
    await add(database, "boot-2", 1, tls=False)
    rig = Rig()
    rig.run(lambda: rig.client.status.state == "online")
    owner = rig.owner
    rig.peer.want(trust=await told())
    rig.push()
    rig.peer.down = ("boot",)
    rig.peer.hosts = ("boot-2", "ops")
    for known in rig.peer.credentials.values():
        known["state"] = "dropped"
    rig.drop()
    rig.run(lambda: rig.connection is not None and rig.owner != owner and rig.client.status.state == "online")
    assert "boot-2" in [one.host for one in rig.peer.connects]
