"""Faults that can be injected into a running system, so that a test can show that they are detected.

`FaultySystem` starts the services with tests/e2e/faulty_conf.py. Every fault is installed at the start, and is active
while the file `fault` in the data directory holds its name.
"""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.points import wrap
from tests.e2e.system import UNHURRIED, System

Call = Callable[..., Any]


class Fault(NamedTuple):
    """The function that it replaces, and its replacement: `act` gets the function and its arguments."""

    target: str
    act: Callable[..., Any]
    service: str
    """The services with this fault; faults of the library are in all of them."""


FAULTS: dict[str, Fault] = {}


def fault(name: str, target: str, service: str = "") -> Callable[[Call], Call]:
    def register(act: Call) -> Call:
        FAULTS[name] = Fault(target, act, service)
        return act

    return register


@fault("If-Match is not looked at", "libs.common.web.endpoint:check_match")
def _match_anything(check: Call, headers: Any, version: int) -> None:
    pass


@fault("null does not remove", "libs.common.web.endpoint:merge_patch")
def _keep_what_is_null(merge: Call, old: Any, new: Any) -> Any:
    kept = {name: value for name, value in new.items() if value is not None} if isinstance(new, dict) else new
    return merge(old, kept)


@fault("a key fits every body", "libs.common.data.idempotency:Key.of")
def _forget_the_body(of: Call, *given: Any) -> Any:
    return replace(of(*given), fingerprint="same")


@fault("a repetition has another status", "libs.common.web.endpoint:_replay")
def _replay_as_found(replay: Call, stored: Any) -> Any:
    return replay(replace(stored, status=200 if stored.status == 201 else stored.status))


@fault("the case of an e-mail matters", "user_service.models:User.new", "user")
def _keep_the_case(make: Call, **new: Any) -> Any:
    user = make(**new)
    user.email_key = user.email
    return user


@fault("a list is never descending", "libs.common.data.paging:Listing.page", "user")
def _ascend(page: Call, listing: Any, session: Any, asked: Any, *rest: Any) -> Any:
    return page(listing, session, replace(asked, sort=asked.sort.lstrip("-")), *rest)


@fault("a cancelled order keeps its units", "product_service.models:Units.release", "product")
def _release_nothing(release: Call, *given: Any) -> None:
    pass


@fault("a shipped order can be cancelled", "order_service.use_cases:cancel", "order")
def _cancel_anyway(cancel: Call, order: Any, reason: Any) -> Any:
    return cancel({**order, "status": "confirmed"} if order["status"] == "shipped" else order, reason)


@fault("a total has one line", "order_service.models:price_lines", "order")
def _price_the_first_line(price_lines: Call, reserved: Any) -> Any:
    lines, _, currency = price_lines(reserved)
    return lines, Decimal(lines[0]["line_total"]), currency


@fault("lines are not merged", "order_service.models:merge_lines", "order")
def _merge_nothing(merge: Call, items: Any) -> Any:
    return items


@fault("who is suspended can order", "order_service.repository:find_users", "order")
def _find_all_active(find: Call, *given: Any, **named: Any) -> Any:
    return dict.fromkeys(find(*given, **named), "active")


@fault("a filter is forgotten", "order_service.repository:find_page", "order")
def _find_any_status(find_page: Call, session: Any, filters: Any, asked: Any) -> Any:
    return find_page(session, {name: value for name, value in filters.items() if name != "status"}, asked)


@fault("a cancelled order makes revenue", "order_service.use_cases:counts", "order")
def _count_as_confirmed(counts: Call, order: Any) -> Any:
    return counts({**order, "status": "confirmed"})


@fault("confirmations are lost", "notification_service.repository:add", "notification")
def _add_no_confirmation(add: Call, session: Any, rows: Any) -> Any:
    kept = [row for row in rows if not row["order_id"]]
    return add(session, kept) if kept else set()


@fault("what the deleted were told stays", "notification_service.repository:erase", "notification")
def _erase_nothing(erase: Call, *given: Any) -> None:
    pass


@fault("analytics count double", "analytics_service.repository:add_totals", "analytics")
def _add_twice(add: Call, session: Any, totals: Any) -> Any:
    return add(session, {key: tuple(2 * value for value in values) for key, values in totals.items()})


def install(service: str, file: Path) -> None:
    """Install the faults of this service."""
    import_module(f"{service}_service.app")
    for name, found in FAULTS.items():
        if found.service in ("", service):
            wrap(found.target, lambda call, name=name, act=found.act: _acting(call, name, act, file))


def _acting(call: Call, name: str, act: Callable[..., Any], file: Path) -> Call:
    def acting(*given: Any, **named: Any) -> Any:
        if file.read_text() == name:
            return act(call, *given, **named)
        return call(*given, **named)

    return acting


class FaultySystem(System):
    """The five services, without a fault until one is injected. Webhooks have no receiver, and are tried once."""

    def __init__(self, base_port: int, data_dir: Path):
        self._file = data_dir / "fault"
        given = {"FAULT_FILE": str(self._file), "MAX_ATTEMPTS": "1", "WEBHOOK_HOSTS": "127.0.0.1"}
        super().__init__(base_port, data_dir, **UNHURRIED, **given)
        self.put_in("")

    def command(self, service: str) -> str:
        return super().command(service).replace("libs.common.server.gunicorn_conf", "tests.e2e.faulty_conf")

    def put_in(self, fault: str) -> None:
        """Activate this fault and no other; an empty name means none."""
        self._file.write_text(fault)
