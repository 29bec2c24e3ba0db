"""What a device shows of itself, for displays and tests. Values only. Runs on MicroPython."""

STARTING = "starting"
CONNECTING = "connecting"
WAITING = "waiting"  # for the time of the next try
ACTIVATING = "activating"
ONLINE = "online"  # connected and answered; nothing to do
DOWNLOADING = "downloading"
VERIFYING = "verifying"
INSTALLING = "installing"
REBOOTING = "rebooting"
RETIRED = "retired"
STAGING = "staging"  # in the warehouse; progress counts items that work
BOXED = "boxed"  # the same, at its end


class Status:
    """`state`: one of the words above. `place`: "next", "current" or "bootstrap". `version`: version_id or name of what
    runs, None if neither is known. `progress`: percent of a download or None. `cause`: the newest trouble or None.
    """

    def __init__(
        self,
        state: str,
        place: "str | None",
        version: "str | None",
        progress: "int | None",
        cause: "str | None",
    ) -> None:
        self.state = state
        self.place = place
        self.version = version
        self.progress = progress
        self.cause = cause

    def __repr__(self) -> str:
        return "Status(%s, %s, %s, %s, %s)" % (self.state, self.place, self.version, self.progress, self.cause)
