"""While one greenlet waits for the database, others run: `python -m tests.integration.libs.waiting URL` prints how
often another greenlet ran meanwhile.
"""

import sys

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from gevent.event import Event

    from libs.common.data.database import Database
    from tests.integration.libs.test_db import deposit

    db = Database(sys.argv[1])
    ticks: list[int] = []
    held = Event()

    def hold() -> None:
        with db.write() as session:
            deposit(session)
            held.set()
            gevent.sleep(0.3)

    def wait() -> None:
        held.wait()
        before = len(ticks)
        with db.write() as session:
            deposit(session)
            print(len(ticks) - before)

    def tick() -> None:
        while True:
            ticks.append(1)
            gevent.sleep(0.005)

    holding = gevent.spawn(hold)
    ticking = gevent.spawn(tick)
    waiting = gevent.spawn(wait)
    gevent.joinall([holding, waiting], raise_error=True)
    ticking.kill()
    db.dispose()
