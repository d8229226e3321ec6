"""A consumer that an event kills: `python -m tests.engines.victim AMQP_URL DATABASE_URL` handles events of the order
service until the number 13 arrives.
"""

import os
import sys

from sqlalchemy.orm import Session

from libs.common import broker
from libs.common.broker import Broker
from libs.common.db import Database
from libs.common.inbox import Inbox
from tests.engines.consumers import DELIVERY_LIMIT, Told


def handle(session: Session, events: list[Told]) -> None:
    if any(event.number == 13 for event in events):
        os._exit(9)


if __name__ == "__main__":
    broker.DELIVERY_LIMIT = DELIVERY_LIMIT
    consumer = Broker(sys.argv[1], "order", Inbox(Database(sys.argv[2]), {Told: handle}))
    while True:
        consumer.step()
