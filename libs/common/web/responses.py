"""Answers as responses of Flask."""

from typing import Any

from flask import Response

from libs.common.web.exchange import Answer, reason


class _Response(Response):
    default_mimetype = None

    def get_wsgi_headers(self, environ: Any) -> Any:
        """The headers unchanged: they are complete, and Location is ASCII."""
        return self.headers


def response_of(answer: Answer) -> Response:
    status, headers, body = answer
    return _Response(body or None, reason(status), headers)
