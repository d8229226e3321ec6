"""A rolling restart under load fails no request.

Each service is replaced as docs/operations.md says: SIGUSR2 lets the master start a successor on the same listening
socket, and SIGTERM, once the successor has workers, lets the old one finish its requests and exit.
"""

import http.client
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from demo.api import eventually
from libs.topology import PORT_OFFSETS, SERVICES
from tests.chaos.conftest import BASE_PORT, LONG
from tests.e2e.shop import Shop
from tests.e2e.system import UNHURRIED, System

pytestmark = pytest.mark.timeout(600)

REQUESTS = 50_000 if LONG else 5_000
PROCESSES, THREADS = 2, 6
PATHS = (
    ("user", "/users/{user}"), ("product", "/products/{product}"), ("order", "/orders/stats"),
    ("notification", "/notifications?limit=1"), ("analytics", "/analytics/products/top?limit=5"),
)  # fmt: skip

over: Event
asked: Any


def _share(event: Event, count: Any) -> None:
    global over, asked
    over, asked = event, count


def ask_all(base_port: int, user: str, product: str) -> Counter[str]:
    """Send requests in many threads, each on its own connections, until the block ends; counts the answers by kind."""
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(lambda _: _ask(base_port, user, product), range(THREADS))
        return sum(found, Counter())


def _ask(base_port: int, user: str, product: str) -> Counter[str]:
    """No request is retried: failures are counted as such."""
    links = {
        service: http.client.HTTPConnection("127.0.0.1", base_port + PORT_OFFSETS[service], timeout=30)
        for service in SERVICES
    }
    order = json.dumps({"user_id": user, "items": [{"product_id": product, "quantity": 1}]})
    answers: Counter[str] = Counter()
    while not over.is_set():
        answers[_once(links["order"], "POST", "/orders", order)] += 1
        for service, path in PATHS:
            answers[_once(links[service], "GET", path.format(user=user, product=product))] += 1
        with asked.get_lock():
            asked.value += 1 + len(PATHS)
    for link in links.values():
        link.close()
    return answers


def _once(link: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> str:
    try:
        link.request(method, f"/api/v1{path}", body, {"Content-Type": "application/json"} if body else {})
        answer = link.getresponse()
        answer.read()
        return f"{method} {answer.status}"
    except (OSError, http.client.HTTPException) as exc:
        link.close()
        return f"{method} {path} {type(exc).__name__}"


def children(pid: int) -> set[int]:
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


def replace(old: int, workers: int) -> int:
    """Let a successor take over from this master; returns its pid."""
    before = children(old)
    os.kill(old, signal.SIGUSR2)
    [new] = eventually(lambda: children(old) - before, 20)
    assert eventually(lambda: len(children(new)) == workers, 30)
    os.kill(old, signal.SIGTERM)
    assert eventually(lambda: not children(old), 20)
    return int(new)


@contextmanager
def masters(system: System) -> Iterator[dict[str, int]]:
    """Service → its master; those that run at the end are stopped."""
    found = {service: process.pid for service, process in system.running.items()}
    first = dict(found)
    try:
        yield found
    finally:
        successors = [pid for service, pid in found.items() if pid != first[service]]
        for pid in successors:
            os.kill(pid, signal.SIGTERM)
        assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in successors), 20)


def test_a_rolling_restart_of_every_service_fails_no_request(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    event, count = spawn.Event(), spawn.Value("i", 0)
    answers, rounds = Counter[str](), 0
    with System(BASE_PORT + 20, tmp_path / "data", **UNHURRIED) as system, masters(system) as running:
        shop = Shop(system.api)
        user, product = shop.new_user()["id"], shop.new_product(1_000_000)["id"]
        with spawn.Pool(PROCESSES, _share, (event, count)) as pool:
            asking = [pool.apply_async(ask_all, (system.base_port, user, product)) for _ in range(PROCESSES)]
            while not rounds or count.value < REQUESTS:
                for service in SERVICES:
                    running[service] = replace(running[service], system.workers)
                rounds += 1
            event.set()
            for each in asking:
                answers += each.get(60)
        assert set(answers) == {"POST 201", "GET 200"}, answers
        assert answers.total() >= REQUESTS
        confirmed = shop.get("order", "/orders/stats")["by_status"]["confirmed"]
        assert confirmed == answers["POST 201"]
    print(f"{answers.total()} requests, {5 * rounds} restarts, 0 failed")
