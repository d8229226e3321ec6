"""The checker of stock detects what it should: all the other tests here rely on it."""

from dataclasses import replace

import pytest

from tests.chaos.history import History, Intent, Sight
from tests.chaos.stock import contradictions

SEEN = Sight("p", began=10.0, ended=11.0, stock=38, reserved=2, sold=0, version=3)


@pytest.fixture
def history() -> History:
    """40 units in stock; 2 ordered before 5, 3 more ordered from 10.5 on; 5 more added at some time from 9 to 12."""
    made = History()
    made.intents = [
        Intent("", "launch", {"stock": 40}, 0.0, [(201, {"id": "p"})], 1.0),
        an_order("o-1", 2, 2.0, 5.0),
        an_order("o-2", 3, 10.5, 12.0),
        Intent("", "restock", {"product_id": "p", "delta": 5}, 9.0, [(200, {})], 12.0),
    ]
    return made


def an_order(order_id: str, quantity: int, began: float, ended: float) -> Intent:
    body = {"user_id": "u", "items": [{"product_id": "p", "quantity": quantity}]}
    return Intent("", "order", body, began, [(201, {"id": order_id})], ended)


@pytest.mark.parametrize(
    "seen",
    [
        SEEN,
        replace(SEEN, stock=35, reserved=5),
        replace(SEEN, stock=43),
        replace(SEEN, stock=40, reserved=0, began=1.5, ended=2.5),
    ],
)
def test_what_may_be_is_believed(history: History, seen: Sight) -> None:
    history.see(seen)
    assert list(contradictions(history)) == []


@pytest.mark.parametrize(
    "seen",
    [
        replace(SEEN, stock=39, began=7.0, ended=8.0),
        replace(SEEN, stock=37),
        replace(SEEN, stock=44),
        replace(SEEN, stock=40, reserved=0),
        replace(SEEN, stock=-1, reserved=41),
        replace(SEEN, began=13.0, ended=14.0),
    ],
    ids=["a unit too many", "one is lost", "more than was put in", "an order forgotten", "oversold", "not yet put in"],
)
def test_what_cannot_be_is_told(history: History, seen: Sight) -> None:
    history.see(seen)
    assert list(contradictions(history))


def test_a_version_does_not_go_back(history: History) -> None:
    history.see(SEEN)
    history.see(replace(SEEN, began=11.5, ended=12.5, version=2))
    assert "after version 3" in next(contradictions(history))


def test_a_cancelled_order_may_have_given_its_units_back(history: History) -> None:
    history.intents.append(Intent("", "cancel", {"order_id": "o-1"}, 10.2))
    history.see(replace(SEEN, stock=40, reserved=0))
    assert list(contradictions(history)) == []
