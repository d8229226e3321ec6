from typing import Any

import orjson
import pytest

from libs.common.errors import DependencyUnavailable
from libs.common.events.http import HttpSender
from libs.common.events.outbox import Claimed
from tests.network import Provider

ROWS = [Claimed(n, f'{{"id":"{n}"}}', 0) for n in range(4)]


@pytest.fixture
def sender(product: Provider) -> HttpSender:
    return HttpSender(product.client)


def results(*outcomes: str, first: int = 0) -> list[dict[str, Any]]:
    return [{"id": str(n), "outcome": outcome} for n, outcome in enumerate(outcomes, first)]


def test_events_travel_as_they_were_stored(sender: HttpSender, product: Provider) -> None:
    call = product.answers("POST", "/events", results=results("done", "duplicate", "dead", "retry"))
    assert sender.send(ROWS) == ([0, 1, 2], [ROWS[3]])
    request = call.calls[0].request
    assert request.headers["Content-Type"] == "application/cloudevents-batch+json"
    assert orjson.loads(request.body or b"") == [{"id": str(n)} for n in range(4)]


def test_a_batch_that_is_too_large_is_halved_until_it_fits(sender: HttpSender, product: Provider) -> None:
    answers: list[tuple[list[int], str]] = [
        ([0, 1, 2, 3], ""), ([0, 1], ""), ([0], "done"), ([1], "done"), ([2, 3], ""), ([2], "retry"), ([3], "done"),
    ]  # fmt: skip
    calls = [
        product.answers("POST", "/events", results=results(outcome, first=sent[0])) if outcome
        else product.answers("POST", "/events", 413)
        for sent, outcome in answers
    ]  # fmt: skip
    assert sender.send(ROWS) == ([0, 1, 3], [ROWS[2]])
    sent = [[int(event["id"]) for event in orjson.loads(call.calls[0].request.body or b"")] for call in calls]
    assert sent == [sent for sent, _ in answers]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_is_refused_is_wanted_again_and_logged(
    sender: HttpSender, product: Provider, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    product.answers("POST", "/events", status)
    assert sender.send(ROWS[:1]) == ([], ROWS[:1])
    assert "relay.refused" in [record.getMessage() for record in caplog.records]


def test_so_is_what_comes_to_the_wrong_place(sender: HttpSender, product: Provider) -> None:
    product.misbehaves("POST", "/events", because="a service without handlers has no such path", status=404, json={})
    assert sender.send(ROWS[:1]) == ([], ROWS[:1])


@pytest.mark.parametrize("outcomes", [(), ("done",), ("done",) * 5])
def test_an_answer_for_other_events_is_none(sender: HttpSender, product: Provider, outcomes: tuple[str, ...]) -> None:
    product.answers("POST", "/events", results=results(*outcomes))
    with pytest.raises(DependencyUnavailable):
        sender.send(ROWS)


def test_a_subscriber_that_is_down_has_nothing(sender: HttpSender, product: Provider) -> None:
    product.answers("POST", "/events", 503, headers={"Retry-After": "60"})
    with pytest.raises(DependencyUnavailable):
        sender.send(ROWS)
