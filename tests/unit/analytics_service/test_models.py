from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from analytics_service.models import (
    NOTIFICATIONS,
    ORDERS,
    ProductName,
    Tally,
    Totals,
    bucket_start,
    bucket_starts,
    default_start,
    notification_contributions,
    order_contributions,
)
from libs.common.errors import ValidationFailed
from tests.unit.analytics_service.samples import (
    LAPTOP,
    MOUSE,
    NOON,
    a_line,
    a_notification_row,
    an_order_row,
    order_facts,
)

HOUR = ("order_buckets", "hour", datetime(2026, 1, 31, 12, tzinfo=UTC), "EUR")
DAY = ("order_buckets", "day", datetime(2026, 1, 31, tzinfo=UTC), "EUR")
LATER = NOON + timedelta(minutes=1)


# Contributions -----------------------------------------------------------------------------------------------------


def test_a_confirmed_order_adds_to_its_hour_its_day_and_its_products() -> None:
    lines = [a_line(LAPTOP, 2, "19.98"), a_line(MOUSE, 1, "0.02")]
    assert order_contributions(an_order_row(total=Decimal("20.00"), lines=lines)) == {
        HOUR: (1, 0, Decimal(20)),
        DAY: (1, 0, Decimal(20)),
        ("product_totals", LAPTOP, "EUR"): (2, Decimal("19.98")),
        ("product_totals", MOUSE, "EUR"): (1, Decimal("0.02")),
    }


def test_lines_of_one_product_add_up() -> None:
    lines = [a_line(LAPTOP, 2, "0.10"), a_line(LAPTOP, 3, "0.20")]
    found = order_contributions(an_order_row(lines=lines))
    assert found["product_totals", LAPTOP, "EUR"] == (5, Decimal("0.30"))


@pytest.mark.parametrize("moment", ["shipped_at", "delivered_at"])
def test_later_steps_add_nothing(moment: str) -> None:
    order = an_order_row()
    assert order_contributions({**order, moment: LATER}) == order_contributions(order)


def test_a_cancelled_order_counts_where_it_was_confirmed_and_brings_nothing() -> None:
    order = an_order_row(cancelled_at=NOON + timedelta(days=40))
    assert order_contributions(order) == {HOUR: (1, 1, 0), DAY: (1, 1, 0)}


@pytest.mark.parametrize("moment", ["rejected_at", "cancelled_at", "shipped_at"])
def test_an_order_that_is_not_known_to_be_confirmed_adds_nothing(moment: str) -> None:
    unknown = {"confirmed_at": None, "total": None, "currency": None, "lines": None}
    assert order_contributions(an_order_row(**unknown, **{moment: NOON})) == {}


def delivery(**given: Any) -> tuple[Any, ...]:
    (found,) = notification_contributions(a_notification_row(**given)).items()
    assert found[0] == ("delivery_totals", datetime(2026, 1, 31, tzinfo=UTC), "email")
    return found[1]


def test_a_sent_notification_adds_the_time_it_took() -> None:
    assert delivery(sent_at=NOON + timedelta(seconds=90, milliseconds=5)) == (1, 0, 90_005)


def test_clocks_that_disagree_make_no_negative_time() -> None:
    assert delivery(sent_at=NOON - timedelta(seconds=1)) == (1, 0, 0)


def test_a_dead_notification_counts_until_it_is_sent_after_all() -> None:
    assert delivery(dead_at=LATER) == (0, 1, 0)
    assert delivery(dead_at=LATER, sent_at=LATER) == (1, 0, 60_000)


def test_a_waiting_notification_adds_nothing() -> None:
    assert notification_contributions(a_notification_row()) == {}


# The tally ---------------------------------------------------------------------------------------------------------


def orders(tally: Tally) -> dict[int, int]:
    """Generation → orders in the hour."""
    return {key[1]: added[0] for key, added in tally.totals.items() if key[0] == "order_buckets" and key[2] == "hour"}


def test_a_new_row_counts_in_every_generation() -> None:
    tally = Tally(ORDERS, [3, 4], {})
    facts = order_facts()
    tally.learn(facts)
    assert orders(tally) == {3: 1, 4: 1}
    assert tally.rows[facts["id"]]["generation"] == 4
    assert tally.rows[facts["id"]]["shipped_at"] is None


def test_what_is_known_changes_nothing() -> None:
    row = an_order_row(generation=3)
    tally = Tally(ORDERS, [3], {row["id"]: row})
    tally.learn({name: row[name] for name in ("id", "confirmed_at", "total", "currency", "lines")})
    assert (tally.rows, tally.totals) == ({}, {})


def test_what_is_known_stays_as_it_is() -> None:
    row = an_order_row()
    tally = Tally(ORDERS, [1], {row["id"]: row})
    tally.learn({"id": row["id"], "confirmed_at": LATER, "cancelled_at": LATER})
    assert tally.rows[row["id"]] == {**row, "cancelled_at": LATER}
    assert tally.totals["order_buckets", 1, *HOUR[1:]] == (0, 1, Decimal("-19.98"))
    assert tally.totals["product_totals", 1, LAPTOP, "EUR"] == (-2, Decimal("-19.98"))


def test_facts_of_one_batch_build_on_one_another() -> None:
    facts = order_facts()
    tally = Tally(ORDERS, [1], {})
    for one in ({"id": facts["id"], "cancelled_at": LATER}, facts, facts):
        tally.learn(one)
    assert tally.totals["order_buckets", 1, *HOUR[1:]] == (1, 1, 0)
    assert len(tally.rows) == 1


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (5, {4: 0, 5: 0}),  # counted in both before
        (4, {4: 0, 5: 1}),  # counted in the live one only: the one that is built does not have it yet
        (3, {4: 1, 5: 1}),  # left behind by an earlier rebuild: counted in neither
    ],
)
def test_a_row_is_taken_back_only_where_it_was_counted(generation: int, expected: dict[int, int]) -> None:
    row = an_order_row(generation=generation)
    tally = Tally(ORDERS, [4, 5], {row["id"]: row})
    tally.learn({"id": row["id"], "shipped_at": LATER})
    assert orders(tally) == expected
    assert tally.rows[row["id"]]["generation"] == 5


def test_the_latest_name_of_a_product_wins() -> None:
    tally = Tally(ORDERS, [1], {})
    for moment, name in ((LATER, "New"), (NOON, "Old")):
        tally.learn(order_facts(confirmed_at=moment, lines=[{**a_line(), "name": name}]))
    assert tally.names() == [ProductName.new(LAPTOP, "New", LATER)]


def test_notifications_have_no_names() -> None:
    tally = Tally(NOTIFICATIONS, [1], {})
    tally.learn({"id": LAPTOP, "channel": "email", "created_at": NOON, "dead_at": NOON})
    assert tally.names() == []
    expected: Totals = {("delivery_totals", 1, bucket_start("day", NOON), "email"): (0, 1, 0)}
    assert tally.totals == expected


# Buckets -----------------------------------------------------------------------------------------------------------


def test_a_bucket_begins_at_its_full_hour_or_midnight() -> None:
    assert bucket_start("hour", NOON) == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert bucket_start("day", NOON) == datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize("interval", ["hour", "day"])
def test_a_bucket_holds_its_own_start(interval: str) -> None:
    start = bucket_start(interval, NOON)
    assert bucket_start(interval, start) == start
    assert bucket_starts(interval, start, start + timedelta(microseconds=1)) == [start]


def test_the_end_is_exclusive() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert bucket_starts("day", start, start + timedelta(days=2)) == [start, start + timedelta(days=1)]
    assert len(bucket_starts("day", start, start + timedelta(days=2, microseconds=1))) == 3
    assert len(bucket_starts("day", NOON, NOON + timedelta(days=1))) == 2


def test_at_most_a_thousand_buckets() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert len(bucket_starts("hour", start, start + timedelta(hours=1000))) == 1000
    with pytest.raises(ValidationFailed) as caught:
        bucket_starts("hour", start, start + timedelta(hours=1000, microseconds=1))
    assert caught.value.errors == [
        {"pointer": "/from", "detail": "At most 1000 buckets can be asked for; these are 1001."}
    ]


@pytest.mark.parametrize("gap", [timedelta(0), timedelta(microseconds=-1), timedelta(days=-3000)])
def test_the_end_is_later_than_the_start(gap: timedelta) -> None:
    with pytest.raises(ValidationFailed):
        bucket_starts("hour", NOON, NOON + gap)


@pytest.mark.parametrize("end", [NOON, datetime(2026, 2, 1, tzinfo=UTC)])
def test_seven_days_are_shown_by_default(end: datetime) -> None:
    starts = bucket_starts("day", default_start(end), end)
    assert (len(starts), starts[-1]) == (7, datetime(2026, 1, 31, tzinfo=UTC))
