"""The calls and the events between the services, taken from their logs."""

from libs.topology import SERVICES
from tests.contract.pacts.documents import Arrow, operation
from tests.e2e.system import System
from tests.e2e.test_logs import lines


def seen(system: System) -> set[Arrow]:
    """Every arrow in the logs: the line of a request names the calling service, and that of a batch of events
    the publishers.
    """
    found = set()
    for service in SERVICES:
        for line in lines(system, service):
            if line["event"] == "request" and "caller" in line:
                found.add(Arrow(line["caller"], service, operation(line["method"], line["route"])))
            if line["event"] == "events":
                types = [event_type for event_type, outcomes in line["outcomes"].items() if "done" in outcomes]
                found.update(Arrow(service, event_type.split(".")[0], event_type) for event_type in types)
    return found
