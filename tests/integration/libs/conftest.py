from collections.abc import Callable

import pytest

from libs.common.data.database import Database
from tests.integration.libs import tables


@pytest.fixture
def db(database_url: str, open_database: Callable[[str], Database]) -> Database:
    """A database with the tables of libs/common and those of tests/integration/libs/tables.py."""
    made = open_database(database_url)
    tables.create(made)
    return made
