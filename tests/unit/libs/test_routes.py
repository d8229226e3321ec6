"""Mistakes in the declaration of a route that are refused at start."""

from collections.abc import Callable

import pytest

from libs.common.data.database import Database
from libs.common.web.endpoint import operations
from libs.common.web.fields import Schema, String
from libs.common.web.routes import Routes


class Note(Schema):
    text = String(max=10, required=True)


def start(
    view: Callable[..., object], method: str = "get", rule: str = "/notes/<id:note_id>", **options: object
) -> None:
    routes = Routes()
    getattr(routes, method)(rule, **options)(view)
    operations(routes, Database("sqlite://"), "secret", {"mailer": object()})


def test_a_view_that_names_what_its_route_does_not_give_is_refused_with_what_there_is() -> None:
    def read_note(note_id: str, sesion: object) -> None: ...

    with pytest.raises(TypeError) as raised:
        start(read_note)

    assert str(raised.value) == (
        "GET /notes/<id:note_id>: read_note asks for sesion, which this route does not give; "
        "it gives mailer, match, note_id, session, work."
    )


@pytest.mark.parametrize("name", ["body", "raw", "query", "page", "key"])
def test_a_view_gets_only_what_its_declaration_brings(name: str) -> None:
    view: Callable[..., object] = eval(f"lambda {name}: None")  # noqa: S307

    with pytest.raises(TypeError, match=f"asks for {name},"):
        start(view)


def test_a_check_before_the_transaction_is_held_to_the_same_names() -> None:
    def exists(raw: object, users: object) -> None: ...
    def write_note(body: object) -> None: ...

    with pytest.raises(TypeError, match="asks for users,"):
        start(write_note, "post", "/notes", body=Note, before=exists)


def test_what_is_declared_or_given_as_a_dependency_may_be_named() -> None:
    def write_note(session: object, body: object, raw: object, key: object, mailer: object, work: object) -> None: ...

    start(write_note, "post", "/notes", body=Note, idempotent=True)
