"""Whether the reads of a product are consistent with some order of the intents (linearizability).

An intent takes effect at some time between its first request and its last answer. So at any time a product must show
the effects of the intents that were answered before, and may show those of intents that have started by then.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from tests.chaos.history import History, Sight


class Curve:
    """A sum over time."""

    def __init__(self, steps: list[tuple[float, int]]):
        steps.sort()
        self._moments = [moment for moment, _ in steps]
        self._sums = [0, *accumulate(units for _, units in steps)]

    def before(self, moment: float) -> int:
        return self._sums[bisect_left(self._moments, moment)]


class Curves:
    """The curves of one product."""

    def __init__(self) -> None:
        self._steps: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self._made: dict[str, Curve] = {}

    def add(self, product_id: str, moment: float, units: int) -> None:
        self._steps[product_id].append((moment, units))

    def before(self, product_id: str, moment: float) -> int:
        if product_id not in self._made:
            self._made[product_id] = Curve(self._steps[product_id])
        return self._made[product_id].before(moment)


class _Bounds:
    """Bounds on a product at a given time: all units, and those that are reserved or sold."""

    def __init__(self, history: History):
        names = ("added", "may_be_added", "removed", "may_be_removed", "held", "may_be_freed")
        self._curves = {name: Curves() for name in names}
        self._adjustments(history)
        self._orders(history)

    def all_units(self, sight: Sight) -> tuple[int, int]:
        added, may_be_added = self._at("added", sight), self._at("may_be_added", sight)
        removed, may_be_removed = self._at("removed", sight), self._at("may_be_removed", sight)
        return added + may_be_removed, may_be_added + removed

    def held(self, sight: Sight) -> int:
        """The least number that must be reserved or sold."""
        return self._at("held", sight) - self._at("may_be_freed", sight)

    def _at(self, name: str, sight: Sight) -> int:
        moment = sight.ended if name.startswith("may_be") else sight.began
        return self._curves[name].before(sight.product_id, moment)

    def _adjustments(self, history: History) -> None:
        for intent in [*history.of("launch"), *history.of("restock")]:
            if intent.status not in (200, 201, None):
                continue
            product_id = intent.body.get("product_id") or intent.result["id"]
            delta = intent.body.get("delta", intent.body.get("stock", 0))
            name = "added" if delta > 0 else "removed"
            self._curves[f"may_be_{name}"].add(product_id, intent.began, delta)
            if intent.ended is not None:
                self._curves[name].add(product_id, intent.ended, delta)

    def _orders(self, history: History) -> None:
        # Orders of a deleted user may be cancelled by the system at any time.
        gone = {intent.body["user_id"] for intent in history.of("leave")}
        cancelled = {intent.body["order_id"]: intent.began for intent in history.of("cancel")}
        for intent in history.of("order"):
            if intent.status != 201 or intent.ended is None or intent.body["user_id"] in gone:
                continue
            for item in intent.body["items"]:
                self._curves["held"].add(item["product_id"], intent.ended, item["quantity"])
                if intent.result["id"] in cancelled:
                    moment = cancelled[intent.result["id"]]
                    self._curves["may_be_freed"].add(item["product_id"], moment, item["quantity"])


def contradictions(history: History) -> Iterator[str]:
    """A sentence for each read that is impossible."""
    bounds, newest = _Bounds(history), dict[str, list[Sight]]()
    for sight in sorted(history.sights, key=lambda sight: sight.ended):
        if min(sight.stock, sight.reserved, sight.sold) < 0:
            yield f"a client saw {sight}"
        earlier = newest.setdefault(sight.product_id, [])
        version = max((one.version for one in earlier if one.ended < sight.began), default=0)
        if sight.version < version:
            yield f"a client saw {sight} after version {version}"
        newest[sight.product_id] = [*earlier[-20:], sight]
        low, high = bounds.all_units(sight)
        if not low <= sight.stock + sight.reserved + sight.sold <= high:
            yield f"a client saw {sight}, whose units are not between {low} and {high}"
        if sight.reserved + sight.sold < bounds.held(sight):
            yield f"a client saw {sight}, and {bounds.held(sight)} units were ordered by then"
