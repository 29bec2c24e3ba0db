"""A machine that loses power: flash and two slots, and the power can be cut at every operation.

Runs on MicroPython too; imports only the device SDK.
"""

from device_sdk.core.ports import Flash, Installer


class PowerCut(BaseException):
    """The power went in the middle of an operation."""


class Machine(Flash, Installer):
    """What survives a restart. `cut_at`: the number of the operation at which power goes, `cut_how` "before", "after",
    or a number: a save is torn at that byte. What was written and not synced is lost with the power.
    """

    def __init__(self):
        self.flash = {}
        self.running = {"version_id": None, "name": None}
        self.old = None  # what runs again if the trial ends badly
        self.trial = False
        self.next_boot = None
        self.idle_id = None
        self.idle = bytearray()
        self.volatile = []
        self.healthy_answer = True
        self.bad_images = ()  # versions whose image crashes at start
        self.fail = {}  # method name -> exception to raise
        self.ops = 0
        self.cut_at = None
        self.cut_how = "before"
        self.write_bytes = 0

    def boot(self):
        """What the boot loader does."""
        self.volatile = []
        if self.next_boot is not None:
            self.old, self.running, self.trial = self.running, self.next_boot, True
            self.next_boot = None
            if self.running["version_id"] in self.bad_images:
                self.running, self.trial = self.old, False
        elif self.trial:
            self.running, self.trial = self.old, False

    def _op(self, name):
        if name in self.fail:
            raise self.fail[name]
        self.ops += 1
        return self.cut_at is not None and self.ops == self.cut_at

    def _cut(self):
        self.volatile = []
        raise PowerCut

    def load(self, name):
        return self.flash.get(name)

    def save(self, name, data):
        cut = self._op("save")
        if cut and self.cut_how == "before":
            self._cut()
        if cut and self.cut_how != "after":
            old = self.flash.get(name, b"")
            at = min(self.cut_how, len(data))
            self.flash[name] = data[:at] + old[at:]
            self._cut()
        self.flash[name] = bytes(data)
        if cut:
            self._cut()

    def _do(self, name, effect):
        cut = self._op(name)
        if cut and self.cut_how != "after":
            self._cut()
        effect()
        if cut:
            self._cut()

    def begin(self, image_id, size):
        def effect():
            if self.idle_id != image_id or len(self.idle) != size:
                self.idle_id = image_id
                self.idle = bytearray(size)

        self._do("begin", effect)

    def write(self, offset, data):
        self.write_bytes += len(data)
        self._do("write", lambda: self.volatile.append((offset, bytes(data))))

    def _flush(self):
        for offset, data in self.volatile:
            self.idle[offset : offset + len(data)] = data
        self.volatile = []

    def sync(self):
        self._do("sync", self._flush)

    def read(self, offset, length):
        if "read" in self.fail:
            raise self.fail["read"]
        image = bytearray(self.idle)
        for at, data in self.volatile:
            image[at : at + len(data)] = data
        return bytes(image[offset : offset + length])

    def install(self, version):
        def effect():
            self._flush()
            self.next_boot = {"version_id": version["version_id"], "name": version["name"]}

        self._do("install", effect)

    def booted(self):
        info = dict(self.running)
        info["trial"] = self.trial
        return info

    def confirm(self):
        def effect():
            self.trial = False

        self._do("confirm", effect)

    def revert(self):
        def effect():
            self.next_boot = None

        self._do("revert", effect)

    def healthy(self):
        return self.healthy_answer
