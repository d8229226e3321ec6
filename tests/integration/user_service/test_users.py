import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from libs.common import logs
from libs.common.data.database import Database
from libs.common.data.idempotency import keys
from libs.common.events.outbox import outbox
from tests.factories import a_user
from tests.integration.contents import contents
from tests.integration.lists import Filter, Sorts, come_and_go, compare, compare_while_changing, tie, walk
from tests.web import Api, answered, refused
from user_service import repository
from user_service.models import User, users

Create = Callable[..., dict[str, Any]]
PASSWORD = "correct horse battery"
UNKNOWN = "01a20598-7494-7095-a5b5-38cc38be70f6"
READ_ONLY = {"id": UNKNOWN, "created_at": "2026-01-31T12:00:00Z", "updated_at": "2026-01-31T12:00:00Z", "version": 1}


def row(db: Database, user_id: str) -> Any:
    with db.read() as connection:
        return connection.execute(sa.select(users).where(users.c.id == user_id)).mappings().one()


def published(db: Database) -> list[dict[str, Any]]:
    """The events for the order service, oldest first."""
    with db.read() as connection:
        mine = sa.select(outbox.c.body).where(outbox.c.subscriber == "order").order_by(outbox.c.seq)
        return [orjson.loads(body) for body in connection.scalars(mine)]


# Create ------------------------------------------------------------------------------------------------------------


def test_a_new_user_is_answered_whole_with_where_it_is(api: Api) -> None:
    answer = api.post("/users", {"email": "Ada@Example.com", "name": "Ada"})
    user = answered(answer, 201)
    assert {name: user[name] for name in ("email", "name", "role", "status", "version")} == {
        "email": "Ada@Example.com",
        "name": "Ada",
        "role": "customer",
        "status": "active",
        "version": 1,
    }
    assert set(user) == {"id", "email", "name", "role", "status", "created_at", "updated_at", "version"}
    assert user["created_at"] == user["updated_at"]
    assert user["created_at"].endswith("Z")
    assert answer.headers["Location"] == f"/api/v1/users/{user['id']}"
    assert answer.headers["ETag"] == '"1"'
    assert answered(api.get(f"/users/{user['id']}")) == user


@pytest.mark.parametrize("other", ["ada@example.com", "ADA@EXAMPLE.COM", "Ada@example.Com"])
def test_an_email_is_taken_whatever_its_case(api: Api, create: Create, other: str) -> None:
    create(email="Ada@Example.com")
    refused(api.post("/users", a_user(email=other)), 409, "email-taken")
    assert answered(api.get("/users/stats"))["total"] == 1


def test_a_password_is_stored_as_an_argon2id_hash_and_never_told(api: Api, create: Create, db: Database) -> None:
    user = create(password=PASSWORD)
    assert "password" not in str(user)
    stored = row(db, user["id"])["password_hash"]
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert User(password_hash=stored).has_password(PASSWORD)
    assert not User(password_hash=stored).has_password(PASSWORD + "x")
    assert PASSWORD not in str(contents(db))


@pytest.mark.parametrize("length", [12, 128])
def test_a_password_has_twelve_to_128_characters(api: Api, length: int) -> None:
    answered(api.post("/users", a_user(password="é" * length)), 201)
    for wrong in (11, 129):
        refused(api.post("/users", a_user(password="é" * wrong)), 422, "validation-failed", "/password")


VALID = {
    "email": ["a@b.co", "x" * 64 + "@example.com", "o'neil+tag@sub.example.co.uk", "A.B@EXAMPLE.COM"],
    "name": ["A", "é" * 200, "😀", "Robert'); DROP TABLE users;--", " A "],
    "role": ["customer", "staff", "admin"],
}
INVALID = {
    "email": ["", "a", "@b.co", "a@", "a@b", "a b@c.de", "a@b..co", "a@b.co\n", "é@b.co", "x" * 65 + "@b.co", "a..b@b.co", "a@b.co\x00", 5, None],
    "name": ["", "x" * 201, "a\x00", "\ud800", 5, None, [], {}],
    "role": ["", "root", "Admin", None, 5, []],
    "password": ["short", "", 5, None, ["x"] * 12],
    "surprise": [1],
    "status": ["active"],
    **{name: [value] for name, value in READ_ONLY.items()},
}  # fmt: skip


@pytest.mark.parametrize("member", VALID)
def test_what_is_valid_is_stored_as_it_was_sent(api: Api, member: str) -> None:
    for value in VALID[member]:
        user = answered(api.post("/users", a_user(**{member: value})), 201)
        assert user[member] == value
        assert answered(api.get(f"/users/{user['id']}")) == user


@pytest.mark.parametrize("member", INVALID)
def test_what_is_invalid_is_pointed_at_and_changes_nothing(api: Api, db: Database, member: str) -> None:
    before = contents(db)
    for value in INVALID[member]:
        refused(api.post("/users", a_user(**{member: value})), 422, "validation-failed", f"/{member}")
    assert contents(db) == before


@pytest.mark.parametrize("missing", ["email", "name"])
def test_what_is_required_is_pointed_at(api: Api, missing: str) -> None:
    body = a_user()
    del body[missing]
    refused(api.post("/users", body), 422, "validation-failed", f"/{missing}")


def test_every_fault_is_told_at_once(api: Api) -> None:
    document = refused(api.post("/users", {"role": "root", "surprise": 1}), 422, "validation-failed")
    assert {fault["pointer"] for fault in document["errors"]} == {"/email", "/name", "/role", "/surprise"}


# Read --------------------------------------------------------------------------------------------------------------


def test_an_id_in_upper_case_is_the_same_id(api: Api, create: Create) -> None:
    user = create()
    assert answered(api.get(f"/users/{user['id'].upper()}")) == user


def test_an_unknown_user_is_not_found(api: Api) -> None:
    for method, body in (("GET", None), ("PUT", a_user()), ("PATCH", {}), ("DELETE", None)):
        refused(api.send(method, f"/users/{UNKNOWN}", body), 404, "not-found")


def test_an_etag_that_is_known_needs_no_answer(api: Api, create: Create) -> None:
    user = create()
    for tag, status in (
        ('"1"', 304), ('W/"1"', 304), ('"7", "1"', 304), ("*", 304), ('"2"', 200), ("1", 200), ("", 200),
    ):  # fmt: skip
        answer = api.get(f"/users/{user['id']}", headers={"If-None-Match": tag})
        assert answer.status_code == status
        assert answer.headers["ETag"] == '"1"'
        assert (answer.data == b"") is (status == 304)


# Change ------------------------------------------------------------------------------------------------------------


def test_put_replaces_and_what_is_left_out_falls_back_to_its_default(api: Api, create: Create) -> None:
    user = create(role="admin", name="Ada")
    answered(api.patch(f"/users/{user['id']}", {"status": "suspended"}))
    answer = api.put(f"/users/{user['id']}", {"email": "new@example.com", "name": "New"})
    changed = answered(answer)
    assert (changed["email"], changed["name"]) == ("new@example.com", "New")
    assert (changed["role"], changed["status"]) == ("customer", "active")
    assert (changed["id"], changed["created_at"], changed["version"]) == (user["id"], user["created_at"], 3)
    assert changed["updated_at"] > user["updated_at"]
    assert answer.headers["ETag"] == '"3"'
    assert answered(api.get(f"/users/{user['id']}")) == changed


def test_patch_changes_what_it_names(api: Api, create: Create) -> None:
    user = create(role="staff")
    changed = answered(api.patch(f"/users/{user['id']}", {"name": "Countess"}))
    assert changed == {**user, "name": "Countess", "version": 2, "updated_at": changed["updated_at"]}
    assert answered(api.get(f"/users/{user['id']}")) == changed


def test_patch_with_null_falls_back_to_the_default(api: Api, create: Create) -> None:
    user = create(role="staff")
    assert answered(api.patch(f"/users/{user['id']}", {"role": None}))["role"] == "customer"


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("PATCH", {}), ("PATCH", {"name": "Ada", "status": None}), ("PATCH", {"password": None}),
        ("PUT", {"email": "Ada@example.com", "name": "Ada"}),
    ],
)  # fmt: skip
def test_a_change_that_leaves_all_as_it_is_writes_nothing_and_publishes_nothing(
    api: Api, create: Create, db: Database, method: str, body: dict[str, Any]
) -> None:
    user = create(email="Ada@example.com", name="Ada", password=PASSWORD)
    before = contents(db)
    answer = api.send(method, f"/users/{user['id']}", body)
    assert answered(answer) == user
    assert answer.headers["ETag"] == '"1"'
    assert contents(db) == before


@pytest.mark.parametrize(("method", "body"), [("PATCH", {}), ("PUT", {"email": "ada@example.com", "name": "Ada"})])
def test_a_password_is_a_change_even_if_it_is_the_same(
    api: Api, create: Create, method: str, body: dict[str, Any]
) -> None:
    user = create(email="ada@example.com", name="Ada", password=PASSWORD)
    changed = answered(api.send(method, f"/users/{user['id']}", {**body, "password": PASSWORD}))
    assert changed["version"] == 2
    assert changed["updated_at"] > user["updated_at"]


def test_another_case_of_the_email_is_a_change(api: Api, create: Create) -> None:
    user = create(email="ada@example.com")
    assert answered(api.patch(f"/users/{user['id']}", {"email": "Ada@example.com"}))["version"] == 2


def test_a_change_that_would_change_nothing_obeys_if_match(api: Api, create: Create) -> None:
    user = create()
    refused(api.patch(f"/users/{user['id']}", {}, headers={"If-Match": '"2"'}), 412, "precondition-failed")


def test_patch_is_taken_as_a_merge_patch_and_as_json(api: Api, create: Create) -> None:
    user = create()
    for number, media_type in enumerate(("application/merge-patch+json", "application/json"), 2):
        answer = api.patch(f"/users/{user['id']}", {"name": f"{number}"}, content_type=media_type)
        assert answered(answer)["version"] == number


@pytest.mark.parametrize(
    "email",
    [
        "a..b@example.com",
        ".a@example.com",
        "a.@example.com",
        "a@-x.com",
        "a@x-.com",
        "a@x",
        "a@.x.com",
        "a@x..com",
        " ",
    ],
)
def test_what_is_no_address_is_refused(api: Api, email: str) -> None:
    refused(api.post("/users", a_user(email=email)), 422, "validation-failed", "/email")


@pytest.mark.parametrize(
    "email", ["a.b.c@x-y.example.com", "a@1.co", "o'brien+shop@example.com", "a@xn--bcher-kva.example"]
)
def test_an_address_is_taken_as_people_write_it(api: Api, email: str) -> None:
    assert answered(api.post("/users", a_user(email=email)), 201)["email"] == email


@pytest.mark.parametrize("name", [" ", "\t\n", "\u00a0"])
def test_a_blank_name_is_refused(api: Api, create: Create, name: str) -> None:
    refused(api.post("/users", a_user(name=name)), 422, "validation-failed", "/name")
    refused(api.patch(f"/users/{create()['id']}", {"name": name}), 422, "validation-failed", "/name")


@pytest.mark.parametrize(
    "patch", [{"email": None}, {"name": None}, {"name": ""}, {"surprise": 1}, {"email": "x"}, [], "x", None]
)
def test_a_patch_that_leads_to_nonsense_is_refused(api: Api, create: Create, db: Database, patch: Any) -> None:
    user = create()
    before = contents(db)
    answer = api.patch(f"/users/{user['id']}", b"null" if patch is None else patch, content_type="application/json")
    refused(answer, 422, "validation-failed")
    assert contents(db) == before


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_read_only_members_are_refused(api: Api, create: Create, method: str) -> None:
    user = create()
    for member in (*READ_ONLY, "surprise"):
        body = {"email": user["email"], "name": user["name"], member: user.get(member, 1)}
        refused(api.send(method, f"/users/{user['id']}", body), 422, "validation-failed", f"/{member}")


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_email_of_another_is_refused_in_a_change_too(api: Api, create: Create, method: str) -> None:
    create(email="taken@example.com")
    user = create()
    body = {"email": "Taken@example.com", "name": "Ada"}
    refused(api.send(method, f"/users/{user['id']}", body), 409, "email-taken")
    assert answered(api.get(f"/users/{user['id']}")) == user


def test_the_own_email_may_be_written_in_another_case(api: Api, create: Create) -> None:
    user = create(email="ada@example.com")
    assert answered(api.patch(f"/users/{user['id']}", {"email": "Ada@Example.com"}))["email"] == "Ada@Example.com"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_change_without_a_password_keeps_it(api: Api, create: Create, db: Database, method: str) -> None:
    user = create(password=PASSWORD)
    before = row(db, user["id"])["password_hash"]
    answered(api.send(method, f"/users/{user['id']}", {"email": user["email"], "name": "New"}))
    assert row(db, user["id"])["password_hash"] == before


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_change_with_a_password_replaces_it(api: Api, create: Create, db: Database, method: str) -> None:
    user = create(password=PASSWORD)
    body = {"email": user["email"], "name": "New", "password": "another long password"}
    answered(api.send(method, f"/users/{user['id']}", body))
    stored = User(password_hash=row(db, user["id"])["password_hash"])
    assert stored.has_password("another long password")
    assert not stored.has_password(PASSWORD)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_no_transaction_waits_while_a_password_is_hashed(
    api: Api, create: Create, db: Database, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 40 ms, in which no other request could write."""
    path = "/users" if method == "POST" else f"/users/{create()['id']}"
    hashed: list[str] = []

    def hash_password(password: str) -> str:
        with db.write():
            hashed.append(password)
        return "a hash"

    monkeypatch.setattr("libs.common.data.engines.LOCK_WAIT_SECONDS", 0.1)
    monkeypatch.setattr("user_service.models.hash_password", hash_password)
    assert api.send(method, path, a_user(password=PASSWORD)).status_code in (200, 201)
    assert hashed == [PASSWORD]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were hashed."""
    found: list[str] = []

    def hash_password(password: str) -> str:
        found.append(password)
        return "a hash"

    monkeypatch.setattr("user_service.models.hash_password", hash_password)
    return found


def test_a_registration_that_is_accepted_costs_one_hash(api: Api, hashed: list[str]) -> None:
    for _ in range(3):
        answered(
            api.post("/users", a_user(email="a@example.com", password=PASSWORD), headers={"Idempotency-Key": "k"}), 201
        )
    assert hashed == [PASSWORD]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
@pytest.mark.parametrize(
    "change", [{"email": "Taken@example.com"}, {"email": "x"}, {"role": "x"}, {"name": ""}, {"x": 1}]
)
def test_a_registration_that_is_refused_costs_no_hash(
    api: Api, create: Create, hashed: list[str], change: dict[str, Any], key: dict[str, str]
) -> None:
    create(email="taken@example.com")
    for _ in range(2):
        assert api.post("/users", {**a_user(), "password": PASSWORD, **change}, headers=key).status_code in (409, 422)
    assert hashed == []


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_change_that_is_not_valid_costs_no_hash(api: Api, create: Create, hashed: list[str], method: str) -> None:
    user = create()
    answer = api.send(method, f"/users/{user['id']}", a_user(password=PASSWORD, role="x"))
    refused(answer, 422, "validation-failed", "/role")
    assert hashed == []


@pytest.mark.parametrize(
    ("seen", "email", "status"), [(False, "taken@example.com", 409), (True, "free@example.com", 201)]
)
def test_the_constraint_decides_where_the_email_is_taken_or_freed_after_the_look(
    api: Api, create: Create, db: Database, monkeypatch: pytest.MonkeyPatch, seen: bool, email: str, status: int
) -> None:
    create(email="taken@example.com")
    answers, look = iter([seen]), repository.is_taken
    monkeypatch.setattr(repository, "is_taken", lambda session, email: next(answers, None) or look(session, email))
    answer = api.post("/users", a_user(email=email, password=PASSWORD))
    assert answer.status_code == status, answer.text
    if status == 201:
        assert User(password_hash=row(db, answer.json["id"])["password_hash"]).has_password(PASSWORD)


# Delete ------------------------------------------------------------------------------------------------------------


def test_a_deleted_user_is_gone_for_everyone(api: Api, create: Create) -> None:
    user, other = create(), create()
    answer = api.delete(f"/users/{user['id']}")
    assert (answer.status_code, answer.data) == (204, b"")
    for method, body in (("GET", None), ("PUT", a_user()), ("PATCH", {}), ("DELETE", None)):
        refused(api.send(method, f"/users/{user['id']}", body), 404, "not-found")
    assert [u["id"] for u in walk(api, "/users", {})] == [other["id"]]
    assert answered(api.get(f"/users?email={user['email']}"))["items"] == []
    assert answered(api.get(f"/users?ids={user['id']},{other['id']}"))["items"] == [other]


def test_the_email_of_a_deleted_user_is_free_again(api: Api, create: Create) -> None:
    user = create(email="ada@example.com")
    api.delete(f"/users/{user['id']}")
    again = create(email="Ada@example.com")
    assert again["id"] != user["id"]
    # And so on, for any number of tombstones.
    api.delete(f"/users/{again['id']}")
    create(email="ada@example.com")


def test_a_deleted_user_leaves_an_id_and_nothing_personal(api: Api, create: Create, db: Database) -> None:
    body = a_user(email="ada@secret.example", name="Augusta Secret", password=PASSWORD)
    user = answered(api.post("/users", body, headers={"Idempotency-Key": "k"}), 201)
    assert "secret" in str(contents(db)).lower()
    api.delete(f"/users/{user['id']}")
    assert "secret" not in str(contents(db)).lower()
    assert "argon2" not in str(contents(db))
    assert row(db, user["id"])["deleted_at"] is not None


# If-Match ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_change_that_names_another_version_is_refused(api: Api, create: Create, method: str) -> None:
    user = create()
    user = answered(api.patch(f"/users/{user['id']}", {"name": "Second"}))
    path, body = f"/users/{user['id']}", None if method == "DELETE" else {"email": user["email"], "name": "Third"}
    for tag in ('"1"', 'W/"2"', "2", ""):
        answer = api.send(method, path, body, headers={"If-Match": tag})
        refused(answer, 412, "precondition-failed")
        assert answer.headers["ETag"] == '"2"'
    assert answered(api.get(path)) == user


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("tag", ['"1"', "*", '"7", "1"'])
def test_a_change_that_names_the_version_is_made(api: Api, create: Create, method: str, tag: str) -> None:
    user = create()
    body = None if method == "DELETE" else {"email": user["email"], "name": "Second"}
    answer = api.send(method, f"/users/{user['id']}", body, headers={"If-Match": tag})
    assert answer.status_code == (204 if method == "DELETE" else 200)


# Lists -------------------------------------------------------------------------------------------------------------

NAMES = [
    "Ada",
    "ada",
    "Bob",
    "Bob",
    "Bob",
    "Ägir",
    "Zoë",
    "_",
    "1",
    "10",
    "2",
    "😀" * 200,
    '"' * 200,
    "\x01" * 200,
    "a b",
]


SORTS: Sorts = {
    "created_at": lambda u: u["created_at"], "name": lambda u: u["name"], "email": lambda u: u["email"].lower(),
}  # fmt: skip


def test_lists_are_what_a_plain_look_at_all_users_says(api: Api, create: Create, db: Database) -> None:
    made = [
        create(
            name=NAMES[n % len(NAMES)], role=("customer", "staff", "admin")[n % 3], email=f"U{n * 7 % 40}@example.com"
        )
        for n in range(40)
    ]
    for n, user in enumerate(made):
        if n % 4 == 0:
            made[n] = answered(api.patch(f"/users/{user['id']}", {"status": "suspended"}))
    for user in made[5::10]:
        api.delete(f"/users/{user['id']}")
    del made[5::10]
    tie(db, users)
    made = [answered(api.get(f"/users/{user['id']}")) for user in made]
    some = [user["id"] for user in made[::3]]
    filters: list[Filter] = [
        *(({"role": role}, lambda u, role=role: u["role"] == role) for role in ("customer", "staff", "admin")),
        *(({"status": state}, lambda u, state=state: u["status"] == state) for state in ("active", "suspended")),
        ({"email": "u7@EXAMPLE.com"}, lambda u: u["email"] == "U7@example.com"),
        ({"email": "nobody@example.com"}, lambda u: False),
        ({"ids": ",".join(some)}, lambda u: u["id"] in some),
    ]
    assert compare(api, "/users", made, filters, SORTS) > 400


def test_without_a_sort_the_newest_come_first(api: Api, create: Create) -> None:
    made = [create() for _ in range(5)]
    assert walk(api, "/users", {"limit": "2"}) == made[::-1]


def test_without_a_limit_a_page_has_fifty_and_with_one_up_to_two_hundred(api: Api, create: Create) -> None:
    made = [create() for _ in range(51)]
    first = answered(api.get("/users"))
    assert len(first["items"]) == 50
    assert first["next_cursor"]
    assert len(answered(api.get("/users?limit=200"))["items"]) == len(made)


def test_users_who_come_and_go_and_change_while_somebody_pages_are_where_they_belong(api: Api, create: Create) -> None:
    known, dice = [create(name=name)["id"] for name in NAMES], random.Random(20260131)

    def change() -> None:
        come_and_go(
            dice, known,
            lambda: create(name=dice.choice(NAMES))["id"],
            lambda user: answered(api.patch(f"/users/{user}", {"name": dice.choice(NAMES)})),
            lambda user: api.delete(f"/users/{user}"),
        )  # fmt: skip

    compare_while_changing(
        api, "/users", SORTS, lambda: [answered(api.get(f"/users/{user}")) for user in known], change
    )


def test_a_question_that_makes_no_sense_is_refused(api: Api) -> None:
    for query in (
        "limit=0", "limit=201", "limit=-1", "limit=1.5", "limit=x", "limit=", "sort=password_hash", "sort=", "sort=--name",
        "sort=name,email", "role=root", "status=deleted", "ids=x", "ids=", "email=%00", "surprise=1",
    ):  # fmt: skip
        refused(api.get(f"/users?{query}"), 422, "validation-failed", f"/{query.split('=')[0]}")


def test_a_cursor_that_was_not_issued_here_is_refused(api: Api) -> None:
    for cursor in ("", "x", "%00", "%ff", "A" * 100, "A" * 3000, "null", "%F0%9F%98%80"):
        refused(api.get(f"/users?cursor={cursor}"), 400, "malformed-request")


def test_a_cursor_of_another_question_is_refused(api: Api, create: Create) -> None:
    for _ in range(3):
        create()
    cursor = answered(api.get("/users?limit=1&sort=name&role=customer"))["next_cursor"]
    answered(api.get(f"/users?limit=2&sort=name&role=customer&cursor={cursor}"))
    for question in ("sort=-name&role=customer", "sort=email&role=customer", "sort=name&role=staff", "sort=name"):
        refused(api.get(f"/users?{question}&cursor={cursor}"), 400, "malformed-request")


# Events ------------------------------------------------------------------------------------------------------------


def test_every_change_is_told_with_ids_and_facts_and_no_personal_data(api: Api, create: Create, db: Database) -> None:
    user = create(email="ada@secret.example", name="Secret", role="staff")
    api.patch(f"/users/{user['id']}", {"status": "suspended"}, headers={"X-Request-ID": "req-2"})
    api.delete(f"/users/{user['id']}")
    created, updated, deleted = published(db)
    assert [event["type"] for event in (created, updated, deleted)] == [
        "user.created.v1", "user.updated.v1", "user.deleted.v1",
    ]  # fmt: skip
    assert created["data"] == {"user_id": user["id"], "role": "staff", "status": "active", "version": 1}
    assert updated["data"] == {"user_id": user["id"], "role": "staff", "status": "suspended", "version": 2}
    assert deleted["data"].pop("deleted_at").endswith("Z")
    assert deleted["data"] == {"user_id": user["id"], "version": 3}
    assert updated["correlationid"] == "req-2"
    assert {event["subject"] for event in (created, updated, deleted)} == {user["id"]}
    assert "secret" not in str([created, updated, deleted]).lower()


def test_what_is_refused_tells_nobody(api: Api, create: Create, db: Database) -> None:
    user = create()
    told = published(db)
    api.post("/users", a_user(email=user["email"]))
    api.patch(f"/users/{user['id']}", {"name": ""})
    api.delete(f"/users/{user['id']}", headers={"If-Match": '"7"'})
    assert published(db) == told


# Idempotency-Key ---------------------------------------------------------------------------------------------------


def test_a_second_request_with_the_key_gets_the_stored_answer(api: Api) -> None:
    body, headers = a_user(password=PASSWORD), {"Idempotency-Key": "k"}
    first = api.post("/users", body, headers=headers)
    user = answered(first, 201)
    assert "Idempotent-Replayed" not in first.headers
    answered(api.patch(f"/users/{user['id']}", {"name": "Later"}))
    again = api.post("/users", dict(reversed(body.items())), headers=headers)
    # The answer of the first request, whatever has changed since.
    assert (again.status_code, again.data, again.content_type) == (201, first.data, first.content_type)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["ETag"] == '"1"'
    assert answered(api.get("/users/stats"))["total"] == 1


def test_the_key_with_another_body_is_refused(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    answered(api.post("/users", a_user(), headers=headers), 201)
    refused(api.post("/users", a_user(), headers=headers), 422, "idempotency-key-reused")
    assert answered(api.get("/users/stats"))["total"] == 1


def test_a_refusal_on_the_merits_is_stored_and_told_again(api: Api, create: Create, db: Database) -> None:
    user = create()
    body, headers = a_user(email=user["email"]), {"Idempotency-Key": "k"}
    first = api.post("/users", body, headers={**headers, "X-Request-ID": "first"})
    refused(first, 409, "email-taken")
    api.delete(f"/users/{user['id']}")
    again = api.post("/users", body, headers=headers)
    assert (again.status_code, again.content_type) == (409, "application/problem+json")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json == first.json


def test_what_is_refused_before_it_began_claims_no_key(api: Api, db: Database) -> None:
    headers = {"Idempotency-Key": "k"}
    for body in ({"name": "no email"}, [], "x"):
        refused(api.post("/users", body, headers=headers), 422, "validation-failed")
    answered(api.post("/users", a_user(), headers=headers), 201)


def test_a_fault_of_ours_gives_the_key_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    body, headers = a_user(), {"Idempotency-Key": "k"}
    with monkeypatch.context() as broken:
        broken.setattr("user_service.use_cases.counters.add", lambda *_: 1 / 0)
        assert api._client.post("/api/v1/users", json=body, headers=headers).status_code == 500
    assert "Idempotent-Replayed" not in api.post("/users", body, headers=headers).headers
    assert answered(api.get("/users/stats"))["total"] == 1


def test_a_key_of_other_than_visible_ascii_is_refused(api: Api) -> None:
    for key in ("", "a b", "x" * 256, "é", "a\tb"):
        answer = api.post("/users", a_user(), headers={"Idempotency-Key": key})
        refused(answer, 422, "validation-failed", "/Idempotency-Key")


def test_a_key_of_visible_ascii_is_taken(api: Api) -> None:
    for key in ("k", "x" * 255, '"quoted"', "!~", "0190d2a4-1111-7aaa-8bbb-0123456789ab"):
        answered(api.post("/users", a_user(), headers={"Idempotency-Key": key}), 201)


def test_after_a_day_a_key_may_be_used_again(api: Api, db: Database) -> None:
    headers = {"Idempotency-Key": "k"}
    answered(api.post("/users", a_user(), headers=headers), 201)
    with db.write() as session:
        session.execute(sa.update(keys).values(created_at=keys.c.created_at - 24 * 3600 - 1))
    answered(api.post("/users", a_user(), headers=headers), 201)


def test_a_key_counts_under_the_alias_too(api: Api, app: Any) -> None:
    body, headers = a_user(), {"Idempotency-Key": "k"}
    answered(api.post("/users", body, headers=headers), 201)
    assert Api(app, prefix="/api").post("/users", body, headers=headers).headers["Idempotent-Replayed"] == "true"


def test_a_key_dies_with_the_user_that_it_made(api: Api, db: Database) -> None:
    headers = {"Idempotency-Key": "k"}
    user = answered(api.post("/users", a_user(), headers=headers), 201)
    api.delete(f"/users/{user['id']}")
    assert contents(db)["idempotency_keys"] == []


# Stats -------------------------------------------------------------------------------------------------------------


def test_without_users_the_stats_are_zero(api: Api) -> None:
    assert answered(api.get("/users/stats")) == {"total": 0, "by_role": {}, "by_status": {}}


def test_stats_count_by_role_and_status(api: Api, create: Create) -> None:
    create()
    create(role="staff")
    suspended = create(role="staff")
    api.patch(f"/users/{suspended['id']}", {"status": "suspended"})
    assert answered(api.get("/users/stats")) == {
        "total": 3,
        "by_role": {"customer": 1, "staff": 2},
        "by_status": {"active": 2, "suspended": 1},
    }


# What is written about them ----------------------------------------------------------------------------------------


def test_a_database_that_fails_puts_no_personal_data_into_the_log(
    api: Api, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with db.write() as session:
        session.execute(sa.text("ALTER TABLE users RENAME COLUMN password_hash TO forgotten"))
    api.is_broken = True
    answer = api.post("/users", {"email": "ada@example.com", "name": "Ada Lovelace", "password": PASSWORD})
    assert answer.status_code in (500, 503)
    written = "".join(logs.Formatter("user").format(record) for record in caplog.records)
    assert "password_hash" in written
    for value in ("ada@example.com", "Ada Lovelace", "$argon2id$"):
        assert value not in written
