"""After long random histories the totals equal a count; and races have one winner."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from libs.common.data.database import Database
from tests.factories import a_user
from tests.integration.lists import walk
from tests.processes import Workers, in_threads, patient
from tests.web import Api, answered
from user_service.app import create_app

ROLES, STATUSES = ("customer", "staff", "admin"), ("active", "suspended")


@pytest.mark.parametrize("seed", range(3))
def test_the_stats_are_what_counting_says(api: Api, seed: int) -> None:
    dice = random.Random(seed)
    ids: list[str] = []
    for _ in range(80):
        action = dice.choice(["create", "create", "put", "patch", "delete", "clash"])
        if action == "create" or not ids:
            ids.append(answered(api.post("/users", a_user(role=dice.choice(ROLES))), 201)["id"])
        elif action == "put":
            api.put(f"/users/{dice.choice(ids)}", a_user(role=dice.choice(ROLES), status=dice.choice(STATUSES)))
        elif action == "patch":
            api.patch(f"/users/{dice.choice(ids)}", {"status": dice.choice([*STATUSES, None])})
        elif action == "delete":
            assert api.delete(f"/users/{ids.pop(dice.randrange(len(ids)))}").status_code == 204
        else:
            taken = answered(api.get(f"/users/{dice.choice(ids)}"))["email"]
            api.post("/users", a_user(email=taken, role=dice.choice(ROLES)))
    users = walk(api, "/users", {})
    assert {user["id"] for user in users} == set(ids)
    assert answered(api.get("/users/stats")) == {
        "total": len(ids),
        "by_role": Counter(user["role"] for user in users),
        "by_status": Counter(user["status"] for user in users),
    }


def register(url: str, body: dict[str, Any], headers: dict[str, str]) -> list[int]:
    app = create_app(patient("user", url))
    statuses = in_threads(3, lambda _: Api(app).post("/users", body, headers=headers).status_code)
    app.extensions["quintet"].db.dispose()
    return statuses


@pytest.mark.parametrize(("headers", "expected"), [({}, [201] + [409] * 8), ({"Idempotency-Key": "k"}, [201] * 9)])
def test_of_many_registrations_of_one_email_one_wins(
    api: Api, db: Database, workers: Workers, headers: dict[str, str], expected: list[int]
) -> None:
    url = db.url.render_as_string(hide_password=False)
    statuses = workers.race(register, *[(url, a_user(email="ada@example.com"), headers)] * 3)
    assert sorted(status for each in statuses for status in each) == expected
    assert answered(api.get("/users/stats"))["total"] == 1


def test_no_change_is_lost_among_many(api: Api, create: Callable[..., Any], db: Database) -> None:
    user = create()

    def change(number: int) -> None:
        for turn in range(5):
            assert api.patch(f"/users/{user['id']}", {"name": f"{number} {turn}"}).status_code == 200

    in_threads(4, change)
    assert answered(api.get(f"/users/{user['id']}"))["version"] == 21
