"""The demo data, which `make up` loads."""

import pytest

from demo.api import Quintet
from demo.seed import load
from tests.servers import free_base_port


def test_a_system_that_ends_while_the_data_is_loaded_is_told_in_a_sentence() -> None:
    with pytest.raises(SystemExit, match="the user service did not answer"):
        load(Quintet(free_base_port(), "127.0.0.1"))
