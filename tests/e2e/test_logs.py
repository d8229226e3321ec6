"""The logs: one JSON object a line, traceable across all services, without personal data."""

import json
import re
from uuid import uuid4

import pytest

from demo.api import eventually
from demo.walk import STEPS, Walk, take
from libs.topology import SERVICES
from tests.e2e.shop import Json, Shop, answered, refused
from tests.e2e.system import System

ADDRESS = re.compile(rb"[A-Za-z0-9._%+-]+(@|%40)[A-Za-z0-9-]+\.[A-Za-z]{2,}")


def lines(system: System, service: str) -> list[Json]:
    return [json.loads(line) for line in (system.log_dir / f"{service}.log").read_bytes().splitlines()]


def traces(system: System, request_id: str) -> dict[str, set[str]]:
    """Service → the routes and the types of events in its lines that name this request."""
    return {
        service: {what for line in lines(system, service) if names(line, "request", request_id)
                  for what in line.get("outcomes") or [line.get("route") or line.get("type") or ""]}
        for service in SERVICES
    }  # fmt: skip


def names(line: Json, kind: str, known_id: str) -> bool:
    """Whether a line, which may be about several events, names this request or this trace."""
    return known_id == line.get(f"{kind}_id") or known_id in line.get(f"{kind}_ids", ())


def test_every_line_is_json_with_what_one_needs_to_follow_a_request(system: System) -> None:
    walk = Walk(system.api)
    for step in STEPS:
        take(step, walk)
    for service in SERVICES:
        assert eventually(lambda name=service: lines(system, name))
        for line in lines(system, service):
            assert {"time", "level", "service", "logger", "event"} <= set(line)
            assert line["service"] == service
            if line["event"] == "request":
                assert {"request_id", "trace_id", "method", "route", "status", "latency_ms"} <= set(line)
            if line["event"] == "event":
                assert {"request_id", "event_id", "type", "outcome"} <= set(line)
            if line["event"] == "events":
                assert {"outcomes", "event_ids", "request_ids", "trace_ids", "latency_ms"} <= set(line)


def test_one_request_id_leads_through_all_services_that_an_order_touches(system: System, shop: Shop) -> None:
    user, laptop = shop.new_user(), shop.new_product(25)
    request_id, trace_id = uuid4().hex, uuid4().hex
    headers = {"X_Request_ID": request_id, "traceparent": f"00-{trace_id}-{uuid4().hex[:16]}-01"}

    order = answered(shop.order(user, laptop, **headers), 201)

    wanted = {
        "order": "/api/v1/orders",
        "product": "/api/v1/reservations/batch",
        "notification": "order.confirmed.v1",
        "analytics": "order.confirmed.v1",
    }
    assert eventually(lambda: all(what in traces(system, request_id)[name] for name, what in wanted.items()))
    theirs = [line for name in SERVICES for line in lines(system, name) if names(line, "request", request_id)]
    assert all(names(line, "trace", trace_id) for line in theirs)
    assert shop.notifications(order)


def test_no_address_is_ever_written(system: System, shop: Shop) -> None:
    user, laptop = shop.new_user(), shop.new_product(25)
    answered(shop.order(user, laptop), 201)
    refused(shop.api.post("user", "/users", {"email": user["email"], "name": "Ada"}), 409, "email-taken")
    refused(shop.api.post("user", "/users", {"email": "no address@example.com", "name": "Ada"}), 422,
            "validation-failed")  # fmt: skip
    shop.get("user", f"/users?email={user['email']}")
    body = {"recipient": user["email"], "body": f"Dear {user['email']}"}
    sent = answered(shop.api.post("notification", "/notifications/send", body), 201)
    assert eventually(lambda: shop.get("notification", f"/notifications/{sent['id']}")["status"] == "sent")
    request_id = shop.api.get("user", "/livez").headers["X-Request-ID"]
    assert eventually(lambda: traces(system, request_id)["user"])

    for service in SERVICES:
        written = (system.log_dir / f"{service}.log").read_bytes() + system.printed(service).encode()
        assert not ADDRESS.search(written), ADDRESS.findall(written)[:3]


@pytest.mark.parametrize("text", ["ada@example.com", "email=ada%40example.com", '{"to":"a.b+c@mail.example.org"}'])
def test_an_address_would_be_found(text: str) -> None:
    assert ADDRESS.search(text.encode())
