"""A fixed piece of work, whose CPU time says how fast this machine is now."""

import json
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

PASSES = 500
_ORDER = {
    "user_id": "01900000-0000-7000-8000-000000000001",
    "items": [{"product_id": f"01900000-0000-7000-8000-{number:012x}", "quantity": number} for number in range(8)],
}


class _Line:
    def __init__(self, product_id: str, quantity: int):
        self.product_id, self.quantity = product_id, quantity

    def total(self, price: int) -> int:
        return self.quantity * price


def pass_ms() -> float:
    """The CPU time of one pass of the loop in milliseconds: objects, JSON, and rows in a file with durable commits, about
    as in a service.
    """
    with (
        tempfile.TemporaryDirectory(prefix="quintet-load-") as folder,
        closing(sqlite3.connect(Path(folder, "calibration.db"), isolation_level=None)) as db,
    ):
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id TEXT, lines TEXT, total INTEGER)")
        db.execute("CREATE INDEX orders_user ON orders (user_id, total)")
        started = time.process_time()
        for number in range(PASSES):
            _pass(db, number)
        return (time.process_time() - started) * 1000 / PASSES


def _pass(db: sqlite3.Connection, number: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    for turn in range(10):
        order = json.loads(json.dumps(_ORDER))
        lines = [_Line(item["product_id"], item["quantity"]) for item in order["items"]]
        totals = {line.product_id: line.total(number + 1) for line in lines}
        row = (order["user_id"], json.dumps(totals), sum(totals.values()) + turn)
        db.execute("INSERT INTO orders (user_id, lines, total) VALUES (?, ?, ?)", row)
    db.execute("SELECT count(*), max(total) FROM orders WHERE user_id = ?", (_ORDER["user_id"],)).fetchone()
    db.execute("COMMIT")
