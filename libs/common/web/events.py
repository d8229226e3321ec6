"""`POST /events`: receives events over HTTP and passes them to the inbox."""

from collections.abc import Mapping

from libs.common import errors
from libs.common.events.event import BATCH_JSON, MAX_BYTES, MAX_EVENTS
from libs.common.events.inbox import Inbox
from libs.common.web.exchange import Answer, Exchange, Operation, json_answer
from libs.common.web.messages import read_json


def operation(inbox: Inbox) -> Operation:
    def receive_events(exchange: Exchange, path: Mapping[str, str]) -> Answer:
        envelopes = read_json(exchange, BATCH_JSON, MAX_BYTES)
        if not isinstance(envelopes, list):
            raise errors.ValidationFailed(errors=[{"pointer": "", "detail": "Must be a list of events."}])
        if len(envelopes) > MAX_EVENTS:
            raise errors.PayloadTooLarge(f"At most {MAX_EVENTS} events are taken.")
        return json_answer({"results": inbox.receive(envelopes) if envelopes else []})

    return Operation("POST", "/events", receive_events)
