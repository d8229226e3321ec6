"""A relay in its own process: `python -m tests.engines.drain AMQP_URL DATABASE_URL` sends all waiting events and prints
its memory in bytes after the first batches and at most, and the fields that it logged.
"""

import json
import logging
import resource
import sys
import threading

from libs.common.background import Loop
from libs.common.data.database import Database
from libs.common.events.broker import Broker
from libs.common.events.courier import Courier
from libs.common.events.outbox import BROKER, Relay

WARM = 20


class DrainLog(logging.Handler):
    """The fields of `relay.drained`."""

    fields: dict[str, float]

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "relay.drained":
            self.fields = {"events": record.__dict__["events"], "per_second": record.__dict__["per_second"]}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    drained = DrainLog()
    logging.getLogger("libs.common.events.courier").addHandler(drained)
    logging.getLogger("libs.common.events.courier").setLevel(logging.INFO)
    db = Database(sys.argv[2])
    broker = Broker(sys.argv[1], "user", None)
    courier = Courier(Relay(db, BROKER), broker.send)
    beside = Loop("broker", broker.step, interval_seconds=0.0)
    beside.start()
    steps, warm = 0, 0
    while courier.step():
        steps += 1
        if steps == WARM:
            warm = peak()
    print(json.dumps({**drained.fields, "warm": warm, "peak": peak(), "threads": threading.active_count()}))
    beside.stop()
    beside.join(5)
    broker.close()
    db.dispose()
