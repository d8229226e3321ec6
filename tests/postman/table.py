"""The requests of the Postman collection and the expected answers: the table that `generate.py` writes out.

`{name}` in a path, and `{{name}}` elsewhere, is a variable of the collection. Each folder makes what it needs, with
values that are new in each run, so each runs alone, and all in any order, on a clean system and on a used one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SERVICES = ("user", "product", "order", "notification", "analytics")


@dataclass(frozen=True)
class Request:
    """One request. `name` is the claim that it tests, and is unique."""

    name: str
    service: str
    method: str
    path: str
    """Below /api/v1, or from the root where it begins with a slash twice."""
    status: int
    body: Any = None
    """JSON; a string is sent as it is."""
    headers: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    """Variable → its value in this run, in which `*` stands for something unique."""
    problem: str = ""
    """The code of the problem document."""
    expect: dict[str, Any] = field(default_factory=dict)
    """Member of the answer, as in `items[0].id` → its value."""
    has: dict[str, str] = field(default_factory=dict)
    """Header of the answer → its value; an empty one stands for any."""
    also: tuple[str, ...] = ()
    """More assertions, in JavaScript; `body` is the answer."""
    keep: dict[str, str] = field(default_factory=dict)
    """Variable → the member of the answer that it gets, or the header, written as `header ETag`."""
    patiently: bool = False
    """Whether it is repeated, for up to ten seconds, until all claims about the answer hold."""


def a_user(variable: str) -> Request:
    return Request(
        f"Set up: a user ({variable})", "user", "POST", "/users", 201,
        fresh={"email": "*@example.com"}, body={"email": "{{email}}", "name": "Ada Lovelace"},
        keep={variable: "id"},
    )  # fmt: skip


def a_product(variable: str) -> Request:
    return Request(
        f"Set up: a product ({variable})", "product", "POST", "/products", 201,
        body={"name": "Laptop", "price": "2499.99", "stock": 25}, keep={variable: "id"},
    )  # fmt: skip


def an_order(variable: str, user: str, product: str) -> Request:
    return Request(
        f"Set up: an order ({variable})", "order", "POST", "/orders", 201,
        body=order_of(user, product), keep={variable: "id"},
    )  # fmt: skip


def order_of(user: str, product: str, quantity: Any = 1) -> dict[str, Any]:
    return {"user_id": f"{{{{{user}}}}}", "items": [{"product_id": f"{{{{{product}}}}}", "quantity": quantity}]}


def refusals(service: str, method: str, path: str, *statuses: int, body: Any = None) -> Iterator[Request]:
    """The refusals that all operations share. `path` names an existing resource, `body` is valid."""
    asked = f"{method} {path.partition('?')[0]}"
    unknown = re.sub(r"\{\w+\}", "{unknown_id}", path)
    possible = {
        400: Request(f"{asked}: malformed JSON", service, method, path, 400, "{", problem="malformed-request"),
        404: Request(f"{asked}: an unknown id", service, method, unknown, 404, body, fresh={"unknown_id": "*"},
                     problem="not-found"),
        412: Request(f"{asked}: a stale version", service, method, path, 412, body, {"If-Match": '"0"'},
                     problem="precondition-failed"),
        415: Request(f"{asked}: text", service, method, path, 415, "text", {"Content-Type": "text/plain"},
                     problem="unsupported-media-type"),
        422: Request(f"{asked}: an unknown member", service, method, path, 422, {**body, "colour": "red"},
                     problem="validation-failed", expect={"errors[0].pointer": "/colour"})
        if body is not None else
        Request(f"{asked}: an unknown parameter", service, method, f"{path}?colour=red", 422,
                problem="validation-failed", expect={"errors[0].pointer": "/colour"}),
    }  # fmt: skip
    yield from (possible[status] for status in statuses)


def lists(service: str, path: str) -> Iterator[Request]:
    """The requests that all lists share; there are at least two items."""
    yield Request(
        f"The first page ({service})", service, "GET", f"{path}?limit=1", 200,
        has={"Link": ""}, also=("pm.expect(body.items).to.have.lengthOf(1);", "pm.expect(body.next_cursor).to.be.a('string');"),
        keep={"cursor": "next_cursor", "first_id": "items[0].id"},
    )  # fmt: skip
    yield Request(
        f"The page after it ({service})", service, "GET", f"{path}?limit=1&cursor={{cursor}}", 200,
        also=("pm.expect(body.items[0].id).to.not.eql(pm.collectionVariables.get('first_id'));",),
    )  # fmt: skip
    yield Request(f"A made-up cursor is refused ({service})", service, "GET", f"{path}?cursor=made-up", 400,
                  problem="malformed-request")  # fmt: skip
    yield Request(f"A limit of 0 is refused ({service})", service, "GET", f"{path}?limit=0", 422,
                  problem="validation-failed", expect={"errors[0].pointer": "/limit"})  # fmt: skip
    yield Request(f"A wrong method is refused ({service})", service, "PATCH", path, 405, {},
                  problem="method-not-allowed")  # fmt: skip


def unchanged(service: str, path: str) -> Iterator[Request]:
    """A resource by its path, and again by somebody who has this version."""
    yield Request(f"GET {path}", service, "GET", path, 200, has={"ETag": ""}, keep={"etag": "header ETag"})
    yield Request(f"GET {path}: who has this version gets no body", service, "GET", path, 304,
                  headers={"If-None-Match": "{{etag}}"}, has={"ETag": "{{etag}}"})  # fmt: skip
    yield from refusals(service, "GET", path, 404, 412, 422)


NEW_USER = {"email": "{{email}}", "name": "Ada Lovelace"}
USER = (
    Request(
        "Register a user", "user", "POST", "/users", 201, NEW_USER, fresh={"email": "*@example.com"},
        expect={"email": "{{email}}", "name": "Ada Lovelace", "role": "customer", "status": "active", "version": 1},
        keep={"user_id": "id"}, has={"ETag": '"1"', "Location": "/api/v1/users/{{user_id}}"},
    ),
    Request("The e-mail is taken, in any case", "user", "POST", "/users", 409,
            {"email": "{{EMAIL}}", "name": "Another"}, problem="email-taken"),
    Request(
        "Register a user with a key", "user", "POST", "/users", 201, {**NEW_USER, "password": "a long password"},
        {"Idempotency-Key": "{{key}}"}, fresh={"email": "*@example.com", "key": "*"}, keep={"other_user_id": "id"},
        also=("pm.expect(body).to.not.have.property('password');",),
    ),
    Request(
        "The same key registers nobody else", "user", "POST", "/users", 201,
        {**NEW_USER, "password": "a long password"}, {"Idempotency-Key": "{{key}}"},
        has={"Idempotent-Replayed": "true"}, expect={"id": "{{other_user_id}}"},
    ),
    Request("The key with another body is refused (user)", "user", "POST", "/users", 422, NEW_USER,
            {"Idempotency-Key": "{{key}}"}, problem="idempotency-key-reused"),
    *refusals("user", "POST", "/users", 400, 415, 422, body=NEW_USER),
    *lists("user", "/users"),
    Request("Find a user by e-mail", "user", "GET", "/users?email={email}&role=customer&status=active", 200,
            expect={"items[0].id": "{{other_user_id}}", "items.length": 1, "next_cursor": None}),
    *unchanged("user", "/users/{user_id}"),
    Request("PUT /users/{user_id}: the e-mail of another", "user", "PUT", "/users/{user_id}", 409, NEW_USER,
            problem="email-taken"),
    Request("PATCH /users/{user_id}: the e-mail of another", "user", "PATCH", "/users/{user_id}", 409,
            {"email": "{{email}}"}, problem="email-taken"),
    *refusals("user", "PUT", "/users/{user_id}", 400, 404, 415, 422, body=NEW_USER),
    *refusals("user", "PATCH", "/users/{user_id}", 400, 404, 412, 415, body={"name": "Ada King"}),
    *refusals("user", "DELETE", "/users/{user_id}", 404, 412, 422),
    Request(
        "Replace a user", "user", "PUT", "/users/{user_id}", 200, {**NEW_USER, "role": "staff"},
        {"If-Match": "{{etag}}"}, fresh={"email": "*@example.com"}, has={"ETag": '"2"'},
        expect={"email": "{{email}}", "role": "staff", "version": 2},
    ),
    Request("A stale replacement is refused (user)", "user", "PUT", "/users/{user_id}", 412, NEW_USER,
            {"If-Match": "{{etag}}"}, problem="precondition-failed", has={"ETag": '"2"'}),
    Request("Change a user", "user", "PATCH", "/users/{user_id}", 200, {"status": "suspended"},
            expect={"status": "suspended", "role": "staff", "version": 3}),
    Request("The id of a user stays", "user", "PATCH", "/users/{user_id}", 422, {"id": "{{other_user_id}}"},
            problem="validation-failed", expect={"errors[0].pointer": "/id"}),
    Request("Count users", "user", "GET", "/users/stats", 200,
            also=("pm.expect(body.total).to.be.at.least(2);", "pm.expect(body.by_status.suspended).to.be.at.least(1);")),
    *refusals("user", "GET", "/users/stats", 422),
    Request("Delete a user", "user", "DELETE", "/users/{user_id}", 204),
    Request("A deleted user is not found", "user", "GET", "/users/{user_id}", 404, problem="not-found"),
    Request("The e-mail of a deleted user is free", "user", "POST", "/users", 201, NEW_USER),
)  # fmt: skip

NEW_PRODUCT = {"name": "Laptop {{word}}", "price": "2499.99", "stock": 25, "sku": "{{sku}}", "category": "computers"}
RESERVATION = {"order_id": "{{reserved_for}}", "items": [{"product_id": "{{product_id}}", "quantity": 5}]}
PRODUCT = (
    Request(
        "Put a product on sale", "product", "POST", "/products", 201, NEW_PRODUCT, fresh={"sku": "*", "word": "*"},
        expect={"price": "2499.99", "currency": "EUR", "stock": 25, "reserved": 0, "sold": 0, "version": 1},
        keep={"product_id": "id"}, has={"ETag": '"1"', "Location": "/api/v1/products/{{product_id}}"},
    ),
    Request("The SKU is taken", "product", "POST", "/products", 409, NEW_PRODUCT, problem="sku-taken"),
    a_product("other_product_id"),
    *refusals("product", "POST", "/products", 400, 415, 422, body={"name": "Laptop", "price": "1.00"}),
    Request("A price has the digits of its currency", "product", "POST", "/products", 422,
            {"name": "Laptop", "price": "1.005"}, problem="validation-failed", expect={"errors[0].pointer": "/price"}),
    Request("A seller must be known", "product", "POST", "/products", 422,
            {"name": "Laptop", "price": "1.00", "seller_id": "{{unknown_id}}"}, fresh={"unknown_id": "*"},
            problem="unknown-user"),
    *lists("product", "/products"),
    Request("Find a product by its words", "product", "GET", "/products?q={word}", 200,
            expect={"items[0].id": "{{product_id}}", "items.length": 1}),
    Request(
        "Find products by several filters", "product", "GET",
        "/products?ids={product_id}&category=computers&min_price=2000&max_price=3000&in_stock=true&sort=-price", 200,
        expect={"items[0].id": "{{product_id}}", "items.length": 1},
    ),
    *unchanged("product", "/products/{product_id}"),
    Request("PUT /products/{other_product_id}: the SKU of another", "product", "PUT", "/products/{other_product_id}", 409,
            {"name": "Laptop", "price": "1.00", "sku": "{{sku}}"}, problem="sku-taken"),
    Request("PATCH /products/{other_product_id}: the SKU of another", "product", "PATCH", "/products/{other_product_id}",
            409, {"sku": "{{sku}}"}, problem="sku-taken"),
    *refusals("product", "PUT", "/products/{product_id}", 400, 404, 415, 422, body={"name": "Laptop", "price": "1.00"}),
    *refusals("product", "PATCH", "/products/{product_id}", 400, 404, 412, 415, body={"price": "1.00"}),
    *refusals("product", "DELETE", "/products/{product_id}", 404, 412, 422),
    Request(
        "Replace a product", "product", "PUT", "/products/{product_id}", 200, {"name": "Notebook", "price": 1999},
        {"If-Match": "{{etag}}"}, expect={"name": "Notebook", "price": "1999.00", "sku": None, "stock": 25},
        has={"ETag": '"2"'},
    ),
    Request("A stale replacement is refused (product)", "product", "PUT", "/products/{product_id}", 412,
            {"name": "Notebook", "price": 1999}, {"If-Match": "{{etag}}"}, problem="precondition-failed"),
    Request("Change a product", "product", "PATCH", "/products/{product_id}", 200, {"price": "1899.00"},
            {"Content-Type": "application/merge-patch+json"}, expect={"name": "Notebook", "price": "1899.00"}),
    Request("Stock does not change by PATCH", "product", "PATCH", "/products/{product_id}", 422, {"stock": 99},
            problem="validation-failed", expect={"errors[0].pointer": "/stock"}),
    Request("Put units in", "product", "POST", "/products/{product_id}/stock", 200,
            {"delta": 5, "reason": "delivery"}, {"Idempotency-Key": "{{key}}"}, fresh={"key": "*"}, expect={"stock": 30}),
    Request("Put them in only once", "product", "POST", "/products/{product_id}/stock", 200,
            {"delta": 5, "reason": "delivery"}, {"Idempotency-Key": "{{key}}"}, expect={"stock": 30},
            has={"Idempotent-Replayed": "true"}),
    Request("Stock never falls below zero", "product", "POST", "/products/{product_id}/stock", 409,
            {"delta": -31, "reason": "theft"}, problem="insufficient-stock"),
    *refusals("product", "POST", "/products/{product_id}/stock", 400, 404, 412, 415, 422,
              body={"delta": 1, "reason": "found"}),
    Request(
        "Reserve units", "product", "POST", "/reservations", 201, RESERVATION, fresh={"reserved_for": "*"},
        expect={"status": "reserved", "items[0].unit_price": "1899.00", "items[0].quantity": 5},
        has={"Location": "/api/v1/reservations/{{reserved_for}}"},
    ),
    Request("Reserve them only once", "product", "POST", "/reservations", 201, RESERVATION,
            expect={"status": "reserved", "items[0].quantity": 5}),
    Request("The units are set aside", "product", "GET", "/products/{product_id}", 200,
            expect={"stock": 25, "reserved": 5, "sold": 0}),
    Request("See what is reserved", "product", "GET", "/reservations/{reserved_for}", 200,
            expect={"order_id": "{{reserved_for}}", "status": "reserved"}, has={"ETag": '"1"'}),
    *unchanged("product", "/reservations/{reserved_for}"),
    Request(
        "Reserve for several orders, each judged on its own", "product", "POST", "/reservations/batch", 200,
        {"reservations": [
            {"order_id": "{{small_order}}", "items": [{"product_id": "{{product_id}}", "quantity": 1}]},
            {"order_id": "{{large_order}}", "items": [{"product_id": "{{product_id}}", "quantity": 9999}]},
        ]},
        fresh={"small_order": "*", "large_order": "*"},
        expect={"outcomes[0].status": 201, "outcomes[1].status": 409, "outcomes[1].body.code": "insufficient-stock",
                "outcomes[1].body.errors[0].available": 24},
    ),
    Request("More than there is cannot be reserved", "product", "POST", "/reservations", 409,
            {"order_id": "{{unknown_id}}", "items": [{"product_id": "{{product_id}}", "quantity": 25}]},
            problem="insufficient-stock", expect={"errors[0].available": 24}),
    Request("What does not exist cannot be reserved", "product", "POST", "/reservations", 422,
            {"order_id": "{{unknown_id}}", "items": [{"product_id": "{{unknown_id}}", "quantity": 1}]},
            problem="unknown-product"),
    *refusals("product", "POST", "/reservations", 400, 415, 422, body=RESERVATION),
    *refusals("product", "POST", "/reservations/batch", 400, 415, 422, body={"reservations": [RESERVATION]}),
    *refusals("product", "DELETE", "/reservations/{reserved_for}", 412, 422),
    Request("A reservation is named by a UUID", "product", "DELETE", "/reservations/{no_uuid}", 404,
            fresh={"no_uuid": "not-*"}, problem="not-found"),
    Request("A product with reservations stays", "product", "DELETE", "/products/{product_id}", 409,
            problem="product-in-use"),
    Request("Release what is reserved", "product", "DELETE", "/reservations/{reserved_for}", 204),
    Request("Release it again", "product", "DELETE", "/reservations/{reserved_for}", 204),
    Request("Release the small order, too", "product", "DELETE", "/reservations/{small_order}", 204),
    Request("A reserve that comes late is refused", "product", "POST", "/reservations", 409, RESERVATION,
            problem="invalid-transition"),
    Request("All units are back", "product", "GET", "/products/{product_id}", 200,
            expect={"stock": 30, "reserved": 0, "sold": 0}),
    Request("Count products", "product", "GET", "/products/stats", 200,
            also=("pm.expect(body.total).to.be.at.least(2);", "pm.expect(body.stock_units).to.be.at.least(30);")),
    *refusals("product", "GET", "/products/stats", 422),
    Request("Take a product off sale", "product", "DELETE", "/products/{product_id}", 204),
    Request("What is off sale is not found", "product", "GET", "/products/{product_id}", 404, problem="not-found"),
)  # fmt: skip

ORDER = (
    a_user("buyer_id"),
    a_product("laptop_id"),
    Request(
        "Place an order", "order", "POST", "/orders", 201, {**order_of("buyer_id", "laptop_id", 2), "note": "Ring twice."},
        {"Idempotency-Key": "{{key}}"}, fresh={"key": "*"}, keep={"order_id": "id", "etag": "header ETag"},
        expect={"status": "confirmed", "total": "4999.98", "currency": "EUR", "items[0].unit_price": "2499.99",
                "items[0].line_total": "4999.98", "note": "Ring twice.", "rejection": None},
        has={"ETag": "", "Location": "/api/v1/orders/{{order_id}}"},
    ),
    Request(
        "The same key places no other order", "order", "POST", "/orders", 201,
        {**order_of("buyer_id", "laptop_id", 2), "note": "Ring twice."}, {"Idempotency-Key": "{{key}}"},
        expect={"id": "{{order_id}}", "status": "confirmed"}, has={"Idempotent-Replayed": "true"},
    ),
    Request("The key with another body is refused (order)", "order", "POST", "/orders", 422,
            order_of("buyer_id", "laptop_id", 3), {"Idempotency-Key": "{{key}}"}, problem="idempotency-key-reused"),
    Request("The units are reserved", "product", "GET", "/products/{laptop_id}", 200,
            expect={"stock": 23, "reserved": 2, "sold": 0}),
    Request(
        "Too large an order is rejected", "order", "POST", "/orders", 409, order_of("buyer_id", "laptop_id", 24),
        problem="insufficient-stock", expect={"errors[0].pointer": "/items/0/quantity", "errors[0].available": 23},
    ),
    Request("Too large an order with a key is rejected", "order", "POST", "/orders", 409,
            order_of("buyer_id", "laptop_id", 24), {"Idempotency-Key": "{{key}}"}, fresh={"key": "*"},
            problem="insufficient-stock"),
    Request("The same key is told the same", "order", "POST", "/orders", 409, order_of("buyer_id", "laptop_id", 24),
            {"Idempotency-Key": "{{key}}"}, has={"Idempotent-Replayed": "true"}, problem="insufficient-stock"),
    Request("An unknown user cannot order", "order", "POST", "/orders", 422, order_of("unknown_id", "laptop_id"),
            fresh={"unknown_id": "*"}, problem="unknown-user"),
    Request("An unknown product cannot be ordered", "order", "POST", "/orders", 422,
            order_of("buyer_id", "unknown_id"), problem="unknown-product"),
    Request("A quantity of 0 is refused", "order", "POST", "/orders", 422, order_of("buyer_id", "laptop_id", 0),
            problem="validation-failed", expect={"errors[0].pointer": "/items/0/quantity"}),
    *refusals("order", "POST", "/orders", 400, 415, 422, body=order_of("buyer_id", "laptop_id")),
    *lists("order", "/orders"),
    Request("The orders of a user", "order", "GET", "/orders?user_id={buyer_id}&sort=created_at", 200,
            expect={"items.length": 4, "items[0].id": "{{order_id}}", "items[1].status": "rejected",
                    "items[1].rejection.code": "insufficient-stock", "items[3].rejection.code": "unknown-product"}),
    Request("The confirmed orders of a user since 2026", "order", "GET",
            "/orders?user_id={buyer_id}&status=confirmed&created_from=2026-01-01T00:00:00Z&sort=-total", 200,
            expect={"items.length": 1}),
    *unchanged("order", "/orders/{order_id}"),
    *refusals("order", "POST", "/orders/{order_id}/ship", 404, 412, 422),
    *refusals("order", "POST", "/orders/{order_id}/deliver", 404, 412, 422),
    *refusals("order", "POST", "/orders/{order_id}/cancel", 400, 404, 412, 415, 422, body={"reason": "Too late."}),
    Request("Ship an order", "order", "POST", "/orders/{order_id}/ship", 200, headers={"If-Match": "{{etag}}"},
            expect={"status": "shipped"}, also=("pm.expect(body.shipped_at).to.match(/Z$/);",)),
    Request("Ship it again", "order", "POST", "/orders/{order_id}/ship", 200, expect={"status": "shipped"}),
    Request("Deliver an order", "order", "POST", "/orders/{order_id}/deliver", 200, expect={"status": "delivered"}),
    Request("What is delivered cannot be cancelled", "order", "POST", "/orders/{order_id}/cancel", 409,
            problem="invalid-transition"),
    Request("The history of an order", "order", "GET", "/orders/{order_id}/history", 200,
            expect={"items.length": 4, "items[0].status": "pending", "items[1].status": "confirmed",
                    "items[2].status": "shipped", "items[3].status": "delivered"}),
    *refusals("order", "GET", "/orders/{order_id}/history", 404, 422),
    Request("The units are sold", "product", "GET", "/products/{laptop_id}", 200, patiently=True,
            expect={"stock": 23, "reserved": 0, "sold": 2}),
    an_order("second_order_id", "buyer_id", "laptop_id"),
    Request("What is not shipped cannot be delivered", "order", "POST", "/orders/{second_order_id}/deliver", 409,
            problem="invalid-transition"),
    Request("Cancel an order", "order", "POST", "/orders/{second_order_id}/cancel", 200, {"reason": "Too late."},
            expect={"status": "cancelled"}),
    Request("What is cancelled cannot be shipped", "order", "POST", "/orders/{second_order_id}/ship", 409,
            problem="invalid-transition"),
    Request("The units of a cancelled order are back", "product", "GET", "/products/{laptop_id}", 200, patiently=True,
            expect={"stock": 23, "reserved": 0, "sold": 2}),
    Request("The reason of a cancellation", "order", "GET", "/orders/{second_order_id}/history", 200,
            expect={"items[2].status": "cancelled", "items[2].reason": "Too late."}),
    Request("Count orders", "order", "GET", "/orders/stats", 200,
            also=("pm.expect(body.total).to.be.at.least(2);", "pm.expect(body.by_status.delivered).to.be.at.least(1);",
                  "pm.expect(body.revenue.find((sum) => sum.currency === 'EUR').amount).to.match(/^[0-9]+[.][0-9]{2}$/);")),
    *refusals("order", "GET", "/orders/stats", 422),
)  # fmt: skip

NEW_NOTIFICATION = {"recipient": "{{email}}", "subject": "Hello", "body": "Your parcel is on its way."}
NOTIFICATION = (
    a_user("reader_id"),
    a_product("gift_id"),
    an_order("gift_order_id", "reader_id", "gift_id"),
    Request(
        "The confirmation of an order is sent", "notification", "GET", "/notifications?order_id={gift_order_id}", 200,
        patiently=True, expect={"items.length": 1, "items[0].status": "sent", "items[0].user_id": "{{reader_id}}",
                                "items[0].channel": "email", "items[0].template": "order_confirmed"},
        keep={"confirmation_id": "items[0].id"}, also=("pm.expect(body.items[0].body).to.include('2499.99 EUR');",),
    ),
    Request(
        "Send a message", "notification", "POST", "/notifications/send", 201, NEW_NOTIFICATION,
        {"Idempotency-Key": "{{key}}"}, fresh={"email": "*@example.com", "key": "*"},
        expect={"status": "queued", "channel": "email", "attempts": 0, "read_at": None},
        keep={"notification_id": "id"}, has={"Location": "/api/v1/notifications/{{notification_id}}"},
    ),
    Request("The same key sends no other message", "notification", "POST", "/notifications/send", 201, NEW_NOTIFICATION,
            {"Idempotency-Key": "{{key}}"}, has={"Idempotent-Replayed": "true"}, expect={"id": "{{notification_id}}"}),
    Request("The message is sent", "notification", "GET", "/notifications/{notification_id}", 200, patiently=True,
            expect={"status": "sent", "attempts": 1, "last_error": None}),
    Request(
        "Send a template to a user", "notification", "POST", "/notifications/send", 201,
        {"user_id": "{{reader_id}}", "channel": "log", "template": "order_confirmed", "data": {
            "order_id": "{{gift_order_id}}", "confirmed_at": "2026-01-31T12:00:00Z", "total": "1.00", "currency": "EUR",
            "items": [{"name": "Pen", "quantity": 1, "unit_price": "1.00", "line_total": "1.00"}]}},
        also=("pm.expect(body.body).to.include('1 x Pen');",),
    ),
    Request("A template needs its data", "notification", "POST", "/notifications/send", 422,
            {"user_id": "{{reader_id}}", "template": "order_confirmed"}, problem="validation-failed",
            expect={"errors[0].pointer": "/data"}),
    Request("A message needs somebody to read it", "notification", "POST", "/notifications/send", 422, {"body": "x"},
            problem="validation-failed", expect={"errors[0].pointer": "/recipient"}),
    *refusals("notification", "POST", "/notifications/send", 400, 415, 422, body=NEW_NOTIFICATION),
    *lists("notification", "/notifications"),
    Request("What a user has not read", "notification", "GET",
            "/notifications?user_id={reader_id}&unread=true&channel=email&status=sent", 200,
            expect={"items.length": 1, "items[0].id": "{{confirmation_id}}"}),
    *unchanged("notification", "/notifications/{confirmation_id}"),
    Request("Mark it as read", "notification", "PATCH", "/notifications/{confirmation_id}", 200, {"read": True},
            {"If-Match": "{{etag}}"}, also=("pm.expect(body.read_at).to.match(/Z$/);",)),
    Request("Who has not seen this version cannot mark it", "notification", "PATCH", "/notifications/{confirmation_id}",
            412, {"read": False}, {"If-Match": "{{etag}}"}, problem="precondition-failed"),
    Request("Only true or false is read", "notification", "PATCH", "/notifications/{confirmation_id}", 422,
            {"read": "yes"}, problem="validation-failed", expect={"errors[0].pointer": "/read"}),
    *refusals("notification", "PATCH", "/notifications/{confirmation_id}", 400, 404, 415, body={"read": True}),
    *refusals("notification", "DELETE", "/notifications/{notification_id}", 404, 412, 422),
    *refusals("notification", "POST", "/notifications/{notification_id}/retry", 404, 412, 422),
    Request("What is sent is not sent again", "notification", "POST", "/notifications/{notification_id}/retry", 409,
            problem="invalid-transition"),
    Request(
        "Send a message to nobody", "notification", "POST", "/notifications/send", 201,
        {"user_id": "{{nobody_id}}", "subject": "Hello", "body": "Is anybody there?"}, fresh={"nobody_id": "*"},
        expect={"status": "queued", "user_id": "{{nobody_id}}", "body": "Is anybody there?"}, keep={"lost_id": "id"},
    ),
    Request("The message to nobody is dead, and erased", "notification", "GET", "/notifications/{lost_id}", 200,
            patiently=True, has={"ETag": '"2"'},
            expect={"status": "dead", "attempts": 0, "last_error": "There is no such user.", "subject": None,
                    "body": None, "sent_at": None, "version": 2}),
    Request("What is erased is not sent again", "notification", "POST", "/notifications/{lost_id}/retry", 409,
            headers={"If-Match": '"2"'}, problem="invalid-transition",
            expect={"detail": "What it said was erased with its user."}),
    Request("Count notifications", "notification", "GET", "/notifications/stats", 200,
            also=("pm.expect(body.total).to.be.at.least(3);", "pm.expect(body.by_status.sent).to.be.at.least(2);")),
    *refusals("notification", "GET", "/notifications/stats", 422),
    Request("Delete a notification", "notification", "DELETE", "/notifications/{notification_id}", 204),
    Request("A deleted notification is not found", "notification", "GET", "/notifications/{notification_id}", 404,
            problem="not-found"),
)  # fmt: skip

ANALYTICS = (
    a_user("customer_id"),
    a_product("bestseller_id"),
    an_order("counted_order_id", "customer_id", "bestseller_id"),
    Request("The figures of all services", "analytics", "GET", "/analytics/summary", 200,
            expect={"degraded": False, "users.state": "live", "products.state": "live", "orders.state": "live",
                    "notifications.state": "live"},
            also=("pm.expect(body.orders.total).to.be.at.least(1);",
                  "pm.expect(body.products.stock_units).to.be.at.least(24);")),
    Request("The health of all services", "analytics", "GET", "/analytics/services", 200, expect={"degraded": False},
            also=("pm.expect(body.services.map((each) => each.status)).to.not.include('unavailable');",)),
    Request("Orders by day", "analytics", "GET", "/analytics/orders/timeseries", 200, expect={"interval": "day"},
            patiently=True, also=("pm.expect(body.items.length).to.be.within(7, 8);",
                                  "pm.expect(body.items.at(-1).orders).to.be.at.least(1);")),
    Request("Orders by hour", "analytics", "GET",
            "/analytics/orders/timeseries?from=2026-01-01T00:00:00Z&to=2026-01-01T06:00:00Z&interval=hour", 200,
            expect={"items.length": 6, "items[0].start": "2026-01-01T00:00:00.000000Z"}),
    Request("There are no orders by the year", "analytics", "GET", "/analytics/orders/timeseries?interval=year", 422,
            problem="validation-failed", expect={"errors[0].pointer": "/interval"}),
    Request("The best sellers by units", "analytics", "GET", "/analytics/products/top?limit=3", 200,
            patiently=True, also=("pm.expect(body.items.length).to.be.within(1, 3);",)),
    Request("The best sellers by revenue", "analytics", "GET", "/analytics/products/top?by=revenue&currency=EUR", 200,
            patiently=True, also=("pm.expect([...new Set(body.items.map((each) => each.currency))]).to.eql(['EUR']);",)),
    Request("Best sellers by colour are refused", "analytics", "GET", "/analytics/products/top?by=colour", 422,
            problem="validation-failed", expect={"errors[0].pointer": "/by"}),
    Request("How notifications arrive", "analytics", "GET", "/analytics/notifications/delivery", 200,
            patiently=True, also=("pm.expect(body.by_channel.email.sent).to.be.at.least(1);",
                                  "pm.expect(body.delivery_rate).to.be.within(0, 1);")),
    *refusals("analytics", "GET", "/analytics/summary", 422),
    *refusals("analytics", "GET", "/analytics/services", 422),
    *refusals("analytics", "GET", "/analytics/notifications/delivery", 422),
    Request("A page for people", "analytics", "GET", "//", 200, has={"Content-Type": "text/html; charset=utf-8"}),
    Request("A wrong method is refused (analytics)", "analytics", "POST", "/analytics/summary", 405, {},
            problem="method-not-allowed"),
)  # fmt: skip


def every_service() -> Iterator[Request]:
    for service in SERVICES:
        yield Request(f"{service}: health", service, "GET", "//health", 200,
                      expect={"status": "healthy", "service": service, "checks.database.status": "healthy"})  # fmt: skip
        yield Request(f"{service}: alive", service, "GET", "//livez", 200, expect={"status": "healthy"})
        yield Request(f"{service}: ready", service, "GET", "//readyz", 200, expect={"status": "healthy"})
        yield Request(f"{service}: metrics", service, "GET", "//metrics", 200,
                      also=("pm.expect(pm.response.text()).to.include('http_requests_total');",))  # fmt: skip
        yield Request(
            f"{service}: OpenAPI document", service, "GET", "//openapi.json", 200, expect={"openapi": "3.1.0"}
        )
        yield Request(f"{service}: Swagger UI", service, "GET", "//docs/", 200,
                      also=("pm.expect(pm.response.text()).to.include('SwaggerUIBundle');",))  # fmt: skip
        yield Request(f"{service}: what an error means", service, "GET", "//errors/not-found", 200,
                      also=("pm.expect(pm.response.text()).to.include('not-found');",))  # fmt: skip
        yield Request(f"{service}: unknown path", service, "GET", "/nothing", 404, headers={"X-Request-ID": "{{name}}"},
                      fresh={"name": "of.a-caller_*"}, problem="not-found", expect={"request_id": "{{name}}"})  # fmt: skip


FOLDERS: dict[str, tuple[Request, ...]] = {
    "user service": USER,
    "product service": PRODUCT,
    "order service": ORDER,
    "notification service": NOTIFICATION,
    "analytics service": ANALYTICS,
    "every service": tuple(every_service()),
}
