"""Database connections in a process that gevent has patched: `python -m tests.integration.libs.greenlets URL WHAT`
prints "done".
"""

import sys

ROWS = 40
SIZE = 1_000_000


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    import gevent
    import sqlalchemy as sa

    from libs.common.data.database import Database
    from libs.common.data.prepared import Prepared
    from libs.common.ids import new_id
    from tests.integration.libs.tables import things

    db = Database(sys.argv[1], pool_size=2)
    add = Prepared(sa.insert(things), ["id", "name", "json"])
    change = Prepared(sa.update(things).where(things.c.name == sa.bindparam("_name")).values(json=sa.bindparam("json")))

    def heavy() -> None:
        names = [str(number) for number in range(ROWS)]
        with db.write() as session:
            add.write(session, [{"id": new_id(), "name": name, "json": "x" * SIZE} for name in names])
            change.write(session, [{"_name": name, "json": name * SIZE} for name in names])
        with db.read() as connection:
            found = connection.execute(sa.select(things.c.name, things.c.json)).all()
        assert {row.name: row.json for row in found} == {name: name * SIZE for name in names}

    def cut() -> None:
        """Each of the connections is lost once."""
        for _ in range(4):
            with gevent.Timeout(0.2, False), db.write() as session:
                session.execute(sa.insert(things).values(id=new_id(), name="unfinished"))
                if db.is_sqlite:
                    gevent.sleep(2)
                else:
                    session.execute(sa.text("SELECT pg_sleep(2)"))
                raise AssertionError("It was not cut off.")
            with db.write() as session:
                assert session.execute(sa.select(things)).all() == []

    {"heavy": heavy, "cut": cut}[sys.argv[2]]()
    db.dispose()
    print("done")
