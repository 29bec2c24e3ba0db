"""What can be done about a refused HTTP request: one sentence for each cause. Part of hints.py."""

from __future__ import annotations

WEB_HINTS: dict[str, str] = {
    "http_body_large": "Send less at a time; [web] max_body_bytes is the usual bound of a request's body.",
    "http_body_slow": "The body of a request has to come at 64 KiB a second or more.",
    "http_internal": "The service's log has what went wrong under the trace id of the answer.",
    "http_request_illegal": "`firstlight openapi` writes what each request must look like.",
    "http_throttled": "Ask less often; behind a proxy, [web] trusted_proxies must name it.",
}
