"""What can be done about jobs, configuration and who administers: one sentence for each cause. Part of hints.py."""

from __future__ import annotations

JOB_HINTS: dict[str, str] = {
    "admin_exists": "Take another name, or `firstlight admin password NAME` for a new password.",
    "admin_name_illegal": "Take a name of 1 to 32 of a-z 0-9 -.",
    "admin_refused": "Wait for the lock to end, or `firstlight admin password NAME`, which ends it.",
    "admin_session": "Sign in again: a session ends when it is not used, and when its password is changed.",
    "admin_unknown": "`firstlight admin list` names them.",
    "config_illegal": "`firstlight config show` says what each entry is.",
    "config_unknown": "`firstlight config show` names the entries.",
    "cron_illegal": "Give minute, hour, day, month and weekday in UTC, such as `30 3 * * *`.",
    "csrf": "Open the page again and send its form from there; the browser must keep the cookies of this site.",
    "foreign_origin": "Use the pages under the address by which the service is reached; a proxy must pass on Host.",
    "job_running": "Wait for its end: `firstlight job show NAME`; a run whose process is gone is given up by itself.",
    "job_unknown": "`firstlight job list` and `firstlight daemon list` name them.",
    "nobody_ran": "The service did not run when this was due: `firstlight job run NAME` makes up for it.",
    "password_short": "Take a longer password, at most 256 characters.",
    "still_running": "The run before took until this one was due: give it a schedule with more time between.",
}
