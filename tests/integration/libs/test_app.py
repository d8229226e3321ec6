"""The answers that all services share, tested on the user service, the smallest."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import sqlalchemy as sa
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from demo.api import eventually
from libs.common import errors
from libs.common.app import PAUSE_SECONDS, Service
from libs.common.background import Loop
from libs.common.data.database import Database
from libs.common.data.statements import epoch
from libs.common.errors import PROBLEM_JSON
from libs.common.events import inbox, outbox
from libs.common.ids import new_id
from libs.common.web.admission import WAITED
from tests.factories import a_user
from tests.web import Api, answered, check_problem, refused
from user_service import use_cases

ON_ONE_ENGINE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")
"""For tests that do not depend on the database engine."""

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def app(make_service: Callable[..., Flask], tmp_path: Path) -> Flask:
    return make_service("user", settings={"log_dir": str(tmp_path)})


@pytest.fixture
def logged(app: Flask, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """`logged()`: the log lines since the last call."""
    log = open(tmp_path / "user.log")
    yield log.read
    log.close()


@pytest.fixture
def api(app: Flask) -> Api:
    return Api(app)


@pytest.fixture
def root(app: Flask) -> Api:
    """Paths outside /api/v1."""
    return Api(app, prefix="")


# Headers -----------------------------------------------------------------------------------------------------------


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ["/users", "/users/stats", "/nowhere", "/users?surprise=1"])
def test_every_answer_names_its_request_and_its_trace(api: Api, path: str) -> None:
    sent = {"X-Request-ID": "req-1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    answer = api.get(path, headers=sent)
    assert answer.headers["X-Request-ID"] == "req-1"
    assert answer.headers["traceparent"].split("-")[1] == TRACE
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@ON_ONE_ENGINE
def test_a_request_without_an_id_gets_one(api: Api) -> None:
    made = {api.get("/users").headers["X-Request-ID"] for _ in range(3)}
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in made)


@ON_ONE_ENGINE
def test_any_origin_may_call_in_development(api: Api) -> None:
    answer = api.get("/users", headers={"Origin": "https://shop.example"})
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://shop.example")
    assert "Access-Control-Allow-Credentials" not in answer.headers
    exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
    assert exposed >= {"ETag", "Location", "Link", "Retry-After", "X-Request-ID", "Idempotent-Replayed"}


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ["/users", "/nowhere"])
def test_without_an_origin_an_answer_says_that_it_would_differ_with_one(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.headers.getlist("Vary") == ["Origin"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert api.get(path, headers={"Origin": "https://shop.example"}).headers.getlist("Vary") == ["Origin"]


@ON_ONE_ENGINE
def test_a_preflight_is_answered(api: Api) -> None:
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "content-type, idempotency-key, if-match",
    }
    answer = api.send("OPTIONS", "/users", headers=asked)
    assert answer.status_code == 200
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    assert set(answer.headers["Access-Control-Allow-Headers"].split(", ")) == {
        "content-type",
        "idempotency-key",
        "if-match",
    }


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://shop.example", True),
        ("http://[::1]:3000", True),
        ("https://shop.example.evil.example", False),
        ("https://shopxexample", False),
        ("http://shop.example", False),
        ("http://[::1]:30001", False),
        ("http://1:3000", False),
        ("null", False),
    ],
)
def test_only_named_origins_may_call_where_they_are_named(
    make_service: Callable[..., Flask], origin: str, may: bool
) -> None:
    api = Api(make_service("user", settings={"cors_origins": ("https://shop.example", "http://[::1]:3000")}))
    answer = api.get("/users", headers={"Origin": origin})
    assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is may


# Paths and methods -------------------------------------------------------------------------------------------------


@ON_ONE_ENGINE
def test_the_paths_without_a_version_are_an_alias(app: Flask, api: Api) -> None:
    alias = Api(app, prefix="/api")
    created = alias.post("/users", a_user())
    assert created.status_code == 201
    # What it names is canonical.
    assert created.headers["Location"] == f"/api/v1/users/{created.json['id']}"
    assert api.get(f"/users/{created.json['id']}").json == alias.get(f"/users/{created.json['id']}").json
    alias.post("/users", a_user())
    assert alias.get("/users?limit=1").headers["Link"].startswith("</api/v1/users?limit=1&cursor=")


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    "path", ["/nowhere", "/users/", "/users/x", "/users/1/2", "/Users", "/users/%00", "/users/%ff"]
)
def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    refused(api.get(path), 404, "not-found")


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/users", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("DELETE", "/users", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/users/stats", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/users/01a20598-7494-7095-a5b5-38cc38be70f6", {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}),
        ("BREW", "/users", {"GET", "HEAD", "OPTIONS", "POST"}),
    ],
)
def test_a_method_that_the_path_does_not_take_is_told_which_it_does(
    api: Api, method: str, path: str, allowed: set[str]
) -> None:
    answer = api.send(method, path)
    refused(answer, 405, "method-not-allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


@ON_ONE_ENGINE
def test_a_head_request_gets_the_headers_and_no_body(api: Api) -> None:
    answer = api.send("HEAD", "/users")
    assert (answer.status_code, answer.data) == (200, b"")


@ON_ONE_ENGINE
@pytest.mark.parametrize("query", ["surprise=1", "limit=5&surprise=", "%ff=1", "=1", "a/b~c=1"])
@pytest.mark.parametrize("path", ["/users", "/users/stats"])
def test_an_unknown_parameter_is_refused(api: Api, path: str, query: str) -> None:
    refused(api.get(f"{path}?{query}"), 422, "validation-failed")


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ["/users?limit=1&limit=1", "/users/stats?a=1&a=2", "/users?role=staff&role=admin"])
def test_a_parameter_given_twice_is_refused(api: Api, path: str) -> None:
    refused(api.get(path), 422, "validation-failed")


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(session: Any) -> None:
        raise ZeroDivisionError("a secret: hunter2, SELECT * FROM users")

    monkeypatch.setattr(use_cases, "user_stats", fail)


@ON_ONE_ENGINE
@pytest.mark.usefixtures("broken")
def test_a_fault_of_ours_is_told_with_nothing_of_it(app: Flask) -> None:
    answer = app.test_client().get("/api/v1/users/stats")
    check_problem(answer)
    assert answer.json["code"] == "internal-error"
    assert "hunter2" not in answer.text


@ON_ONE_ENGINE
@pytest.mark.usefixtures("broken")
def test_the_log_has_the_traceback_under_the_same_request_id(app: Flask, logged: Callable[[], str]) -> None:
    app.test_client().get("/api/v1/users/stats", headers={"X-Request-ID": "req-1"})
    lines = [json.loads(line) for line in logged().splitlines()]
    (failed,) = (line for line in lines if line["event"] == "request.failed")
    assert failed["request_id"] == "req-1"
    assert "ZeroDivisionError: a secret: hunter2" in failed["exc_info"]


@ON_ONE_ENGINE
@pytest.mark.parametrize("code", sorted(errors.all_problems()))
def test_every_code_has_a_page_that_explains_it(root: Api, code: str) -> None:
    answer = root.get(f"/errors/{code}")
    assert answer.status_code == 200
    assert answer.mimetype == "text/html"
    assert code in answer.text
    assert str(errors.all_problems()[code].status) in answer.text


@ON_ONE_ENGINE
@pytest.mark.parametrize("code", ["nonsense", "<script>", "%2e%2e"])
def test_there_is_no_page_for_what_is_no_code(root: Api, code: str) -> None:
    refused(root.get(f"/errors/{code}"), 404, "not-found")


# Logs and metrics --------------------------------------------------------------------------------------------------


@ON_ONE_ENGINE
def test_a_request_is_one_line_of_facts(api: Api, logged: Callable[[], str]) -> None:
    api.get("/users?limit=5", headers={"X-Request-ID": "req-1"})
    (line,) = (json.loads(line) for line in logged().splitlines())
    assert line["latency_ms"] > 0
    assert {name: line[name] for name in ("event", "method", "route", "status", "request_id", "service")} == {
        "event": "request",
        "method": "GET",
        "route": "/api/v1/users",
        "status": 200,
        "request_id": "req-1",
        "service": "user",
    }


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("agent", "caller"), [("quintet-order", "order"), ("quintet-ada@example.com", None), ("curl/8.0", None)]
)
def test_a_line_names_the_service_that_asked_and_no_stranger(
    api: Api, logged: Callable[[], str], agent: str, caller: str | None
) -> None:
    api.get("/users", headers={"User-Agent": agent})
    assert json.loads(logged()).get("caller") == caller


def test_the_log_holds_no_personal_data(api: Api, logged: Callable[[], str]) -> None:
    body = a_user(email="ada@secret.example", name="Augusta Secret", password="a secret of many letters")
    user = answered(api.post("/users", body), 201)
    api.post("/users", body)
    api.get(f"/users/{user['id']}")
    api.get("/users?email=ada@secret.example")
    api.patch(f"/users/{user['id']}", {"name": "Secret\x00", "email": "secret"})
    api.delete(f"/users/{user['id']}")
    lines = logged()
    assert len(lines.splitlines()) >= 6
    assert "secret" not in lines.lower()


def series(root: Api) -> dict[str, float]:
    lines = root.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


@ON_ONE_ENGINE
def test_requests_are_counted_by_route_and_status(api: Api, root: Api) -> None:
    name = 'http_requests_total{method="GET",route="/api/v1/users/<id:user_id>",status="404"}'
    before = series(root).get(name, 0)
    for number in range(3):
        api.get(f"/users/01a20598-7494-7095-a5b5-38cc38be70f{number}")
    assert series(root)[name] - before == 3


@ON_ONE_ENGINE
@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere/{}"), ("BREW{}", "/users")])
def test_what_a_client_invents_makes_no_series(api: Api, root: Api, method: str, path: str) -> None:
    for number in range(2):
        api.send(method.format(number), path.format(number))
        before = len(series(root))
    for number in range(2, 20):
        api.send(method.format(number), path.format(number))
    assert len(series(root)) == before


@ON_ONE_ENGINE
def test_what_became_of_calls_is_counted_by_service(app: Flask, root: Api) -> None:
    service = app.extensions["quintet"]
    before = series(root)
    for _ in range(3):
        with pytest.raises(errors.DependencyUnavailable):
            service.client("notification").get("/x")  # nobody listens there
    after = series(root)

    def counted(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert counted('service_calls_total{outcome="failed",service="notification"}') == 5
    assert counted('service_calls_total{outcome="short_circuited",service="notification"}') == 1
    assert counted('service_retries_total{outcome="made",service="notification"}') == 3
    assert counted('breakers_open{service="notification"}') == 1


# Health ------------------------------------------------------------------------------------------------------------


def test_a_service_that_is_well_says_so(root: Api) -> None:
    health = answered(root.get("/health"))
    assert set(health) == {"status", "service", "version", "timestamp", "checks"}
    assert (health["status"], health["service"]) == ("healthy", "user")
    assert {part["status"] for part in health["checks"].values()} == {"healthy"}
    assert set(health["checks"]) >= {"database", "events"}
    assert root.get("/health").headers["Cache-Control"] == "no-store"
    assert answered(root.get("/readyz")) == {"status": "healthy"}
    assert answered(root.get("/livez")) == {"status": "healthy"}


def test_a_service_without_its_tables_is_unhealthy_and_alive(
    make_service: Callable[..., Flask], database_url: str
) -> None:
    client = make_service("user", url=database_url).test_client()
    health = client.get("/health")
    assert (health.status_code, health.json["status"]) == (503, "unhealthy")
    assert client.get("/livez").status_code == 200
    assert client.get("/metrics").status_code == 200


@ON_ONE_ENGINE
@pytest.mark.parametrize("url", ["sqlite:////nowhere/x.db", "postgresql+psycopg://nobody:hunter2@127.0.0.1:1/none"])
def test_a_service_without_its_database_is_unhealthy_and_alive(make_service: Callable[..., Flask], url: str) -> None:
    root = make_service("user", url=url).test_client()
    for path in ("/health", "/readyz"):
        answer = root.get(path)
        assert (answer.status_code, answer.json["status"]) == (503, "unhealthy")
        assert "hunter2" not in answer.text
        assert "nowhere" not in answer.text
    assert root.get("/livez").status_code == 200
    assert root.get("/metrics").status_code == 200
    answer = root.get("/api/v1/users")
    check_problem(answer)
    assert (answer.status_code, answer.json["code"]) == (503, "dependency-unavailable")


@ON_ONE_ENGINE
def test_a_check_that_breaks_makes_its_part_unhealthy(app: Flask, root: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.web.health._event_state", lambda db: 1 / 0)
    answer = root._client.get("/health")
    assert (answer.status_code, answer.json["status"]) == (503, "unhealthy")
    assert answer.json["checks"]["events"]["status"] == "unhealthy"
    assert answer.json["checks"]["database"]["status"] == "healthy"


@ON_ONE_ENGINE
def test_a_service_that_drains_is_not_ready_and_is_healthy(app: Flask, root: Api) -> None:
    app.extensions["quintet"].ready.drain()
    answer = root._client.get("/readyz")
    assert (answer.status_code, answer.json) == (503, {"status": "draining"})
    assert root.get("/health").status_code == 200


def db_of(app: Flask) -> Database:
    db: Database = app.extensions["quintet"].db
    return db


def test_an_outbox_that_is_stuck_makes_a_service_degraded(app: Flask, api: Api, root: Api) -> None:
    api.post("/users", a_user())
    assert answered(root.get("/health"))["checks"]["events"]["pending"] == {"order": 1}
    with db_of(app).write() as session:
        session.execute(sa.update(outbox.outbox).values(created_at=epoch() - 3600.0))
    health = answered(root.get("/health"))
    assert health["status"] == health["checks"]["events"]["status"] == "degraded"
    assert series(root)['outbox_pending{subscriber="order"}'] == 1
    assert series(root)['outbox_oldest_seconds{subscriber="order"}'] >= 3600
    with db_of(app).write() as session:
        session.execute(sa.delete(outbox.outbox))
    assert series(root)['outbox_pending{subscriber="order"}'] == 0


@ON_ONE_ENGINE
def test_the_schemas_of_the_events_are_served(root: Api) -> None:
    answer = root.get("/schemas/user.created.v1.json")
    assert answer.mimetype == "application/schema+json"
    assert answer.json["title"] == "user.created.v1"
    for path in ("user.nothing.v1.json", "..%2fmodels.py", "../models.py", "%2e%2e/models.py"):
        refused(root.get(f"/schemas/{path}"), 404, "not-found")


# Documents ---------------------------------------------------------------------------------------------------------


@ON_ONE_ENGINE
def test_the_document_is_openapi_3_1(root: Api) -> None:
    document = answered(root.get("/openapi.json"))
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


@ON_ONE_ENGINE
def test_the_documentation_needs_no_internet(root: Api) -> None:
    page = root.get("/docs/")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) > 3
    for reference in loaded:
        assert "//" not in reference
        assert root.get(urljoin("/docs/", reference)).status_code == 200
    answer = root.get("/docs?x=y", headers={"Host": "elsewhere.example"})
    assert (answer.status_code, answer.headers["Location"]) == (308, "/docs/?x=y")
    assert "/openapi.json" in page.text + root.get("/docs/dist/swagger-initializer.js").text


@ON_ONE_ENGINE
def test_a_body_with_a_content_encoding_is_an_unsupported_media_type(api: Api) -> None:
    for coding in ("gzip", "br", "identity, deflate"):
        answer = api.post("/users", a_user(), headers={"Content-Encoding": coding})
        refused(answer, 415, "unsupported-media-type")
        assert answer.headers["Accept-Encoding"] == "identity"
    answered(api.post("/users", a_user(), headers={"Content-Encoding": "identity"}), 201)


# Deadlines ---------------------------------------------------------------------------------------------------------


def test_no_work_is_begun_for_a_caller_that_has_given_up(app: Flask, api: Api) -> None:
    refused(api.post("/users", a_user(), headers={"X-Request-Timeout-Ms": "0"}), 504, "deadline-exceeded")
    assert answered(api.get("/users"))["items"] == []
    answered(api.post("/users", a_user(), headers={"X-Request-Timeout-Ms": "5000"}), 201)


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ["/api/users", "/api/v1/users", "/api/v1/events", "/api/v1/nowhere"])
def test_nothing_below_api_is_answered_without_time(root: Api, path: str) -> None:
    refused(root.get(path, headers={"X-Request-Timeout-Ms": "0"}), 504, "deadline-exceeded")


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics", "/openapi.json"])
def test_what_machines_ask_is_answered_without_time(root: Api, path: str) -> None:
    assert root.get(path, headers={"X-Request-Timeout-Ms": "0"}).status_code == 200


@ON_ONE_ENGINE
@pytest.mark.parametrize("odd", ["", "-1", "soon", "1.5", "0x0"])
def test_an_odd_time_counts_as_absent(api: Api, odd: str) -> None:
    assert api.get("/users", headers={"X-Request-Timeout-Ms": odd}).status_code == 200


@ON_ONE_ENGINE
def test_the_time_that_a_request_has_waited_counts(api: Api, logged: Callable[[], str]) -> None:
    assert api.get("/users", environ_overrides={WAITED: 4.0}).status_code == 200
    assert json.loads(logged())["latency_ms"] > 4000
    refused(api.get("/users", environ_overrides={WAITED: 5.0}), 504, "deadline-exceeded")


# Calls of others ---------------------------------------------------------------------------------------------------


@ON_ONE_ENGINE
def test_there_is_one_client_of_each_service(app: Flask) -> None:
    service = app.extensions["quintet"]
    assert service.client("order") is service.client("order")
    assert service.client("order") is not service.client("notification")


# Work beside the requests ------------------------------------------------------------------------------------------


@ON_ONE_ENGINE
def test_work_beside_the_requests_begins_with_start_and_ends_with_stop(app: Flask) -> None:
    service = app.extensions["quintet"]
    ran = threading.Event()
    service.every("test", lambda: bool(ran.set()), interval_seconds=60)
    loop: Loop = service.loops[-1]
    assert not ran.wait(0.05)
    service.start()
    assert ran.wait(10)
    service.stop()
    assert loop._thread
    assert not loop._thread.is_alive()


@ON_ONE_ENGINE
def test_a_process_for_requests_alone_does_nothing_beside_them(make_service: Callable[..., Flask]) -> None:
    app = make_service("user", settings={"role": "web", "broker_url": "amqp://nowhere.invalid/x"})
    service = app.extensions["quintet"]
    ran = threading.Event()
    service.every("test", lambda: bool(ran.set()), interval_seconds=60)
    service.start()
    answered(Api(app).post("/users", a_user()), 201)
    assert not ran.wait(0.3)
    assert "broker" not in answered(Api(app, prefix="").get("/health"))["checks"]
    service.stop()


@ON_ONE_ENGINE
def test_a_process_that_no_request_can_wake_looks_more_often_for_events(make_service: Callable[..., Flask]) -> None:
    def pause(role: str) -> float:
        loops = make_service("user", settings={"role": role}).extensions["quintet"].loops
        return next(loop._interval for loop in loops if loop.name == "sweep")

    assert pause("worker") < pause("all") / 2


def test_a_commit_wakes_the_relay_to_each_subscriber(app: Flask, api: Api) -> None:
    loops = {loop.name: loop for loop in app.extensions["quintet"].loops}
    assert sorted(name for name in loops if name.startswith("relay")) == ["relay to notification", "relay to order"]
    api.post("/users", a_user())
    assert loops["relay to order"]._woken.is_set()


def test_what_is_over_is_trimmed(app: Flask, api: Api) -> None:
    api.post("/users", a_user(), headers={"Idempotency-Key": "k"})
    service = app.extensions["quintet"]
    assert service._trim() is False
    with db_of(app).write() as session:
        session.execute(sa.text("UPDATE idempotency_keys SET created_at = 0"))
    assert service._trim() is True
    assert service._trim() is False


@ON_ONE_ENGINE
def test_trimming_pauses_between_its_steps(app: Flask) -> None:
    """Requests of the process, and other writers, continue meanwhile."""
    service, rows = app.extensions["quintet"], 4 * inbox.TRIM_ROWS
    with service.db.write() as session:
        session.execute(sa.insert(inbox.inbox), [{"event_id": new_id(), "handled_at": 0.0} for _ in range(rows)])
    began = time.monotonic()
    service.start()
    assert eventually(lambda: not _ids(service), 10)
    assert time.monotonic() - began > 3 * PAUSE_SECONDS
    service.stop()


def _ids(service: Service) -> int:
    with service.db.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(inbox.inbox)) or 0


def test_a_service_that_is_stopped_hands_back_what_it_has_claimed(app: Flask, api: Api) -> None:
    """Its subscriber is down, and the relay must not keep the lease until it expires."""
    api.post("/users", a_user())
    service = app.extensions["quintet"]
    service.start()
    service.stop()
    with db_of(app).read() as connection:
        leased = sa.select(sa.func.count()).where(outbox.outbox.c.lease_token.is_not(None))
        assert connection.scalar(leased) == 0


@ON_ONE_ENGINE
def test_the_version_is_that_of_the_distribution(root: Api) -> None:
    health = answered(root.get("/health"))
    assert health["version"] == answered(root.get("/openapi.json"))["info"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", health["version"])


@ON_ONE_ENGINE
def test_no_more_is_logged_than_the_settings_say(make_service: Callable[..., Flask], tmp_path: Path) -> None:
    api = Api(make_service("user", settings={"log_level": "WARNING", "log_dir": str(tmp_path)}))
    api.get("/users")
    assert (tmp_path / "user.log").read_text() == ""


@ON_ONE_ENGINE
def test_a_doubled_slash_leads_nowhere(app: Flask) -> None:
    """Nor does it redirect to a host that the client sent."""
    answer = app.test_client().get("/api//v1/users", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.mimetype, "Location" in answer.headers) == (404, PROBLEM_JSON, False)


@ON_ONE_ENGINE
def test_the_name_of_a_parameter_is_escaped_in_a_pointer(api: Api) -> None:
    for path in ("/users/stats?a/b=1", "/users?a/b=1", "/users?a/b=1&a/b=2"):
        refused(api.get(path), 422, "validation-failed", "/a~1b")


@ON_ONE_ENGINE
def test_the_link_to_the_next_page_is_no_longer_than_the_question(api: Api) -> None:
    """Apart from the cursor: commas are not percent-encoded, which would triple their length."""
    ids = [answered(api.post("/users", a_user()), 201)["id"] for _ in range(3)]
    answer = api.get(f"/users?ids={','.join(ids)}&limit=1")
    assert ",".join(ids) in answer.headers["Link"]
