"""What is replaced in Flask and Werkzeug is what they use (ADR 13)."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import create_environ

from libs.common.config import Settings
from libs.common.web.exchange import json_answer
from libs.common.web.flask_app import make_flask
from libs.common.web.frame import Frame
from libs.common.web.responses import response_of


def made(settings: Settings) -> Flask:
    return make_flask(settings, Frame(settings))


def test_flask_asks_for_each_function_whether_it_is_a_coroutine(
    make_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that, the method that answers at once would not be needed."""
    app = made(make_settings("user"))
    app.add_url_rule("/x", "x", lambda: "seen")
    asked: list[Any] = []
    answer = app.ensure_sync
    monkeypatch.setattr(app, "ensure_sync", lambda function: asked.append(function) or answer(function))

    assert app.test_client().get("/x").text == "seen"
    assert app.view_functions["x"] in asked


def test_an_answer_without_an_origin_does_not_run_cors(make_settings: Callable[..., Any]) -> None:
    """Flask-CORS has put one function among those that follow a request, and it was taken out again."""
    app = made(make_settings("user"))

    assert [function.__name__ for function in app.after_request_funcs[None]] == ["finish"]


def test_the_headers_of_an_answer_leave_as_they_are() -> None:
    answer = response_of(json_answer([], headers={"Location": "/a b"}))

    assert ("Location", "/a b") in answer.get_wsgi_response(create_environ())[2]
