"""The order saga as a model that is searched exhaustively: every interleaving of three requests (two with one key), of
crashes at every step, lost answers, calls that take effect late or twice, commits in doubt, recovery at any moment,
events twice and in any order, cancel and ship.

    python -m tests.unit.order_service.saga_model            the rules of docs/saga.md: no violation
    python -m tests.unit.order_service.saga_model MISTAKE    one of MISTAKES put in, and the shortest run that it breaks

A step of the model is one transaction or one network call of the code; RULES says which function takes it.
"""

import sys
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

STOCK = 1
KEYS = ("a", "a", "b")
"""Three requests: one with key a, its repetition, and one with key b."""

MISTAKES = {
    "check-then-insert-key": "the key is looked up first and inserted later, without a unique constraint",
    "blind-confirm": "the second transaction does not look whether the order is still pending",
    "ship-without-look": "ship does not look whether the order is still confirmed",
    "reject-without-release": "a refused order publishes nothing, as it seems to hold nothing",
    "no-tombstone": "a release that comes before its reserve leaves no trace",
    "release-adds-twice": "the consumer has no inbox and the handler is not idempotent",
    "keep-key": "an order that failed for our fault keeps its key, so a retry cannot succeed",
    "trust-commit": "a commit in doubt is taken for done",
    "no-recovery": "nobody looks for orders whose request died",
}


class Rule(NamedTuple):
    says: str
    kept_by: tuple[str, ...]
    """The functions that implement it, as `package.module.name`."""
    broken_by: tuple[str, ...]
    """The mistakes that omit it."""


RULES = {
    1: Rule(
        "The key is claimed by a unique constraint in the first transaction.",
        (
            "order_service.checkout.place_all",
            "order_service.repository.add_pending",
            "order_service.repository.take_over",
            "order_service.repository.free_keys",
        ),
        ("check-then-insert-key",),
    ),
    2: Rule(
        "A status is changed only from the status that is expected.",
        (
            "order_service.checkout.settle_all",
            "order_service.repository.write",
            "order_service.models.cancel",
            "order_service.models.ship",
        ),
        ("blind-confirm", "ship-without-look"),
    ),
    3: Rule(
        "Every rejection is published.",
        ("order_service.checkout.settle_all",),
        ("reject-without-release",),
    ),
    4: Rule(
        "Reserve and release are idempotent by the order's id, and a release leaves a tombstone.",
        (
            "order_service.clients.ProductClient.reserve",
            "product_service.use_cases.reserve",
            "product_service.use_cases.release",
            "product_service.repository.add_tombstones",
        ),
        ("no-tombstone", "release-adds-twice"),
    ),
    5: Rule(
        "An order that failed for our fault gives its key back.",
        ("order_service.models.reject",),
        ("keep-key",),
    ),
    6: Rule(
        "A commit in doubt is settled by looking at the row.",
        ("order_service.checkout.Checkout.place", "order_service.checkout.Checkout.settle"),
        ("trust-commit",),
    ),
    7: Rule(
        "Recovery rejects what nobody drives any more, and may err.",
        ("order_service.checkout.reject_abandoned", "order_service.repository.find_abandoned"),
        ("no-recovery",),
    ),
}


class State(NamedTuple):
    stock: int
    orders: tuple[tuple[str | None, str], ...]
    """The key and the status of each order; `rejected` is on the merits, `failed` is a failure of ours."""
    holds: tuple[str, ...]
    """The reservation of each order: none, reserved, released or sold."""
    requests: tuple[tuple[str, str, int], ...]
    """The key, the next step and the order of each request. One that died is `done`: neither does anything more."""
    calls: frozenset[int]
    """Orders with a reserve call that no request waits for any more."""
    events: frozenset[tuple[str, int]]
    """Published and not yet delivered: release or sell, and the order."""
    answers: frozenset[tuple[str, int, int]]
    """The final answers to clients: key, order, and 201 or 409. A 503 promises nothing."""


NO_ORDER = -1
START = State(STOCK, (), (), tuple((key, "begin", NO_ORDER) for key in KEYS), frozenset(), frozenset(), frozenset())
Steps = Iterator[tuple[str, State]]


def steps(state: State, mistake: str | None) -> Steps:
    """All next states."""
    for n in range(len(state.requests)):
        if state.requests[n][1] != "done":
            yield from request_steps(state, n, mistake)
    for order in state.calls:
        yield f"a late reserve({order}) takes effect", reserve(state, order)[0]._replace(calls=state.calls - {order})
        yield f"a late reserve({order}) takes effect, and will again", reserve(state, order)[0]
        yield f"a late reserve({order}) is lost", state._replace(calls=state.calls - {order})
    for order, (_, status) in enumerate(state.orders):
        if status == "pending" and mistake != "no-recovery":
            yield f"recovery rejects {order}", reject(state, order, "failed", mistake)
        if status == "confirmed":
            yield f"cancel {order}", change(state, order, "cancelled", ("release", order))
        if status == "confirmed" or (mistake == "ship-without-look" and status == "cancelled"):
            yield f"ship {order}", change(state, order, "shipped", ("sell", order))
    for event in state.events:
        after = deliver(state, *event, mistake)
        yield f"event {event[0]} {event[1]}, and will come again", after
        yield f"event {event[0]} {event[1]}", after._replace(events=state.events - {event})


def request_steps(state: State, n: int, mistake: str | None) -> Steps:
    """What request `n` can do next, or what can happen to it."""
    key, doing, order = state.requests[n]
    who = f"request {key}"
    if doing in ("begin", "insert"):
        yield f"{who} never comes", move(state, n, "done", order)
        yield from first_transaction(state, n, mistake)
    elif doing == "call":
        left = state._replace(calls=state.calls | {order})
        yield f"{who} dies while it calls reserve({order})", move(left, n, "done", order)
        yield f"{who} waits for reserve({order}) in vain", move(left, n, "unknown", order)
        after, answer = reserve(state, order)
        yield f"reserve({order}) answers {answer}", move(after, n, answer, order)
    else:
        yield f"{who} dies", move(state, n, "done", order)
        yield from second_transaction(state, n, mistake)


def first_transaction(state: State, n: int, mistake: str | None) -> Steps:
    key, doing, _ = state.requests[n]
    mine = next((order for order, (taken, _) in enumerate(state.orders) if taken == key), None)
    if mine is not None and doing == "begin":
        status = state.orders[mine][1]
        if status == "pending":  # the deadline of the first has passed, or seems to
            yield f"request {key} drives {mine} on", move(state, n, "call", mine)
        else:
            yield f"request {key} replays {mine}", answer(state, n, mine, CODES[status])
    elif mistake == "check-then-insert-key" and doing == "begin":
        yield f"request {key} finds its key free", move(state, n, "insert", NO_ORDER)
    else:
        order = len(state.orders)
        stored = state._replace(orders=(*state.orders, (key, "pending")), holds=(*state.holds, "none"))
        yield f"request {key} stores {order} pending", move(stored, n, "call", order)


def second_transaction(state: State, n: int, mistake: str | None) -> Steps:
    """Whether the order is pending is a condition of the UPDATE, which locks the row: that is one step with the change."""
    key, learned, order = state.requests[n]
    status = state.orders[order][1]
    if status == "pending" or (mistake == "blind-confirm" and learned == "reserved"):
        if learned == "reserved":
            yield f"request {key} confirms {order}: 201", answer(change(state, order, "confirmed"), n, order, 201)
            if mistake == "trust-commit":
                yield f"request {key} answers 201 for {order}, whose commit failed", answer(state, n, order, 201)
        else:
            becomes = "rejected" if learned == "refused" else "failed"
            after = reject(state, order, becomes, mistake)
            yield f"request {key} rejects {order}: {CODES[becomes]}", answer(after, n, order, CODES[becomes])
        # A commit in doubt that did not happen is the request's death: it looks at the row, and promises nothing.
    else:
        yield f"request {key} finds {order} {status}: {CODES[status]}", answer(state, n, order, CODES[status])


def reserve(state: State, order: int) -> tuple[State, str]:
    """The outcome of a reserve at the product service, and its answer."""
    hold = state.holds[order]
    if hold == "reserved":
        return state, "reserved"
    if hold != "none" or state.stock == 0:
        return state, "refused"
    return state._replace(stock=state.stock - 1, holds=put(state.holds, order, "reserved")), "reserved"


def deliver(state: State, kind: str, order: int, mistake: str | None) -> State:
    """The product service handles an event."""
    hold = state.holds[order]
    if hold == "reserved":
        after = state._replace(holds=put(state.holds, order, "released" if kind == "release" else "sold"))
        return after._replace(stock=state.stock + 1) if kind == "release" else after
    if kind == "release" and hold == "none" and mistake != "no-tombstone":
        return state._replace(holds=put(state.holds, order, "released"))
    if kind == "release" and mistake == "release-adds-twice" and state.stock <= STOCK:
        return state._replace(stock=state.stock + 1)
    return state


CODES = {"rejected": 409, "failed": 503, "confirmed": 201, "cancelled": 201, "shipped": 201}
"""Status of the order → the answer of the request."""


def reject(state: State, order: int, becomes: str, mistake: str | None) -> State:
    silent = becomes == "rejected" and mistake == "reject-without-release"
    events = state.events if silent else state.events | {("release", order)}
    key = None if becomes == "failed" and mistake != "keep-key" else state.orders[order][0]
    return state._replace(orders=put(state.orders, order, (key, becomes)), events=events)


def change(state: State, order: int, status: str, *events: tuple[str, int]) -> State:
    """Change the status of the order and publish the event, in one transaction."""
    orders = put(state.orders, order, (state.orders[order][0], status))
    return state._replace(orders=orders, events=state.events.union(events))


def answer(state: State, n: int, order: int, code: int) -> State:
    told = state.answers if code == 503 else state.answers | {(state.requests[n][0], order, code)}
    return move(state._replace(answers=told), n, "done", order)


def move(state: State, n: int, doing: str, order: int) -> State:
    """Request `n` continues with its next step. Requests are interchangeable, so they are sorted."""
    moved = (state.requests[n][0], doing, NO_ORDER if doing == "done" else order)
    return state._replace(requests=tuple(sorted(put(state.requests, n, moved))))


def put(sequence: tuple[Any, ...], n: int, value: Any) -> tuple[Any, ...]:
    return (*sequence[:n], value, *sequence[n + 1 :])


def violation(state: State, mistake: str | None) -> str | None:
    """The violated invariant, if any: docs/saga.md, "What always holds"."""
    held = state.holds.count("reserved") + state.holds.count("sold")
    if state.stock < 0 or state.stock + held != STOCK:
        return f"stock {state.stock} and {held} held are not {STOCK}"
    for order, (key, status) in enumerate(state.orders):
        if key and status == "failed":
            return f"order {order} failed for our fault and still owns its key"
    for key, order, code in state.answers:
        if code == 201 and state.orders[order][1] in ("rejected", "failed"):
            return f"order {order} was answered 201 and is rejected"
        if code == 201 and any(other[0] == key and other[1:] != (order, 201) for other in state.answers):
            return f"key {key} was answered with order {order} and otherwise"
    return violation_at_rest(state) if at_rest(state, mistake) else None


def at_rest(state: State, mistake: str | None) -> bool:
    """Whether nothing more happens without a new request."""
    busy = state.events or state.calls or any(doing != "done" for _, doing, _ in state.requests)
    return not busy and (mistake == "no-recovery" or all(status != "pending" for _, status in state.orders))


def violation_at_rest(state: State) -> str | None:
    expected = {
        "confirmed": ("reserved",),
        "shipped": ("sold",),
        "rejected": ("none", "released"),
        "failed": ("none", "released"),
        "cancelled": ("released",),
    }
    for order, (_, status) in enumerate(state.orders):
        if status == "pending":
            return f"order {order} is pending for ever"
        if state.holds[order] not in expected[status]:
            return f"order {order} is {status} and its reservation {state.holds[order]}"
    return None


class Found(NamedTuple):
    states: int
    violation: str | None
    run: list[str]
    """The shortest way to it."""


def search(mistake: str | None = None) -> Found:
    """Visit every state that can be reached, nearest first, until a violation is found."""
    came_from: dict[State, tuple[str, State] | None] = {START: None}
    queue = deque([START])
    while queue:
        state = queue.popleft()
        if fault := violation(state, mistake):
            return Found(len(came_from), fault, way_to(state, came_from))
        for label, following in steps(state, mistake):
            if following not in came_from:
                came_from[following] = label, state
                queue.append(following)
    return Found(len(came_from), None, [])


def way_to(state: State, came_from: dict[State, tuple[str, State] | None]) -> list[str]:
    run = []
    while step := came_from[state]:
        run.append(step[0])
        state = step[1]
    return run[::-1]


if __name__ == "__main__":
    for chosen in sys.argv[1:] or [None]:
        found = search(chosen)
        print(f"{chosen or 'the rules'}: {found.states} states, {found.violation or 'no violation'}")
        for line in found.run:
            print("   ", line)
