"""What can be done about a refused HTTP request: one sentence for each cause. Part of hints.py."""

from __future__ import annotations

WEB_HINTS: dict[str, str] = {
    "bare_serial_illegal": "Devices with public keys activate over MQTT with a certificate.",
    "bare_serial_keyless": "Register the device with a key, or let one be made for it.",
    "bare_serial_off": "`firstlight group bare-serial --help`; bare serials are off unless somebody turned them on.",
    "bare_serial_refused": "The serial is not registered, or its group does not allow bare serials: `firstlight group bare-serial`.",
    "call_ignored": "The API key was dropped while the request was under way; the device activates again.",
    "call_refused": "The trace of the device says why: `firstlight trace GROUP/SERIAL`.",
    "call_stopping": "The service is being stopped; the device asks again.",
    "call_unanswered": "The service's log and `firstlight stats` show what it waits for; a request twice at a time is answered once.",
    "http_body_large": "Send less at a time; [web] max_body_bytes is the usual bound of a request's body.",
    "http_body_slow": "The body of a request has to come at 64 KiB a second or more.",
    "http_claim_other": "The serial and group in the address must be those of the claim.",
    "http_csr": "A device that wants a certificate activates over MQTT.",
    "http_internal": "The service's log has what went wrong under the trace id of the answer.",
    "http_public_key": "Devices with public keys activate over MQTT with a certificate.",
    "http_request_illegal": "`firstlight openapi` writes what each request must look like.",
    "http_throttled": "Ask less often; behind a proxy, [web] trusted_proxies must name it.",
    "image_short": "Restore the image from a backup: its file is shorter than it was.",
    "owner_key_missing": "Give the account's name and key as HTTP Basic authentication.",
    "owner_key_wrong": "`firstlight account list` shows who may ask; `firstlight account rotate` makes a new key.",
    "owner_role": "`firstlight account create --role operator` makes an account that may create things.",
    "thing_key_missing": "Give the thing's API key as `Authorization: Bearer KEY`.",
    "thing_key_wrong": "The key is not one of this thing, or was dropped: the device activates again.",
    "throttled_downloads": "A thing may have 4 downloads at a time; the device ends those it has given up.",
    "version_not_own": "A thing may fetch its target and what it has: `.../version/target.json`, `.../version/current.json`.",
}
