"""A migration that is killed at any of its statements is finished by the next one."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from alembic.ddl.impl import DefaultImpl

from libs.common import migrate
from libs.common.data.database import Database
from libs.topology import SERVICES
from tests.chaos.conftest import LONG
from tests.processes import Workers


def die_everywhere(url: str, package: str) -> int:
    """Migrate in a child process that dies after its first statement, then in one that dies after its second, and so
    on, until one completes; returns how many died.
    """
    statements = 0
    while True:
        statements += 1
        child = os.fork()
        if not child:
            _migrate(url, package, statements)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            return statements - 1
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def _migrate(url: str, package: str, statements: int) -> None:
    execute: Any = DefaultImpl._exec
    left = [statements]

    def dying(self: Any, *arguments: Any, **named: Any) -> Any:
        done = execute(self, *arguments, **named)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    DefaultImpl._exec = dying  # type: ignore[method-assign]
    status = 1
    try:
        migrate.upgrade(Database(url), package)
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize("service", SERVICES if LONG else ("order", "product"))
def test_a_migration_may_die_at_any_statement(
    service: str, new_database: Callable[[], str], open_database: Callable[[str], Database], workers: Workers
) -> None:
    url, package = new_database(), f"{service}_service"
    [died] = workers.race(die_everywhere, (url, package))
    assert died > 10
    assert migrate.differences(open_database(url), package) == []
