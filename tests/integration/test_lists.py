"""No list is forgotten: each that is documented is compared with an oracle."""

import json

from tests.integration.lists import DOCUMENTS, documented

COMPARED = {
    "/users": "user_service/test_users.py",
    "/products": "product_service/test_products.py",
    "/orders": "order_service/test_lists.py",
    "/notifications": "notification_service/test_api.py",
}


def test_every_list_is_compared_with_a_plain_look_at_all_items() -> None:
    lists = {
        path
        for file in DOCUMENTS.glob("*.json")
        for path, methods in json.loads(file.read_text())["paths"].items()
        if "get" in methods and "cursor" in documented(file.stem, path)
    }
    assert lists == COMPARED.keys()
