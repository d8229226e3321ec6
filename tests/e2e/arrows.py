"""What the services have asked of each other, and told each other, as their logs say."""

from libs.topology import SERVICES
from tests.contract.pacts.documents import Arrow, operation
from tests.e2e.system import System
from tests.e2e.test_logs import lines


def seen(system: System) -> set[Arrow]:
    """Every arrow in the logs: a request says which service sent it, and an event which one published it."""
    found = set()
    for service in SERVICES:
        for line in lines(system, service):
            if line["event"] == "request" and "caller" in line:
                found.add(Arrow(line["caller"], service, operation(line["method"], line["route"])))
            if line["event"] == "event" and line["outcome"] == "done":
                found.add(Arrow(service, line["type"].split(".")[0], line["type"]))
    return found
