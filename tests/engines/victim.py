"""Consumers that are killed by a poison message: `python -m tests.engines.victim AMQP_URL DATABASE_URL` starts one
after the other until the event is a dead letter, and prints how many have died.
"""

import os
import sys

from sqlalchemy.orm import Session

from libs.common.data.database import Database
from libs.common.events import broker, dead_letters
from libs.common.events.broker import Broker
from libs.common.events.inbox import Inbox
from tests.engines.consumers import DELIVERY_LIMIT, Ping

MOST = 30


def handle(session: Session, events: list[Ping]) -> None:
    if any(event.number == 13 for event in events):
        os._exit(9)


def consume(url: str, database: str) -> None:
    db = Database(database)
    consumer = Broker(url, "order", Inbox(db, {Ping: handle}))
    dead = 0
    while not dead:
        consumer.step()
        with db.read() as session:
            dead = dead_letters.count(session)


def survives(url: str, database: str) -> bool:
    pid = os.fork()
    if not pid:
        consume(url, database)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


if __name__ == "__main__":
    broker.DELIVERY_LIMIT = DELIVERY_LIMIT
    killed = 0
    while killed < MOST and not survives(*sys.argv[1:]):
        killed += 1
    print(killed)
