"""The requests of the clients of a chaos run and their answers: the only record outside the system."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Intent:
    """One effect that a client wants exactly once, sent with one key until its outcome is known."""

    key: str
    kind: str
    body: Json
    began: float
    answers: list[tuple[int, Json]] = field(default_factory=list)
    """Every definite answer: not 5xx, not `request-in-flight`."""
    ended: float | None = None
    tries: int = 0
    given_up: bool = False
    """The client gave up without an answer: the request may have taken effect, or not."""

    @property
    def status(self) -> int | None:
        return self.answers[0][0] if self.answers else None

    @property
    def result(self) -> Json:
        return self.answers[0][1]

    @property
    def settled(self) -> bool:
        return self.ended is not None


@dataclass(frozen=True)
class Sight:
    """A product as one client read it between two times."""

    product_id: str
    began: float
    ended: float
    stock: int
    reserved: int
    sold: int
    version: int


class History:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.intents: list[Intent] = []
        self.sights: list[Sight] = []
        self.faults: list[str] = []
        """Answers that no system may give, such as a 500."""

    def begin(self, kind: str, key: str, body: Json) -> Intent:
        intent = Intent(key, kind, body, time.monotonic())
        with self._lock:
            self.intents.append(intent)
        return intent

    def tell(self, intent: Intent, status: int, body: Json) -> None:
        with self._lock:
            intent.answers.append((status, body))
            if intent.ended is None:
                intent.ended = time.monotonic()

    def see(self, sight: Sight) -> None:
        with self._lock:
            self.sights.append(sight)

    def blame(self, what: str) -> None:
        with self._lock:
            self.faults.append(what)

    def of(self, kind: str) -> list[Intent]:
        with self._lock:
            return [intent for intent in self.intents if intent.kind == kind]

    def unsettled(self) -> list[Intent]:
        with self._lock:
            return [intent for intent in self.intents if not intent.settled and not intent.given_up]
