import os
import subprocess
import sys
from typing import Any

import pytest
import requests

from demo.api import Quintet
from demo.walk import STEPS, Unexpected, Walk, take
from tests.e2e.system import ROOT, System


def walk_through(quintet: Quintet) -> None:
    walk = Walk(quintet)
    for step in STEPS:
        take(step, walk)


def run_walk(base_port: int) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "BASE_PORT": str(base_port), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "demo.walk"], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_walk_goes_through_and_again_on_the_used_system(system: System) -> None:
    walk_through(system.api)
    walk_through(system.api)


def test_the_program_prints_every_request_and_answer_in_plain_text(system: System) -> None:
    done = run_walk(system.base_port)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"All {len(STEPS)} steps went as expected."
    assert f"POST {system.api.url('order', '/api/v1/orders')}" in done.stdout
    assert "\x1b" not in done.stdout, "colours are for terminals"


def test_without_a_system_the_program_fails_and_says_how_to_start_one() -> None:
    done = run_walk(base_port=1)
    assert done.returncode == 1
    assert done.stderr.startswith("FAILED at step 1, ask_how_all_are: no answer came")
    assert "make up" in done.stderr


class TamperedQuintet(Quintet):
    """Loses the headers of one name; or, where it is a number, answers with that status instead of 409."""

    def __init__(self, base_port: int, tampered: str | int):
        super().__init__(base_port)
        self._tampered = tampered

    def send(
        self, method: str, service: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> requests.Response:
        kept = {name: value for name, value in (headers or {}).items() if name != self._tampered}
        answer = super().send(method, service, path, body, kept)
        if isinstance(self._tampered, int) and answer.status_code == 409:
            answer.status_code = self._tampered
        return answer


@pytest.mark.parametrize(
    ("tampered", "step"),
    [
        ("Idempotency-Key", "send_it_again"),
        ("If-None-Match", "ask_for_news"),
        ("If-Match", "change_what_has_changed"),
        (201, "order_too_many"),
    ],
)
def test_the_walk_stops_at_the_step_that_is_not_met(system: System, tampered: str | int, step: str) -> None:
    walk = Walk(TamperedQuintet(system.base_port, tampered))
    taken = []
    with pytest.raises(Unexpected, match="expected"):
        for each in STEPS:
            taken.append(each.__name__)
            take(each, walk)
    assert taken[-1] == step
