"""The scenarios of the e2e tests, through the containers."""

from pathlib import Path

import pytest

from tests.containers.system import ComposeSystem
from tests.e2e.test_orders import (  # noqa: F401 - they are run here on containers
    test_a_new_user_orders_one_laptop_of_25,
    test_a_price_change_does_not_touch_an_order,
    test_an_order_that_is_cancelled_gives_back_what_it_holds,
    test_an_order_that_is_shipped_turns_what_it_holds_into_sold_units,
    test_the_best_sellers_and_the_time_series_follow_the_orders,
    test_the_confirmation_is_rendered_and_recorded_within_a_second,
    test_who_is_deleted_can_order_no_more_and_leaves_no_open_order,
)
from tests.e2e.test_outages import (  # noqa: F401
    test_known_users_order_without_the_user_service_and_unknown_ones_are_told_the_truth,
    test_orders_do_not_wait_for_the_notification_service,
    test_without_the_product_service_orders_are_put_off_and_nothing_leaks,
)
from tests.e2e.test_postman import run_collection
from tests.e2e.test_races import (  # noqa: F401
    test_200_simultaneous_requests_with_one_key_make_one_order,
    test_500_simultaneous_orders_sell_a_stock_of_100_exactly,
    test_cancelling_and_shipping_at_one_moment_leaves_one_winner,
)
from tests.e2e.test_walk import test_the_walk_goes_through_and_again_on_the_used_system  # noqa: F401
from tests.postman.generate import ENVIRONMENTS

pytestmark = pytest.mark.timeout(600)


def test_newman_finds_no_fault(system: ComposeSystem, tmp_path: Path) -> None:
    run_collection(system, tmp_path)


def test_the_environment_of_compose_leads_to_the_services_from_a_container(system: ComposeSystem) -> None:
    ask = "import json, urllib.request; print(json.load(urllib.request.urlopen({!r}))['service'])"
    code = "\n".join(ask.format(f"{url}/health") for url in ENVIRONMENTS["compose"].values())
    assert system.run_inside("analytics", code).split() == list(ENVIRONMENTS["compose"])
