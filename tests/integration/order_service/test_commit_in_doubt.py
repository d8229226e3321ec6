"""The connection breaks at COMMIT: only the row shows whether the transaction was committed."""

import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.integration.order_service.shop import Shop
from tests.web import answered, refused

T1, T2 = 1, 2
"""Which commit of a request breaks."""


@pytest.fixture
def break_commit(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`break_commit(2, happened=True)`: the second COMMIT from now on succeeds, but its answer is lost."""
    dialect = shop.db.engine.dialect
    commit = dialect.do_commit

    def prepare(which: int, *, happened: bool) -> None:
        left = [which]

        def broken(connection: Any) -> None:
            left[0] -= 1
            if left[0] or happened:
                commit(connection)
            if not left[0] and shop.db.is_sqlite:
                raise sqlite3.OperationalError("disk I/O error")
            if not left[0]:
                connection.driver_connection.close()
                raise psycopg.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(dialect, "do_commit", broken)

    shop.know()
    return prepare


def one_order(shop: Shop) -> dict[str, Any]:
    (row,) = shop.rows()
    return row


@pytest.mark.parametrize("which", [T1, T2])
def test_a_commit_that_happened_is_found_and_the_order_goes_on(
    shop: Shop, break_commit: Callable[..., None], which: int
) -> None:
    break_commit(which, happened=True)

    answer = shop.place(key="k")

    order = answered(answer, 201)
    assert order == shop.get(order["id"])
    assert one_order(shop)["status"] == "confirmed"
    assert shop.products.stock[shop.product_id] == 98
    assert len(shop.events()) == 1
    again = shop.place_again(shop.body(), "k")
    assert (again.data, again.headers["Idempotent-Replayed"]) == (answer.data, "true")


def test_a_first_commit_that_did_not_happen_promises_nothing_and_leaves_nothing(
    shop: Shop, break_commit: Callable[..., None]
) -> None:
    break_commit(T1, happened=False)

    answer = shop.place(key="k")

    refused(answer, 503, "dependency-unavailable")
    assert shop.nothing_happened()
    answered(shop.place(key="k"), 201)


def test_a_second_commit_that_did_not_happen_promises_nothing_and_leaves_the_order_to_the_next(
    shop: Shop, break_commit: Callable[..., None]
) -> None:
    break_commit(T2, happened=False)

    refused(shop.place(key="k"), 503, "dependency-unavailable")

    row = one_order(shop)
    assert row["status"] == "pending"
    assert shop.events() == []
    refused(shop.place(key="k"), 409, "request-in-flight")
    shop.abandon(row["id"])
    assert answered(shop.place(key="k"), 201)["id"] == row["id"]
    assert shop.products.stock[shop.product_id] == 98


def test_an_order_whose_second_commit_did_not_happen_is_found_by_recovery(
    shop: Shop, break_commit: Callable[..., None]
) -> None:
    break_commit(T2, happened=False)
    refused(shop.place(), 503, "dependency-unavailable")

    shop.abandon(one_order(shop)["id"])
    shop.recover()

    assert one_order(shop)["status"] == "rejected"
    assert [event["type"] for event in shop.events()] == ["order.rejected.v1"]


def test_a_rejection_whose_commit_happened_is_answered(shop: Shop, break_commit: Callable[..., None]) -> None:
    break_commit(T2, happened=True)

    refused(shop.place(shop.body((shop.product_id, 101)), key="k"), 409, "insufficient-stock")

    assert one_order(shop)["status"] == "rejected"
    assert len(shop.events()) == 1


def test_a_replay_whose_commit_is_in_doubt_is_not_told_that_there_is_no_order(
    shop: Shop, break_commit: Callable[..., None]
) -> None:
    """It wrote nothing, so there is no row with its id."""
    first = shop.place(key="k")
    break_commit(T1, happened=True)

    refused(shop.place(key="k"), 503, "dependency-unavailable")

    assert shop.place_again(shop.body(), "k").data == first.data


@pytest.mark.parametrize("happened", [True, False])
def test_a_user_whose_storing_is_in_doubt_can_order_by_trying_again(
    shop: Shop, break_commit: Callable[..., None], happened: bool
) -> None:
    body = shop.body(user_id=shop.a_user())
    break_commit(2, happened=happened)  # the first did not find the user

    refused(shop.place(body, key="k"), 503, "dependency-unavailable")

    assert shop.rows() == []
    answered(shop.place(body, key="k"), 201)


@pytest.mark.parametrize("happened", [True, False])
def test_a_later_step_whose_commit_is_in_doubt_can_be_taken_again(
    shop: Shop, break_commit: Callable[..., None], happened: bool
) -> None:
    order_id = shop.order()["id"]
    break_commit(1, happened=happened)

    refused(shop.api.post(f"/orders/{order_id}/ship", None), 503, "dependency-unavailable")

    assert answered(shop.api.post(f"/orders/{order_id}/ship", None))["status"] == "shipped"
    assert len(shop.events("order.shipped.v1")) == 1
