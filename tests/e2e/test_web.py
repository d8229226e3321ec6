"""Everything besides the resources: CORS, documentation pages, health, metrics, request ids."""

import re
import time
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from demo.api import eventually
from libs.topology import SERVICES
from tests.e2e.shop import Shop, answered
from tests.e2e.system import System

EXPOSED = {"ETag", "Location", "Link", "Retry-After", "X-Request-ID", "Idempotent-Replayed"}


def listed(header: str) -> set[str]:
    return {name.strip() for name in header.split(",")}


def test_a_page_of_another_origin_may_call_and_read_the_headers_that_it_needs(shop: Shop) -> None:
    origin = {"Origin": "https://shop.example.com"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,idempotency-key"}
    preflight = shop.api.send("OPTIONS", "order", "/orders", headers={**origin, **asked})
    assert preflight.status_code == 200
    assert "POST" in listed(preflight.headers["Access-Control-Allow-Methods"])
    assert {"content-type", "idempotency-key"} <= listed(preflight.headers["Access-Control-Allow-Headers"])
    for path, status in (("/orders", 200), ("/nothing", 404)):
        answer = shop.api.get("order", path, origin)
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", origin["Origin"])
        assert listed(answer.headers["Access-Control-Expose-Headers"]) >= EXPOSED


@pytest.mark.parametrize("service", SERVICES)
def test_swagger_ui_comes_whole_from_the_service_itself(system: System, service: str) -> None:
    page = system.api.get(service, "/docs/")
    assets = [urljoin(page.url, found) for found in re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)]
    assert {asset.rpartition(".")[2] for asset in assets} >= {"css", "js"}
    for asset in assets:
        assert asset.startswith(system.api.url(service, "/docs/"))
        loaded = requests.get(asset, timeout=5)
        assert (loaded.status_code, bool(loaded.content)) == (200, True), asset
    hosts = re.findall(r"https?://([^/'\"]+)", page.text)
    assert set(hosts) <= {urlsplit(page.url).netloc}
    assert '"url": "/openapi.json"' in page.text
    assert '"validatorUrl": null' in page.text, "by default, a validator in the internet would be asked"


def test_the_dashboard_needs_no_other_host(system: System) -> None:
    page = system.api.get("analytics", "/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(["']?https?:""", page.text)


@pytest.mark.parametrize("service", SERVICES)
def test_health_names_the_service_and_what_it_rests_on(shop: Shop, service: str) -> None:
    health = shop.get(service, "/health")
    assert set(health) == {"status", "service", "version", "timestamp", "checks"}
    assert (health["status"], health["service"]) == ("healthy", service)
    assert health["checks"]["database"]["status"] == "healthy"
    for path in ("/livez", "/readyz"):
        assert shop.get(service, path) == {"status": "healthy"}


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_of_all_workers_are_counted_together(shop: Shop, service: str) -> None:
    def answered_so_far() -> float:
        text = shop.api.get(service, "/metrics").text
        lines = re.findall(r'^http_requests_total\{.*route="/livez".*\} (\S+)$', text, re.MULTILINE)
        return sum(map(float, lines))

    time.sleep(0.3)  # a worker writes what it has counted after 0.2 seconds
    before = answered_so_far()
    for _ in range(20):
        requests.get(
            shop.api.url(service, "/livez"), timeout=5
        )  # a new connection for each request, so that all workers serve
    assert eventually(lambda: answered_so_far() == before + 20)


@pytest.mark.parametrize("service", SERVICES)
def test_paths_without_a_version_are_an_alias(shop: Shop, service: str) -> None:
    path = "/analytics/summary" if service == "analytics" else f"/{service}s/stats"
    assert set(shop.get(service, f"/api{path}")) == set(shop.get(service, f"/api/v1{path}"))


def test_every_problem_has_a_page_that_explains_it(shop: Shop) -> None:
    problem = answered(shop.api.get("order", "/nothing"), 404)
    page = shop.api.get("order", problem["type"])
    assert page.status_code == 200
    assert problem["code"] in page.text


def test_a_request_id_is_taken_made_and_returned(shop: Shop) -> None:
    assert shop.api.get("user", "/livez", {"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    made = shop.api.get("user", "/livez", {"X-Request-ID": "not mine"}).headers["X-Request-ID"]
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", made)
