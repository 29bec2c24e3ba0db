"""A transfer of ownership of a device that logs in with certificates: its key changes all the same."""

from __future__ import annotations

from device_sdk.core.ports import Crypto
from device_sdk.core.records import Records
from tests.support.peer import K
from tests.support.rig import Rig


class WithCertificates(Crypto):
    def make_csr(self):
        return b"request", "PRIVATE KEY"


CERTIFIED = {"kind": "x509", "certificate": "CERTIFICATE"}


def transferred():
    """In service with a certificate, and then renewed under a new key."""
    rig = Rig(crypto=WithCertificates())
    rig.peer.grants = CERTIFIED
    rig.run(lambda: rig.client.status.state == "online")
    rig.peer.grants = {**CERTIFIED, "rekey": True}
    rig.peer.want(credential={"renew": 1})
    rig.push()
    rig.run(lambda: rig.peer.key != K and Records(rig.machine).load("key") is not None)
    rig.run_for(1)
    rig.peer.grants = CERTIFIED
    return rig


def test_documents_are_checked_with_the_new_key():
    rig = transferred()
    rig.peer.want(settings=None)
    rig.push()
    rig.run_for(5)
    assert rig.client.counters == {}
    assert Records(rig.machine).load("current")["key"] == rig.peer.key


def test_the_new_key_outlives_the_certificates():
    rig = transferred()
    owner = rig.owner
    Records(rig.machine).delete("current")
    rig.drop()
    rig.boot()
    rig.run(lambda: rig.connection is not None and rig.client.status.state == "online" and rig.owner != owner)
    assert Records(rig.machine).load("current")["key"] == rig.peer.key
    rig.peer.want(settings=None)
    rig.push()
    rig.run_for(5)
    assert "mac" not in rig.client.counters
