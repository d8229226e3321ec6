"""What the product service expects of the user service, and of the events of the order service."""

from pact import match

from product_service.clients import FakeUsers, UserClient
from tests.contract.pacts.drafts import Call, Published, an_id, call, event
from tests.contract.pacts.order import A_USER, ORDER, USER
from tests.factories import a_product, a_reservation
from tests.web import Api, answered


@call("product", "user")
def a_seller(call: Call) -> None:
    call.given("a user", status="active").asks("GET", A_USER).answers(200, match.like({}))
    with call.client() as client:
        assert UserClient(client).exists(USER)


@call("product", "user")
def a_seller_whom_nobody_knows(call: Call) -> None:
    call.asks("GET", f"/users/{USER}").answers(404)
    with call.client() as client:
        assert not UserClient(client).exists(USER)


@call("product", "user")
def a_user_service_with_too_much_to_do(call: Call) -> None:
    call.asks("GET", f"/users/{USER}").too_much_to_do(lambda client: UserClient(client).exists(USER))


def check_units(published: Published, state: str, *wanted: int) -> None:
    """Check stock, reserved and sold of a product of which the order has reserved two of five units, after the event."""
    published.given(state).says({"order_id": an_id(ORDER)})
    app = published.services.start("product", users=FakeUsers())
    laptop = answered(Api(app).post("/products", a_product(stock=5)), 201)
    answered(Api(app).post("/reservations", a_reservation((laptop["id"], 2), order_id=ORDER)), 201)
    found = answered(published.to(app).get(f"/products/{laptop['id']}"))
    assert (found["stock"], found["reserved"], found["sold"]) == wanted


@event("product", "order.rejected.v1")
def a_rejected_order_holds_nothing(published: Published) -> None:
    check_units(published, "a rejected order", 5, 0, 0)


@event("product", "order.cancelled.v1")
def a_cancelled_order_holds_nothing(published: Published) -> None:
    check_units(published, "a cancelled order", 5, 0, 0)


@event("product", "order.shipped.v1")
def what_a_shipped_order_holds_is_sold(published: Published) -> None:
    check_units(published, "a shipped order", 3, 0, 2)
