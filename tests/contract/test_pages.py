"""The HTML pages: no other site may frame them, and they load nothing from other hosts."""

from collections.abc import Callable

import pytest
from flask import Flask

from libs.topology import SERVICES

pytestmark = [
    pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session"),
    pytest.mark.parametrize("service", SERVICES),
]


def test_no_other_site_may_show_a_page_in_a_frame(service: str, make_app: Callable[[str], Flask]) -> None:
    client = make_app(service).test_client()
    for path in ("/docs/", "/errors/not-found", *(["/"] if service == "analytics" else [])):
        answer = client.get(path, buffered=True)
        assert (answer.status_code, answer.mimetype) == (200, "text/html"), path
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy), path
        assert not [part for part in policy if "http" in part or "*" in part]
