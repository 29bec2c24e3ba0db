"""The work on one firmware job: fetch, check, install, restart, with retries.

Owns the steps of this boot; the job's record is its neighbour's. What happens in which order, so that power may go
between any two: job "accepted" saved | fetched | checked | "installing" saved | checked again | installer.install | "rebooting"
saved | restart. The second check is there because days may lie between the first and the installation. Decides neither what is wanted nor whether a new image stays. Runs on MicroPython.
"""

from device_sdk.core import job as states
from device_sdk.core import status
from device_sdk.core.actions import Disconnect, Reboot
from device_sdk.core.backoff import Backoff
from device_sdk.core.download import Download
from device_sdk.core.imagecheck import ImageCheck
from device_sdk.core.ports import InstallError

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from device_sdk.core.context import Context
    from device_sdk.core.download import Fetch
    from device_sdk.core.job import Job

_MAX_RETRY_S = 3600.0
_ANNOUNCE_S = 10.0  # how long a restart waits until the service has heard of it
_MIN_DEFER_S, _MAX_DEFER_S = 10, 7 * 24 * 3600
_PROGRESS_STEP = 10  # percent between two reports
_VERSION_FIELDS = ("version_id", "name", "seq", "image_id", "size")

_IDLE = "idle"
_FETCHING = "fetching"
_CHECKING = "checking"
_ANNOUNCING = "announcing"  # "installing" is being told
_RECHECKING = "rechecking"  # the last thing before it is made the one to boot
_LEAVING = "leaving"  # "rebooting" is being told
_RETRYING = "retrying"
_HOLDING = "holding"  # fetched and checked, and the product says not now
_GONE = "gone"

_STATUS = {
    _FETCHING: status.DOWNLOADING,
    _CHECKING: status.VERIFYING,
    _ANNOUNCING: status.INSTALLING,
    _RECHECKING: status.INSTALLING,
    _LEAVING: status.REBOOTING,
    _GONE: status.REBOOTING,
}


class Update:
    """`fetch` is set while there is an answered connection."""

    def __init__(self, context: "Context", job: "Job") -> None:
        self._context = context
        self._job = job
        self._step = _IDLE
        self._until = 0.0
        self._download: Download | None = None
        self._check: ImageCheck | None = None
        self._chunk_size = context.policy.chunk_size
        self._retry = Backoff(context.policy.retry_install_s, _MAX_RETRY_S, context.random_bytes)
        self.fetch: Fetch | None = None

    @property
    def gone(self) -> bool:
        return self._step == _GONE

    @property
    def leaving(self) -> bool:
        """Whether the image is installed and the restart under way."""
        return self._step in (_LEAVING, _GONE)

    @property
    def state(self) -> "str | None":
        """A word of status.py while there is something to do, else None."""
        return _STATUS.get(self._step)

    @property
    def percent(self) -> "int | None":
        return self._download.percent if self._download is not None and self._step == _FETCHING else None

    @property
    def wake_at(self) -> "float | None":
        if self._step == _FETCHING:
            return self._download.wake_at if self._download is not None else None
        if self._step in (_ANNOUNCING, _LEAVING) and not self._job.pending:
            return 0.0
        return self._until if self._step not in (_IDLE, _GONE) else None

    def reset(self) -> None:
        """Another job, or none."""
        self._step = _IDLE
        self._download = None
        self._check = None
        self._retry.reset()

    def forget_download(self) -> None:
        """What was fetched does not count any more."""
        self._download = None
        self._context.records.save("progress", None)

    def offline(self) -> None:
        self.fetch = None
        if self._download is not None:
            self._download.pause()

    def go_on(self, now: float) -> None:
        """Fetch the job's image, if it is one to be fetched and there is a connection."""
        wanted = self._job.wanted
        if wanted is None or self._job.state not in states.ACTIVE or self.fetch is None:
            return
        if self._step not in (_IDLE, _FETCHING):
            return
        try:
            if self._download is None:
                if self._deferred(now):
                    self._step = _RETRYING
                    return
                self._download = Download(self._context, wanted["image_id"], wanted["size"], self._chunk_size)
                self._download.open()
                self._job.percent = self._download.percent
                self._job.tell(states.DOWNLOADING)
        except (InstallError, OSError) as error:
            self._installer_failed(error, now)
            return
        self._step = _FETCHING
        self._download.resume(self.fetch, now)
        self._after_fetching(now)

    def chunk(self, frame: bytes, now: float) -> None:
        if self._step != _FETCHING or self._download is None:
            return
        try:
            self._download.chunk(frame, now)
        except (InstallError, OSError) as error:
            self._installer_failed(error, now)
            return
        self._after_fetching(now)

    def fetch_refused(
        self, request_id: str, code: str, wait_s: "int | None", sizes: "tuple[int, int] | None", now: float
    ) -> None:
        """A fetch was refused. `sizes`: the chunk sizes that RANGE allows."""
        if self._step != _FETCHING or self._download is None or not self._download.asked(request_id):
            return
        self._context.trouble(code.lower(), "fetch refused")
        if wait_s is not None:
            self._download.refused(request_id, wait_s, now)
        elif sizes is not None and not sizes[0] <= self._chunk_size <= sizes[1]:
            # A download has one chunk size from its first to its last chunk.
            self._chunk_size = sizes[1] if sizes[1] < self._chunk_size else sizes[0]
            self.forget_download()
            self.go_on(now)
        else:
            self._job.tell(states.DEFERRED, code.lower())
            self.retry_later(now)

    def tick(self, now: float) -> bool:
        """False when no chunk comes any more and it is time to reconnect."""
        if self._step == _FETCHING and self._download is not None:
            return self._download.tick(now)
        if self._step in (_CHECKING, _RECHECKING) and self._check is not None:
            self._check_on(self._check, now)
        elif self._step == _ANNOUNCING and (not self._job.pending or now >= self._until):
            self._begin_check(_RECHECKING, now)
        elif self._step == _LEAVING and (not self._job.pending or now >= self._until):
            self.reboot()
        elif self._step == _RETRYING and now >= self._until:
            self._step = _IDLE
            self.go_on(now)
        elif self._step == _HOLDING and now >= self._until:
            self._make_ready(now)
        return True

    def retry_later(self, now: float) -> None:
        self._download = None
        self._check = None
        self._step = _RETRYING
        self._until = now + self._retry.next()

    def reboot(self) -> None:
        self._step = _GONE
        self._context.act(Disconnect())
        self._context.act(Reboot())

    def _after_fetching(self, now: float) -> None:
        download = self._download
        assert download is not None
        if download.complete:
            self._job.tell(states.DOWNLOADED)
            self._begin_check(_CHECKING, now)
        elif download.percent >= self._job.percent + _PROGRESS_STEP:
            self._job.percent = download.percent
            self._job.tell(states.DOWNLOADING)

    def _begin_check(self, step: str, now: float) -> None:
        wanted = self._job.wanted
        assert wanted is not None
        self._check = ImageCheck(self._context, wanted["image_id"], wanted["size"])
        self._step = step
        self._until = now

    def _check_on(self, check: ImageCheck, now: float) -> None:
        try:
            fits = check.step()
        except (InstallError, OSError) as error:
            self._installer_failed(error, now)
            return
        if fits is None:
            return
        if not fits:
            self._context.trouble("wrong_hash", "the image is not the one that was promised")
            self.forget_download()
            self._job.failed_try(states.FAILED, "wrong_hash")
            self.retry_later(now)
            return
        if self._step == _RECHECKING:
            self._install(now)
            return
        self._job.tell(states.VERIFIED)
        self._make_ready(now)

    def _make_ready(self, now: float) -> None:
        """The image is right: tell that it will be installed, unless the product says not now."""
        if self._deferred(now):
            self._step = _HOLDING
            return
        self._job.move(states.INSTALLING)
        self._job.tell(states.INSTALLING)
        self._step = _ANNOUNCING
        self._until = now + _ANNOUNCE_S

    def _deferred(self, now: float) -> bool:
        """Whether the product says not now; then `_until` is when to ask again."""
        product, wanted = self._context.product, self._job.wanted
        assert wanted is not None
        answer = product.defer({key: wanted[key] for key in _VERSION_FIELDS}) if product is not None else None
        if answer is None:
            return False
        wait_s = min(max(int(answer[0]), _MIN_DEFER_S), _MAX_DEFER_S)
        self._job.tell(states.DEFERRED, answer[1], None, wait_s)
        self._until = now + wait_s
        return True

    def _install(self, now: float) -> None:
        wanted = self._job.wanted
        assert wanted is not None
        try:
            self._context.installer.install({key: wanted[key] for key in _VERSION_FIELDS})
        except (InstallError, OSError) as error:
            self._installer_failed(error, now)
            return
        self._job.move(states.REBOOTING)
        self._job.tell(states.REBOOTING)
        self._step = _LEAVING
        self._until = now + _ANNOUNCE_S

    def _installer_failed(self, error: Exception, now: float) -> None:
        cause = error.cause if isinstance(error, InstallError) else "flash_error"
        self._context.trouble(cause, str(error))
        self._job.tell(states.FAILED, cause)
        self.retry_later(now)
