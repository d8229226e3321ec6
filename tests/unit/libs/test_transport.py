import orjson
import pytest
import responses

from libs.common.client import ServiceClient
from libs.common.config import Settings
from libs.common.errors import DependencyUnavailable
from libs.common.outbox import Claimed
from libs.common.transport import HttpSender

URL = "http://product.test/api/v1/events"
ROWS = [Claimed(n, f'{{"id":"{n}"}}', 0) for n in range(4)]


@pytest.fixture
def sender() -> HttpSender:
    return HttpSender(ServiceClient("product", Settings(service="order", product_service_url="http://product.test")))


def answer(*outcomes: str) -> dict[str, object]:
    return {"results": [{"id": str(n), "outcome": outcome} for n, outcome in enumerate(outcomes)]}


def test_events_travel_as_they_were_stored(sender: HttpSender, peer: responses.RequestsMock) -> None:
    peer.post(URL, json=answer("done", "duplicate", "dead", "retry"))
    assert sender.send(ROWS) == ([0, 1, 2], [ROWS[3]])
    request = peer.calls[0].request
    assert request.headers["Content-Type"] == "application/cloudevents-batch+json"
    assert orjson.loads(request.body or b"") == [{"id": str(n)} for n in range(4)]


def test_a_batch_that_is_too_large_is_halved_until_it_fits(sender: HttpSender, peer: responses.RequestsMock) -> None:
    def judge(request: object) -> tuple[int, dict[str, str], bytes]:
        sent = orjson.loads(request.body)  # type: ignore[attr-defined]
        if len(sent) > 1:
            return 413, {}, b"{}"
        return 200, {}, orjson.dumps(answer("retry" if sent[0]["id"] == "2" else "done"))

    peer.add_callback("POST", URL, judge)
    assert sender.send(ROWS) == ([0, 1, 3], [ROWS[2]])


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422])
def test_what_is_refused_is_wanted_again_and_logged(
    sender: HttpSender, peer: responses.RequestsMock, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    peer.post(URL, json={}, status=status)
    assert sender.send(ROWS[:1]) == ([], ROWS[:1])
    assert "relay.refused" in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("outcomes", [(), ("done",), ("done",) * 5])
def test_an_answer_for_other_events_is_none(
    sender: HttpSender, peer: responses.RequestsMock, outcomes: tuple[str, ...]
) -> None:
    peer.post(URL, json=answer(*outcomes))
    with pytest.raises(DependencyUnavailable):
        sender.send(ROWS)


def test_a_subscriber_that_is_down_has_nothing(sender: HttpSender, peer: responses.RequestsMock) -> None:
    peer.post(URL, status=503, headers={"Retry-After": "60"})
    with pytest.raises(DependencyUnavailable):
        sender.send(ROWS)
