"""Completeness: every documented list is compared with an oracle."""

from libs.topology import SERVICES
from tests.integration.lists import documented
from tests.openapi import read

COMPARED = {
    "/users": "user_service/test_users.py",
    "/products": "product_service/test_products.py",
    "/orders": "order_service/test_lists.py",
    "/notifications": "notification_service/test_api.py",
}


def test_every_list_is_compared_with_a_plain_look_at_all_items() -> None:
    lists = {
        path
        for service in SERVICES
        for path, methods in read(service)["paths"].items()
        if "get" in methods and "cursor" in documented(service, path)
    }
    assert lists == COMPARED.keys()
