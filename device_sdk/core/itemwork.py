"""The work on a manifest's items, one after the other: fetch, check, install, try.

Owns record "items" (manifest_id and, by name, which version is installed or works) and the reports that are still to be
told. What happens in which order, so that power may go between any two: bytes fetched (an image goes on from its own
record) | checked | installed | "installed" saved | tried | "working" saved. Installing again what is installed does no
harm. Asks for nothing by itself: the session does. Source: docs/protocol.md, section "Items". Runs on MicroPython.
"""

import binascii

from device_sdk.core.download import Download
from device_sdk.core.imagecheck import ImageCheck
from device_sdk.core.ports import InstallError, NoAesGcmError
from device_sdk.wire import keys, limits
from device_sdk.wire.manifest import SECRET

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context
    from device_sdk.core.download import Fetch
    from device_sdk.core.ports import Items

PENDING = "pending"
FETCHED = "fetched"
INSTALLED = "installed"
WORKING = "working"
FAILED = "failed"

_PROGRESS_STEP = 10
_MAX_TRIES = 2  # downloads of one item that turned out to be something else


class ItemWork:
    """`reports`: what is to be told, oldest first. `failed`: the cause that stopped it, None while it goes on."""

    def __init__(self, context: "Context", store: "Items", manifest_id: str, items: "list[dict[str, Any]]") -> None:
        self._context = context
        self._store = store
        self._manifest_id = manifest_id
        self._items = items
        self._done: dict[str, list[str]] = {}
        self._download: Download | None = None
        self._check: ImageCheck | None = None
        self._fetch: Fetch | None = None
        self._bytes = b""  # of an inline item, so far
        self._tries = 0
        self._percent = 0
        self.reports: list[dict[str, Any]] = []
        self.failed: str | None = None

    def load(self) -> None:
        """Once per boot: what was done before; the service hears of the item that is next."""
        stored = self._context.records.load("items")
        if stored is not None and stored["manifest_id"] == self._manifest_id:
            self._done = stored["done"]
        self._tell_next()

    @property
    def item(self) -> "dict[str, Any] | None":
        """The one in work; None: every one works."""
        for item in self._items:
            if self._done.get(item["name"]) != [item["version"], WORKING]:
                return item
        return None

    @property
    def percent(self) -> int:
        """Of all items, those that work."""
        return len([1 for item in self._items if self._state(item) == WORKING]) * 100 // len(self._items)

    @property
    def wants(self) -> "dict[str, Any] | None":
        """The fields of the `item` request to send now, or None."""
        item = self.item
        if item is None or self.failed or item["image"] or self._state(item) is not None:
            return None
        return {"name": item["name"], "offset": len(self._bytes)}

    @property
    def wake_at(self) -> "float | None":
        if self.failed:
            return None
        if self._check is not None:
            return 0.0
        return self._download.wake_at if self._download is not None else None

    def online(self, fetch: "Fetch", now: float) -> None:
        """There is a connection: go on."""
        self._fetch = fetch
        self.go_on(now)

    def offline(self) -> None:
        self._fetch = None
        if self._download is not None:
            self._download.pause()

    def works_too(self, names: object) -> None:
        """The service has not heard that these work: tell it again."""
        wanted = names if isinstance(names, (list, tuple)) else []
        for item in self._items:
            if item["name"] in wanted and self._state(item) == WORKING:
                self._tell(item, WORKING)

    def go_on(self, now: float) -> None:
        """Do what can be done without the service, and begin the next download."""
        item = self.item
        if item is None or self.failed or self._fetch is None:
            return
        try:
            if self._state(item) == INSTALLED:
                self._try(item, now)
            elif item["image"] and self._check is None:
                self._go_on_fetching(item, now)
        except (InstallError, OSError) as error:
            self._fail(item, error.cause if isinstance(error, InstallError) else "flash_error")

    def chunk(self, frame: bytes, now: float) -> None:
        item, download = self.item, self._download
        if item is None or download is None or self.failed:
            return
        try:
            download.chunk(frame, now)
            self._after_chunk(item, download)
        except (InstallError, OSError) as error:
            self._fail(item, error.cause if isinstance(error, InstallError) else "flash_error")

    def fetch_refused(
        self, request_id: str, code: str, wait_s: "int | None", sizes: "tuple[int, int] | None", now: float
    ) -> None:
        """`sizes`: the chunk sizes that RANGE allows."""
        item, download = self.item, self._download
        if item is None or download is None or not download.asked(request_id):
            return
        if wait_s is not None:
            download.refused(request_id, wait_s, now)
        elif sizes is not None and not sizes[0] <= self._context.policy.chunk_size <= sizes[1]:
            self._context.policy.chunk_size = min(max(self._context.policy.chunk_size, sizes[0]), sizes[1])
            download.forget()
            self._download = None
            self.go_on(now)
        else:
            self._fail(item, code.lower())

    def piece(self, offset: int, size: int, data: bytes, now: float) -> None:
        """A piece of an inline item, as it was asked for; what does not follow is asked for again."""
        item = self.item
        if item is None or self.failed or item["image"] or offset != len(self._bytes) or not data:
            return
        whole = item["size"] + (limits.SEAL_BYTES if item["kind"] == SECRET else 0)
        if size != whole or offset + len(data) > whole or len(data) > limits.MAX_PIECE_BYTES:
            self._fail(item, "wrong_size")
            return
        self._bytes += data
        if len(self._bytes) < whole:
            return
        content, self._bytes = self._bytes, b""
        try:
            self._take(item, content)
        except (InstallError, OSError) as error:
            self._fail(item, error.cause if isinstance(error, InstallError) else "flash_error")
        self.go_on(now)

    def refuse(self, item: "dict[str, Any]", cause: str) -> None:
        """Nothing of the manifest may be installed, because of this item."""
        self._fail(item, cause)

    def refused_item(self, code: str) -> None:
        """`item` was refused for good."""
        item = self.item
        if item is not None:
            self._fail(item, code.lower())

    def tick(self, now: float) -> bool:
        """False when no chunk comes any more and it is time to reconnect."""
        item = self.item
        if item is None or self.failed:
            return True
        if self._check is not None:
            try:
                self._check_on(item, self._check, now)
            except (InstallError, OSError) as error:
                self._fail(item, error.cause if isinstance(error, InstallError) else "flash_error")
        elif self._download is not None:
            return self._download.tick(now)
        return True

    # One item

    def _go_on_fetching(self, item: "dict[str, Any]", now: float) -> None:
        assert self._fetch is not None
        if self._download is None:
            chunk_size = self._context.policy.chunk_size
            self._download = Download(self._context, item["image_id"], item["image_size"], chunk_size, self._store)
            self._download.open()
            self._percent = self._download.percent
        self._download.resume(self._fetch, now)
        self._after_chunk(item, self._download)

    def _after_chunk(self, item: "dict[str, Any]", download: Download) -> None:
        if download.complete:
            self._download = None
            self._check = ImageCheck(self._context, item["image_id"], item["image_size"], self._store)
        elif download.percent >= self._percent + _PROGRESS_STEP:
            self._percent = download.percent
            self._tell(item, PENDING)

    def _check_on(self, item: "dict[str, Any]", check: ImageCheck, now: float) -> None:
        fits = check.step()
        if fits is None:
            return
        self._check = None
        if fits and item["kind"] == SECRET:
            self._take_sealed(item)
        elif fits:
            self._tell(item, FETCHED)
            self._install(item, None)
        else:
            self._context.trouble("wrong_hash", item["name"])
            self._context.records.save("progress", None)
            self._tries += 1
            if self._tries >= _MAX_TRIES:
                self._fail(item, "wrong_hash")
        self.go_on(now)

    def _take_sealed(self, item: "dict[str, Any]") -> None:
        """A secret that was downloaded as an image, and is what the manifest promised: opened in memory."""
        try:
            self._take(item, self._store.read(0, item["image_size"]))
        except MemoryError:
            self._fail(item, "no_memory")

    def _take(self, item: "dict[str, Any]", content: bytes) -> None:
        """The whole bytes of an inline item, or the sealed ones of a secret."""
        secret = None
        if item["kind"] == SECRET:
            cause, secret = self._open(item, content)
            if cause is not None:
                self._fail(item, cause)
                return
            content = secret or b""
        if self._context.crypto.sha256(content) != binascii.unhexlify(item["sha256"]):
            self._fail(item, "wrong_hash")
            return
        if secret is None:
            self._store.begin(item["sha256"], item["size"])
            step = self._context.policy.chunk_size
            for at in range(0, len(content), step):
                self._store.write(at, content[at : at + step])
            self._store.sync()
        self._tell(item, FETCHED)
        self._install(item, secret)

    def _open(self, item: "dict[str, Any]", sealed: bytes) -> "tuple[str | None, bytes | None]":
        """(cause, None) or (None, the secret)."""
        key = self._context.prover.key
        if key is None:
            return "no_key", None
        crypto = self._context.crypto
        sealing = keys.item_key(key, item["name"], item["version"], crypto.hmac_sha256)
        try:
            return None, crypto.aes_gcm_open(sealing, sealed[:12], sealed[12:])
        except NoAesGcmError:
            return "no_aes_gcm", None
        except ValueError:
            return "wrong_seal", None

    def _install(self, item: "dict[str, Any]", secret: "bytes | None") -> None:
        told = {name: item[name] for name in ("name", "kind", "version", "size", "sha256")}
        self._store.install(told, secret)
        self._save(item, INSTALLED)
        self._context.records.save("progress", None)
        self._tell(item, INSTALLED)

    def _try(self, item: "dict[str, Any]", now: float) -> None:
        told = {name: item[name] for name in ("name", "kind", "version", "size", "sha256")}
        if not self._store.works(told):
            # Tried again at the next start, from its bytes on.
            self._save(item, None)
            self._fail(item, "not_working")
            return
        self._save(item, WORKING)
        self._tell(item, WORKING)
        self._tries = 0
        self._tell_next()
        self.go_on(now)

    # What is kept and told

    def _state(self, item: "dict[str, Any]") -> "str | None":
        done = self._done.get(item["name"])
        return done[1] if done is not None and done[0] == item["version"] else None

    def _save(self, item: "dict[str, Any]", state: "str | None") -> None:
        if state is None:
            self._done.pop(item["name"], None)
        else:
            self._done[item["name"]] = [item["version"], state]
        self._context.records.save("items", {"manifest_id": self._manifest_id, "done": self._done})

    def _fail(self, item: "dict[str, Any]", cause: str) -> None:
        self.failed = cause
        self._download = None
        self._check = None
        self._context.trouble(cause, "item %s failed" % item["name"])
        self._tell(item, FAILED, cause)

    def _tell_next(self) -> None:
        item = self.item
        if item is not None and self._state(item) is None:
            self._percent = 0
            self._tell(item, PENDING)

    def _tell(self, item: "dict[str, Any]", state: str, cause: "str | None" = None) -> None:
        """Of the same item and state in a row only the newest is kept (the first may be on its way)."""
        told: dict[str, Any] = {"name": item["name"], "version": item["version"], "state": state}
        if state == PENDING:
            told["progress"] = self._percent
        if cause is not None:
            told["cause"] = cause
        last = self.reports[-1] if len(self.reports) > 1 else None
        if last is not None and (last["name"], last["state"]) == (item["name"], state):
            self.reports.pop()
        self.reports.append(told)
