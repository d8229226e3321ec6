"""Completeness: every operation with a body has its members read back."""

from libs.topology import SERVICES
from tests.openapi import read

READ_BACK = {
    "user_service/test_round_trips.py": ["post /users", "put /users/{user_id}", "patch /users/{user_id}"],
    "product_service/test_round_trips.py": [
        "post /products", "put /products/{product_id}", "patch /products/{product_id}",
        "post /products/{product_id}/stock", "post /reservations", "post /reservations/batch",
    ],
    "order_service/test_round_trips.py": ["post /orders", "post /orders/{order_id}/cancel"],
    "notification_service/test_round_trips.py": [
        "post /notifications/send", "patch /notifications/{notification_id}",
    ],
}  # fmt: skip


def test_every_body_is_read_back() -> None:
    taken = {
        f"{method} {path}"
        for service in SERVICES
        for path, methods in read(service)["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    assert taken == {operation for operations in READ_BACK.values() for operation in operations}
