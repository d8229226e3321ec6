"""`POST /events`: receives events over HTTP and passes them to the inbox."""

from flask import Blueprint, Response

from libs.common import errors
from libs.common.events.event import BATCH_JSON, MAX_BYTES, MAX_EVENTS
from libs.common.events.inbox import Inbox
from libs.common.web.messages import JsonResponse, read_json
from libs.common.web.routes import ALIAS, PREFIX


def blueprint(inbox: Inbox) -> Blueprint:
    routes = Blueprint("events", __name__)

    @routes.post(f"{PREFIX}/events")
    @routes.post(f"{ALIAS}/events")
    def receive_events() -> Response:
        envelopes = read_json(BATCH_JSON, MAX_BYTES)
        if not isinstance(envelopes, list):
            raise errors.ValidationFailed(errors=[{"pointer": "", "detail": "Must be a list of events."}])
        if len(envelopes) > MAX_EVENTS:
            raise errors.PayloadTooLarge(f"At most {MAX_EVENTS} events are taken.")
        results = inbox.receive(envelopes) if envelopes else []
        return JsonResponse({"results": results})

    return routes
