"""How a pact is written: an expectation is declared, tested with the real code of the consumer, and only then kept.

An expectation is a function whose name is its description. It declares the request and the response, runs the
consumer's own client or handler with them, and checks the result:

    @call("order", "user")
    def an_active_user(call: Call) -> None:
        call.given("a user", status="active").asks("GET", f"/users/{{user_id={USER}}}")
        call.answers(200, {"status": "active", "version": match.int(1)})
        with call.client() as client:
            assert UserClient(client).find(USER) == {"status": "active", "version": 1}
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, Self
from unittest.mock import patch

import orjson
import pytest
from flask import Flask
from pact import Pact, generate, match
from pact.match.matcher import AndMatcher, GenericMatcher

from libs.common.calls.client import HEALTH, ServiceClient
from libs.common.calls.connections import Adapter
from libs.common.config import Settings
from libs.common.errors import PROBLEM_JSON, DependencyUnavailable
from libs.common.events.broker import EVENT_JSON
from libs.common.events.event import BATCH_JSON
from libs.common.web.exchange import JSON
from libs.common.web.routes import PREFIX
from tests.contract.pacts.services import Services
from tests.web import Api, answered

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TIME = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z"

Place = tuple[str | int, ...]
"""The path of a member in a document: ("items", 0, "name")."""


class Interaction(NamedTuple):
    """`kind` is Pact's word: a call over HTTP, or an event."""

    consumer: str
    provider: str
    kind: Literal["HTTP", "Async"]
    expect: Callable[[Any], None]
    event_type: str = ""

    @property
    def description(self) -> str:
        return self.expect.__name__.replace("_", " ")

    @property
    def pact(self) -> str:
        return f"{self.consumer}-{self.provider}"

    def __str__(self) -> str:
        return f"{self.pact}: {self.description}"

    def tried(self, services: Services, without: Place = ()) -> dict[str, Any]:
        """The interaction for the pact, after the consumer has passed; `without` removes that member from what it
        reads.
        """
        draft = (Call if self.kind == "HTTP" else Published)(self, services, without)
        self.expect(draft)
        return draft.written()


INTERACTIONS: list[Interaction] = []

Expectation = Callable[[Any], None]


def call(consumer: str, provider: str) -> Callable[[Expectation], Expectation]:
    """What a service expects of another that it calls."""
    return lambda expect: _added(Interaction(consumer, provider, "HTTP", expect))


def event(consumer: str, event_type: str) -> Callable[[Expectation], Expectation]:
    """What a service expects of an event that it handles."""
    return lambda expect: _added(Interaction(consumer, event_type.split(".")[0], "Async", expect, event_type))


def _added(interaction: Interaction) -> Expectation:
    INTERACTIONS.append(interaction)
    return interaction.expect


# What is in a pact ---------------------------------------------------------------------------------------------------


def text(example: str, regex: str = ".+") -> Any:
    return match.regex(example, regex=f"^{regex}$")


def an_id(example: str) -> Any:
    return text(example, UUID)


def a_time(example: str) -> Any:
    return text(example, TIME)


class _Both(AndMatcher[str]):
    """A matcher that is written with its example, unlike that of the library."""

    def to_integration_json(self) -> dict[str, Any]:
        return {**super().to_integration_json(), "value": self._value}


def an_amount(example: str) -> Any:
    """A text: by the pattern alone, Pact would accept a number too."""
    return _Both(match.str(example), text(example, r"\d+(\.\d{1,4})?"))


def provided(example: Any, expression: str) -> Any:
    """The consumer sends the example; in its place the provider gets `${name}` of what its state has made."""
    return GenericMatcher("equality", example, generator=generate.provider_state(expression))


class _Draft:
    """An interaction that is being declared, with the real consumer."""

    def __init__(self, interaction: Interaction, services: Services, without: Place):
        self.interaction, self.services, self._without = interaction, services, without
        self._pact = Pact(interaction.consumer, interaction.provider)
        self._text: Any = self._pact.upon_receiving(interaction.description, interaction.kind)

    def given(self, state: str, **parameters: Any) -> Self:
        """The state that the provider must be in; providers.py sets it up."""
        self._text.given(state, parameters)
        return self

    def written(self) -> dict[str, Any]:
        with TemporaryDirectory() as directory:
            self._pact.write_file(directory)
            (path,) = Path(directory).iterdir()
            (written,) = json.loads(path.read_text(encoding="utf-8"))["interactions"]
        del written["pending"]
        return dict(written)

    def read(self, document: Any) -> Any:
        """The part of a document that the consumer reads."""
        if self._without:
            *places, last = self._without
            inner = document
            for place in places:
                inner = inner[place]
            del inner[last]
        return document


class Call(_Draft):
    """A call over HTTP."""

    def asks(self, method: str, path: str, body: Any = None, media_type: str = JSON, **query: Any) -> Self:
        """`path` is below /api/v1, unless it is that of the health; `{user_id=...}` in it is provided by the state."""
        self._text.with_request(method, _path(path if path in HEALTH else PREFIX + path))
        for name, value in query.items():
            self._text.with_query_parameter(name, value)
        if body is not None:
            self._text.with_body(body, media_type)
        return self

    def answers(self, status: int, body: Any = None, headers: Mapping[str, Any] | None = None) -> Self:
        self._text.will_respond_with(status)
        for name, value in (headers or {}).items():
            self._text.with_header(name, value)
        if body is not None:
            self._text.with_body(body, PROBLEM_JSON if status >= 400 else JSON)
        return self

    @contextmanager
    def client(self) -> Iterator[ServiceClient]:
        """The consumer's client of a server that answers as declared. One failure opens its breaker."""
        consumer, provider = self.interaction[:2]
        with self._pact.serve(addr="127.0.0.1") as server:
            url = {f"{provider}_service_url": str(server.url)}
            settings = Settings(service=consumer, call_attempts=1, breaker_failures=1, **url)  # type: ignore[arg-type]
            with patch.object(Adapter, "send", self._sending(Adapter.send)):
                yield ServiceClient(provider, settings)

    def _sending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def sent(*args: Any, **options: Any) -> Any:
            response = send(*args, **options)
            if response.content:
                response.content = orjson.dumps(self.read(orjson.loads(response.content)))
            return response

        return sent

    def too_much_to_do(self, ask: Callable[[ServiceClient], Any]) -> None:
        """The provider is overloaded: that is no failure that opens the breaker, so the next call is sent; and callers
        learn when to retry.
        """
        self.given("too much to do")
        self.answers(503, {"code": "overloaded"}, {"Retry-After": match.regex("7", regex=r"^\d{1,9}$")})
        with self.client() as client:
            for _ in range(2):
                with pytest.raises(DependencyUnavailable) as refused:
                    ask(client)
                assert refused.value.headers["Retry-After"] == "7"


def _path(path: str) -> Any:
    if "{" not in path:
        return path
    example, expression = re.sub(r"\{\w+=([^}]+)\}", r"\1", path), re.sub(r"\{(\w+)=[^}]+\}", r"${\1}", path)
    return provided(example, expression)


class Published(_Draft):
    """An event that the provider publishes."""

    def says(self, data: dict[str, Any]) -> Self:
        """The members of the envelope that every consumer reads, and those of the data that this one reads."""
        envelope = {"specversion": "1.0", "id": text("an-event", ".{1,64}"), "type": self.interaction.event_type}
        self._text.with_body({**envelope, "data": data}, EVENT_JSON)
        return self

    def to(self, app: Flask) -> Api:
        """Deliver it to the consumer, whose inbox and handler must accept it."""
        api = Api(app)
        self._pact.verify(lambda body, metadata: self._deliver(api, body), "Async")
        return api

    def _deliver(self, api: Api, body: Any) -> None:
        sent = [self.read(json.loads(str(body)))]
        (result,) = answered(api.post("/events", sent, content_type=BATCH_JSON))["results"]
        assert result["outcome"] == "done", result
