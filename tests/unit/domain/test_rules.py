"""Rules of reactivation, firmware, desired state and place, as tables."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain import activation, desired, firmware, reactivation
from service.domain.catalogue import Ou
from service.domain.credential import CredentialKind, CredentialState
from service.domain.device import Firmware, FirmwareState
from service.domain.group import KeyKind, Reactivation
from service.domain.reactivation import Verdict
from service.errors import ServiceError
from tests.support.fake_link import START
from tests.support.pipeline_site import NEW, OLD, catalogue, group, holding, pending, registered

CONFIRMED = replace(pending(1), state=CredentialState.CONFIRMED)
S = FirmwareState


def after(seconds: float):
    return START + timedelta(seconds=seconds)


VERDICTS = {
    "nothing is confirmed yet": ((), Reactivation.HOLD, {}, 0, Verdict.CONFIRM),
    "policy open": ((CONFIRMED,), Reactivation.OPEN, {}, 0, Verdict.CONFIRM),
    "policy hold, first time": ((CONFIRMED,), Reactivation.HOLD, {}, 0, Verdict.ASK),
    "policy hold, 29 s later": ((CONFIRMED,), Reactivation.HOLD, {"held_at": START}, 29, Verdict.WAIT),
    "policy hold, 30 s later": ((CONFIRMED,), Reactivation.HOLD, {"held_at": START}, 30, Verdict.CONFIRM),
    "held before the service listened": ((CONFIRMED,), Reactivation.HOLD, {"held_at": after(-60)}, 30, Verdict.ASK),
    "waiting for an operator": (
        (CONFIRMED,), Reactivation.HOLD, {"held_at": START, "awaits_operator": True}, 99, Verdict.OPERATOR
    ),
    "approved": ((CONFIRMED,), Reactivation.OPERATOR, {"approved": True}, 0, Verdict.CONFIRM),
    "policy operator": ((CONFIRMED,), Reactivation.OPERATOR, {}, 9999, Verdict.OPERATOR),
}  # fmt: skip


@pytest.mark.parametrize(("others", "policy", "fields", "seconds", "verdict"), VERDICTS.values(), ids=VERDICTS)
def test_may_it_take_over(others, policy, fields, seconds, verdict):
    one = pending(2, **fields)
    assert reactivation.judge(holding(*others, one), one, policy, after(seconds), START) is verdict


def test_only_a_held_credential_is_suspected_and_only_when_the_confirmed_one_is_heard():
    held = pending(2, held_at=START)
    both = holding(CONFIRMED, held)
    assert reactivation.suspect_clones(both, CONFIRMED).credentials[1].awaits_operator
    for device, heard in ((both, held), (holding(CONFIRMED, pending(2)), CONFIRMED), (holding(CONFIRMED), CONFIRMED)):
        assert reactivation.suspect_clones(device, heard) is device


INSTALLING = Firmware(S.REBOOTING, NEW.version_id, installing_boot_count=4)
RUNS = {
    "the new one after a boot": (INSTALLING, NEW, 5, S.CONFIRMED),
    "the new one without a boot": (INSTALLING, NEW, 4, S.REBOOTING),
    "the old one after a boot": (INSTALLING, OLD, 5, S.ROLLED_BACK),
    "the factory's after a boot": (INSTALLING, None, 5, S.ROLLED_BACK),
    "the old one without a boot": (INSTALLING, OLD, 4, S.REBOOTING),
    "the old one while downloading": (Firmware(S.DOWNLOADING, NEW.version_id), OLD, 9, S.DOWNLOADING),
    "one that was never reported": (Firmware(), NEW, 1, S.CONFIRMED),
    "the factory's at first": (Firmware(), None, 1, None),
    "another than the confirmed one": (Firmware(S.CONFIRMED, NEW.version_id), OLD, 9, S.ROLLED_BACK),
    "the new one after a failure": (Firmware(S.FAILED, NEW.version_id, installing_boot_count=4), NEW, 5, S.CONFIRMED),
}


@pytest.mark.parametrize(("said", "runs", "boot_count", "state"), RUNS.values(), ids=RUNS)
def test_what_runs_decides(said, runs, boot_count, state):
    assert firmware.running(said, runs, boot_count, START).state is state


def test_what_only_the_service_concludes_is_not_taken_from_a_report():
    for state in (S.OFFERED, S.CONFIRMED):
        assert firmware.reported(INSTALLING, state, NEW.version_id, None, None, 5, START) is INSTALLING


def test_a_late_repeat_does_not_undo_a_confirmation_but_a_failure_does():
    done = Firmware(S.CONFIRMED, NEW.version_id, confirmed_seq=2)
    assert firmware.reported(done, S.REBOOTING, NEW.version_id, None, None, 5, START) is done
    assert firmware.reported(done, S.FAILED, NEW.version_id, None, "x", 5, START).state is S.FAILED
    assert firmware.reported(done, S.ACCEPTED, OLD.version_id, None, None, 5, START).state is S.ACCEPTED


def test_installing_stores_the_boot_that_counts():
    said = firmware.reported(Firmware(), S.INSTALLING, NEW.version_id, None, None, 7, START)
    assert said.installing_boot_count == 7
    assert firmware.reported(said, S.REBOOTING, NEW.version_id, None, None, 7, START).installing_boot_count == 7
    assert firmware.reported(said, S.ACCEPTED, OLD.version_id, None, None, 7, START).installing_boot_count is None


def test_a_certificate_is_renewed_at_two_thirds_of_its_life():
    one = pending(1, certificate_expires_at=START + timedelta(days=300))
    assert not desired.is_renewal_due(one, START + timedelta(days=199))
    assert desired.is_renewal_due(one, START + timedelta(days=200))
    assert not desired.is_renewal_due(pending(1), START + timedelta(days=9999))
    content = desired.content(registered(), one, catalogue(), START + timedelta(days=201))
    assert content == {"credential": {"renew": int(START.timestamp()) * 1000}}


BOTH = (CredentialKind.API_KEY, CredentialKind.X509)
KINDS = {
    "a CSR where both are offered": (KeyKind.INDIVIDUAL, BOTH, True, CredentialKind.X509),
    "no CSR where both are offered": (KeyKind.INDIVIDUAL, BOTH, False, CredentialKind.API_KEY),
    "a CSR where only keys are": (KeyKind.INDIVIDUAL, BOTH[:1], True, CredentialKind.API_KEY),
    "no CSR where only certificates are": (KeyKind.INDIVIDUAL, BOTH[1:], False, None),
    "a public key without CSR": (KeyKind.PUBLIC_KEY, BOTH, False, None),
    "a public key where only keys are": (KeyKind.PUBLIC_KEY, BOTH[:1], True, None),
}


@pytest.mark.parametrize(("key_kind", "kinds", "has_csr", "kind"), KINDS.values(), ids=KINDS)
def test_which_kind_of_credential(key_kind, kinds, has_csr, kind):
    one = group(key_kind=key_kind)
    place = activation.place_of(registered(), one, catalogue(one, kinds=kinds))
    if kind is None:
        with pytest.raises(ServiceError, match="CSR"):
            activation.kind_of(one, place, has_csr=has_csr)
    else:
        assert activation.kind_of(one, place, has_csr=has_csr) is kind


PLACES = {
    "the group's OU and environment": ({}, (), "prod"),
    "an OU that is bound comes before the group's environment": (
        {"ou": "acme/b/hall"},
        (Ou("acme/b", "east"),),
        "east",
    ),
    "the group's OU is bound": ({}, (Ou("acme", "east"),), "east"),
    "an OU beside the bound one": ({"ou": "acme/c"}, (Ou("acme/b", "east"),), "prod"),
    "what the device was given itself": ({"environment": "prod"}, (Ou("acme", "east"),), "prod"),
}


@pytest.mark.parametrize(("own", "ous", "environment"), PLACES.values(), ids=PLACES)
def test_where_a_device_is_first_activated(own, ous, environment):
    one = group(default_ou="acme")
    world = catalogue(one)
    places = {**world.environments, "east": replace(world.environments["prod"], name="east")}
    world = replace(world, environments=places, ous={of.path: of for of in ous})
    assert activation.place_of(replace(registered(), **own), one, world).environment.name == environment
