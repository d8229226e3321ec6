"""The calls and the events between the services, taken from their logs."""

from libs.topology import SERVICES
from tests.contract.pacts.documents import Arrow, operation
from tests.e2e.system import System
from tests.e2e.test_logs import lines


def seen(system: System) -> set[Arrow]:
    """Every arrow in the logs: the line of a request names the calling service, and that of an event the publisher."""
    found = set()
    for service in SERVICES:
        for line in lines(system, service):
            if line["event"] == "request" and "caller" in line:
                found.add(Arrow(line["caller"], service, operation(line["method"], line["route"])))
            if line["event"] == "event" and line["outcome"] == "done":
                found.add(Arrow(service, line["type"].split(".")[0], line["type"]))
    return found
