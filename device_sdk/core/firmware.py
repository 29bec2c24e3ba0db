"""Firmware: which version is wanted, which one runs, and whether a new one stays.

Owns the decisions: what becomes of an offer, of a job after a restart, of an image on trial. The fetching and
installing is update.py's, the record job.py's. Source: docs/protocol.md, sections "Desired state" and "report". Runs on
MicroPython.

After the restart, again so that power may go between any two steps: online answered | healthy | installer.confirm |
"confirmed" with the new seq saved. An old version that is seen with job "rebooting" was rolled back.
"""

from device_sdk.core import job as states
from device_sdk.core.job import Job
from device_sdk.core.ports import InstallError
from device_sdk.core.release import RefusedReleaseError, check_release
from device_sdk.core.update import Update
from device_sdk.wire import ids

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.download import Fetch


class Firmware:
    """`running`: map of what runs now (version_id unless the factory put it there, name). `job`: its reports."""

    def __init__(self, context: "Context") -> None:
        self._context = context
        self.on_trial = False
        self._trial_until = 0.0
        self.running: dict[str, Any] = {}
        self.job = Job(context)
        self.update = Update(context, self.job)

    @property
    def wake_at(self) -> "float | None":
        at = self.update.wake_at
        if self.on_trial and not self.update.gone:
            return self._trial_until if at is None else min(at, self._trial_until)
        return at

    @property
    def cause(self) -> "str | None":
        return self.job.cause

    def start(self, now: float) -> None:
        """Once per boot: what runs, and what became of the job."""
        self.job.load()
        booted = self._context.installer.booted()
        name = booted["name"]
        if booted["version_id"] is not None:
            self.running["version_id"] = booted["version_id"]
        elif name is None:
            name = self._context.identity.factory_name
        if name is not None:
            self.running["name"] = name
        self.on_trial = booted["trial"]
        self._trial_until = now + self._context.policy.trial_s
        if not self.on_trial:
            self._settle()

    def _settle(self) -> None:
        job = self.job
        if job.wanted is None:
            return
        if job.version_id == self.running.get("version_id"):
            if job.state not in states.FINISHED:
                # Power went after installer.confirm() and before the record of it.
                self._confirmed()
        elif job.state == states.REBOOTING:
            cause = job.cause or "not_confirmed"
            self._context.trouble("rolled_back", cause)
            self.update.forget_download()
            job.failed_try(states.ROLLED_BACK, cause)
            job.take_queued(self.running.get("version_id"))

    def online(self, fetch: "Fetch", now: float) -> None:
        """An `online` was answered ok: confirm what is on trial, and go on with the job."""
        self.update.fetch = fetch
        if self.on_trial:
            self._end_trial()
        if not self.update.gone and not self.on_trial:
            if self.job.state in states.FINISHED:
                self.job.tell(self.job.state, self.job.cause)
            self.update.go_on(now)

    def offer(self, offer: object, now: float) -> None:
        """The `firmware` of an accepted document; None: nothing is wanted."""
        job = self.job
        if offer is None:
            if job.state in states.ACTIVE and not self.update.leaving:
                self._take(None)
            return
        try:
            version = check_release(self._context, offer, job.seq)
        except RefusedReleaseError as refusal:
            self._refuse(offer, refusal.cause)
            return
        if isinstance(offer, dict):
            job.release(offer.get("release"))
        if self.update.leaving or self.on_trial:
            if not job.is_for(version):
                job.queue(version)
        elif job.is_for(version):
            job.tell(job.state or states.ACCEPTED, job.cause)
        else:
            self.update.reset()
            job.take_version(version, self.running.get("version_id"))
            self.update.go_on(now)

    def tick(self, now: float) -> bool:
        """False when no chunk comes any more and it is time to reconnect."""
        if self.on_trial and now >= self._trial_until:
            self._go_back("no_contact")
        return self.update.tick(now)

    def _refuse(self, offer: object, cause: str) -> None:
        self._context.trouble(cause, "firmware refused")
        named = offer.get("version_id") if isinstance(offer, dict) else None
        version_id = named if isinstance(named, str) and ids.is_hex_id(named) else None
        if not self.update.leaving and not self.on_trial:
            self._take({"version_id": version_id, "state": states.FAILED, "cause": cause})
        self.job.tell(states.FAILED, cause, version_id)

    def _take(self, wanted: "dict[str, Any] | None") -> None:
        self.update.reset()
        self.job.take(wanted)

    def _end_trial(self) -> None:
        """Confirm what runs, or go back to the old image."""
        try:
            healthy = self._context.installer.healthy()
            if healthy:
                self._context.installer.confirm()
        except (InstallError, OSError) as error:
            # Still on trial: the next answered online asks again, or the trial ends.
            self._context.trouble("installer_error", str(error))
            return
        if not healthy:
            self._go_back("unhealthy")
            return
        self.on_trial = False
        if self.job.wanted is not None and self.job.version_id == self.running.get("version_id"):
            self._confirmed()

    def _confirmed(self) -> None:
        self.update.forget_download()
        self.job.confirmed()
        self._context.note("info", "firmware_confirmed", self.job.version_id or "")
        self.job.take_queued(self.running.get("version_id"))

    def _go_back(self, cause: str) -> None:
        self.on_trial = False
        self._context.trouble(cause, "going back to the old image")
        try:
            if self.job.state in (states.INSTALLING, states.REBOOTING):
                self.job.move(states.REBOOTING, cause)
        except OSError as error:
            self._context.trouble("flash_error", str(error))
        try:
            self._context.installer.revert()
        except (InstallError, OSError) as error:
            # It was not confirmed, so the boot loader goes back by itself.
            self._context.trouble("installer_error", str(error))
        self.update.reboot()
