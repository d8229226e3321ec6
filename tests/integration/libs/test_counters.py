import os
from decimal import Decimal

import pytest
import sqlalchemy as sa

from libs.common.data import counters
from libs.common.data.database import Database
from tests.processes import Workers, in_threads


def add(db: Database, **changes: int) -> None:
    with db.write() as session:
        counters.add(session, changes)


def read(db: Database, prefix: str = "") -> dict[str, int]:
    with db.read() as connection:
        return counters.read(connection, prefix)


def test_changes_add_up(db: Database) -> None:
    add(db, total=1, other=5)
    add(db, total=2, other=-1)
    assert read(db) == {"total": 3, "other": 4}


def test_the_changes_of_one_transaction_are_written_together(db: Database) -> None:
    with db.write() as session:
        counters.add(session, {"a": 1, "b": 1})
        counters.add(session, {"a": 2, "b": -1})
    assert read(db) == {"a": 3}


def test_a_transaction_that_fails_counts_nothing(db: Database) -> None:
    with pytest.raises(ValueError, match="stop"), db.write() as session:
        counters.add(session, {"total": 1})
        raise ValueError("stop")
    add(db, other=1)
    assert read(db) == {"other": 1}


def test_zeros_are_left_out(db: Database) -> None:
    add(db, total=1)
    add(db, total=-1, other=0)
    assert read(db) == {}


def test_totals_are_read_by_the_beginning_of_their_names(db: Database) -> None:
    with db.write() as session:
        counters.add(
            session, {"role:admin": 1, "role:staff": 2, "role": 4, "rolf:x": 8, "status:active": 16, "role:": 32}
        )
    assert read(db, "role:") == {"admin": 1, "staff": 2, "": 32}


def test_totals_grow_beyond_32_bits(db: Database) -> None:
    add(db, total=2**40)
    add(db, total=2**40)
    assert read(db) == {"total": 2**41}


@pytest.mark.parametrize("sign", [1, -1])
def test_totals_grow_beyond_64_bits(db: Database, sign: int) -> None:
    highest = sign * 10**16
    for _ in range(5):
        with db.write() as session:
            for _ in range(400):
                counters.add(session, {"revenue:EUR": highest, "revenue:USD": highest + sign})
    assert read(db, "revenue:") == {"EUR": 2000 * highest, "USD": 2000 * (highest + sign)}
    add(db, **{"revenue:EUR": -2000 * highest, "revenue:USD": 5 - 2000 * (highest + sign)})
    assert read(db, "revenue:") == {"USD": 5}


def test_totals_of_many_shards_grow_beyond_64_bits(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(counters.SHARDS):
        monkeypatch.setattr(counters, "shard", lambda process, number=number: number)
        add(db, total=2**63 - 1, other=-(2**63))
    assert read(db) == {"total": 16 * (2**63 - 1), "other": -16 * 2**63}


def test_totals_that_were_stored_before_there_was_a_carry_are_read_and_added_to(db: Database) -> None:
    old = {"shard": counters.shard(os.getpid()), "value_carry": 0}
    with db.write() as session:
        session.execute(
            sa.insert(counters.counters),
            [{"name": "down", "value": -(10**17) - 1, **old}, {"name": "up", "value": 10**17, **old}],
        )
    assert read(db) == {"down": -(10**17) - 1, "up": 10**17}
    add(db, down=-1, up=-1)
    assert read(db) == {"down": -(10**17) - 2, "up": 10**17 - 1}


def test_a_process_draws_its_shard_after_the_fork() -> None:
    """Process ids do not distinguish them: in containers all copies have the same few."""
    assert counters.shard(os.getpid()) == counters.shard(os.getpid())
    assert len({counters.shard(-number) for number in range(1, 200)}) > counters.SHARDS / 2
    assert [counters.shard(-number) for number in range(1, 200)] != [
        -number % counters.SHARDS for number in range(1, 200)
    ]


def test_amounts_are_exact(db: Database) -> None:
    with db.write() as session:
        counters.add(session, {"revenue:EUR": 24_999_900, "revenue:JPY": 1})
    with db.read() as connection:
        assert counters.read_amounts(connection, "revenue:") == {"EUR": Decimal("2499.99"), "JPY": Decimal("0.0001")}


def test_a_difference_leads_from_before_to_after() -> None:
    assert counters.difference({"a": 1, "b": 2}, {"b": 5, "c": 1}) == {"a": -1, "b": 3, "c": 1}
    assert counters.difference({"a": 1}, {"a": 1}) == {"a": 0}


def count_often(url: str, names: list[str]) -> int:
    """Returns the shard of this process."""
    db = Database(url)

    def work(number: int) -> None:
        for _ in range(15):
            with db.write() as session:
                # Each thread adds them in another order, but they are written in one.
                for name in names if number % 2 else reversed(names):
                    counters.add(session, {name: 1})

    in_threads(3, work)
    db.dispose()
    return counters.shard(os.getpid())


def test_processes_that_count_the_same_lose_nothing_and_do_not_deadlock(
    db: Database, database_url: str, workers: Workers
) -> None:
    names = [f"name-{n}" for n in range(6)]
    used = workers.race(count_often, *[(database_url, names)] * 3)
    assert read(db) == dict.fromkeys(names, 3 * 3 * 15)
    with db.read() as connection:
        shards = connection.scalars(sa.select(counters.counters.c.shard).distinct()).all()
    assert set(shards) == set(used)
