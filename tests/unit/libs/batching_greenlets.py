"""Batches whose greenlets are killed: `python -m tests.unit.libs.batching_greenlets SCENARIO`."""

import sys
from typing import Any

SCENARIOS = (
    "they_share_one_call",
    "leader_is_killed_at_work",
    "leader_is_killed_before_it_begins",
    "follower_is_killed",
    "heir_is_killed_while_it_waits",
    "heir_is_killed_before_it_begins",
    "those_who_go_on_are_first",
    "those_who_go_on_are_first_although_the_leader_does_not",
    "leader_is_killed_while_others_go_first",
)


def they_share_one_call() -> None:
    """All greenlets that are ready to run join the batch, although the call itself never yields."""
    batches: list[list[int]] = []
    batcher: Any = Batcher(lambda items: batches.append(items) or items)
    spawned = [gevent.spawn(batcher, n) for n in range(10)]
    assert values(spawned) == list(range(10))
    assert batches == [list(range(10))]


def leader_is_killed_at_work() -> None:
    gate, batches, batcher = blocking()
    leader = gevent.spawn(batcher, 0)
    gevent.sleep(0)
    followers = [gevent.spawn(batcher, n) for n in (1, 2)]
    gevent.sleep(0)
    gate.set()
    assert leader.get(timeout=5) == 0
    # Those two are a batch under way; the first of them leads it.
    gate.clear()
    second = [gevent.spawn(batcher, n) for n in (3, 4)]
    third = [gevent.spawn(batcher, n) for n in (5, 6)]
    gevent.sleep(0)
    assert values(followers, release=gate) == [1, 2]
    gate.clear()
    while [3, 4, 5, 6] not in batches:
        gevent.sleep(0)
    behind = [gevent.spawn(batcher, n) for n in (7, 8)]
    gevent.sleep(0)
    second[0].kill(block=True)
    assert second[0].successful()
    assert isinstance(second[0].value, gevent.GreenletExit)
    for follower in (second[1], *third):
        try:
            follower.get(timeout=5)
            raise AssertionError("what became of its item is not known")
        except DependencyUnavailable:
            pass
    gate.set()
    assert values(behind) == [7, 8]
    assert batches[-1] == [7, 8]
    assert batcher(9) == 9


def leader_is_killed_before_it_begins() -> None:
    batches: list[list[int]] = []
    batcher: Any = Batcher(lambda items: batches.append(items) or items)
    leader = gevent.spawn(batcher, 0)
    followers = [gevent.spawn(batcher, n) for n in (1, 2)]
    # It runs until it lets others join, and is killed there; `kill` would come too late.
    gevent.spawn(leader.throw, gevent.GreenletExit)
    assert values(followers) == [1, 2]
    assert isinstance(leader.value, gevent.GreenletExit)
    assert batches == [[1, 2]]
    assert batcher(3) == 3


def follower_is_killed() -> None:
    gate, batches, batcher = blocking()
    leader = gevent.spawn(batcher, 0)
    gevent.sleep(0)
    followers = [gevent.spawn(batcher, n) for n in (1, 2)]
    gevent.sleep(0)
    followers[0].kill()
    gate.set()
    assert values([leader, followers[1]]) == [0, 2]
    assert batches == [[0], [2]]


def heir_is_killed_while_it_waits() -> None:
    """It has just become the leader, and has not run since."""
    heir_is_killed(lambda heir, hand_over: (heir.kill(block=False), hand_over()))


def heir_is_killed_before_it_begins() -> None:
    heir_is_killed(lambda heir, hand_over: (hand_over(), heir.kill(block=False)))


def heir_is_killed(kill: Any) -> None:
    gate, batches, batcher = blocking()
    leader = gevent.spawn(batcher, 0)
    gevent.sleep(0)
    heir, next_one = (gevent.spawn(batcher, n) for n in (1, 2))
    gevent.sleep(0)
    hand_over = batcher._hand_over

    def kill_the_heir() -> None:
        batcher._hand_over = hand_over
        kill(heir, hand_over)

    batcher._hand_over = kill_the_heir
    gate.set()
    assert values([leader, next_one]) == [0, 2]
    assert isinstance(heir.value, gevent.GreenletExit)
    assert batches == [[0], [2]]


def those_who_go_on_are_first() -> None:
    odd_numbers_go_on([1, 2, 3, 4, 5])


def those_who_go_on_are_first_although_the_leader_does_not() -> None:
    odd_numbers_go_on([2, 1, 3, 4, 5])


def odd_numbers_go_on(numbers: list[int]) -> None:
    """Their call is made before any of the others is answered."""
    happened: list[Any] = []
    call: Any = Batcher(lambda items: happened.append(sorted(items)) or items)
    write: Any = Batcher(lambda items: items, feeding=call, goes_on=lambda number: number % 2)

    def work(number: int) -> None:
        write(number)
        if number % 2:
            call(number)
        else:
            happened.append(number)

    values([gevent.spawn(work, number) for number in numbers])
    assert happened == [[1, 3, 5], *sorted(happened[1:])], happened


def leader_is_killed_while_others_go_first() -> None:
    def flush(items: list[int]) -> list[int]:
        gevent.spawn(leader.throw, gevent.GreenletExit)  # runs as soon as the leader yields
        return items

    batcher: Any = Batcher(flush, goes_on=lambda number: number % 2)
    leader = gevent.spawn(batcher, 0)
    followers = [gevent.spawn(batcher, n) for n in (1, 2)]
    assert values(followers) == [1, 2]
    assert isinstance(leader.value, gevent.GreenletExit)
    batcher._flush = lambda items: items
    assert batcher(3) == 3


def blocking() -> tuple[Any, list[list[int]], Any]:
    gate, batches = Event(), []

    def flush(items: list[int]) -> list[int]:
        batches.append(items)
        gate.wait()
        return items

    return gate, batches, Batcher(flush)


def values(greenlets: list[Any], release: Any = None) -> list[Any]:
    if release:
        release.set()
    return [greenlet.get(timeout=5) for greenlet in greenlets]


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from gevent.event import Event

    from libs.common.batching import Batcher
    from libs.common.errors import DependencyUnavailable

    globals()[sys.argv[1]]()
    print("held")
