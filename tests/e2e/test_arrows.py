"""The calls and events between the services are exactly those of docs/contracts.md."""

import subprocess
import sys
from uuid import uuid4

from demo.api import eventually
from demo.walk import STEPS, Walk, take
from tests.contract.pacts.documents import arrows
from tests.e2e.arrows import seen
from tests.e2e.shop import Shop, answered, refused
from tests.e2e.system import ROOT, System, environment


def do_everything(system: System, shop: Shop) -> None:
    """Cause every call and every event between the services."""
    walk = Walk(system.api)
    for step in STEPS:
        take(step, walk)
    stranger = {"id": str(uuid4())}
    seller = shop.new_user()
    laptop = shop.new_product(seller_id=seller["id"])
    refused(shop.order(stranger, laptop), 422, "unknown-user")
    answered(shop.order(seller, laptop), 201)
    answered(shop.api.send("PATCH", "user", f"/users/{seller['id']}", {"name": "Grace"}), 200)
    shop.api.send("DELETE", "user", f"/users/{seller['id']}")
    answered(shop.api.post("notification", "/notifications/send", {"user_id": stranger["id"], "body": "A text."}), 201)
    shop.get("analytics", "/analytics/summary")
    shop.get("analytics", "/analytics/services")
    rebuild = [sys.executable, "-m", "flask", "--app", "analytics_service.app", "rebuild"]
    subprocess.run(rebuild, cwd=ROOT, env=environment(system.base_port, system.data_dir), check=True, timeout=60)


def test_every_arrow_has_its_pact(system: System, shop: Shop) -> None:
    """And every pact belongs to an arrow that occurs. The arrows of all other tests are checked at the end, in
    conftest.py.
    """
    broker = environment(system.base_port, system.data_dir).get("BROKER_URL")
    known = {arrow for arrow in arrows() if not (broker and arrow.what == "POST /api/v1/events")}

    do_everything(system, shop)

    eventually(lambda: seen(system) >= known, 10)
    assert seen(system) - known == set(), "without a pact: see docs/contracts.md"
    assert known - seen(system) == set(), "nobody needs this any more"
