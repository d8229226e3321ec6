"""The topology (libs/topology.py) agrees with the services."""

from importlib import import_module

import pytest

from libs.common.events.event import Event
from libs.topology import PORT_OFFSETS, SERVICES, SUBSCRIPTIONS


def handlers_of(service: str) -> set[str]:
    """The event types that a service handles: the keys of `HANDLERS`, at the end of its use cases."""
    handlers: dict[type[Event], object] = getattr(import_module(f"{service}_service.use_cases"), "HANDLERS", {})
    return {event.TYPE for event in handlers}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_handles_exactly_the_events_that_it_subscribes_to(service: str) -> None:
    assert handlers_of(service) == {event for event, subscribers in SUBSCRIPTIONS.items() if service in subscribers}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_declares_exactly_the_events_that_it_publishes(service: str) -> None:
    declared = vars(import_module(f"{service}_service.events")).values()
    types = {cls.TYPE for cls in declared if isinstance(cls, type) and issubclass(cls, Event) and hasattr(cls, "TYPE")}
    published = {event for event in SUBSCRIPTIONS if event.split(".")[0] == service}
    assert types - handlers_of(service) == published


def test_subscribers_are_services_and_nobody_subscribes_twice_or_to_itself() -> None:
    for event, subscribers in SUBSCRIPTIONS.items():
        assert set(subscribers) <= set(SERVICES) - {event.split(".")[0]}
        assert len(set(subscribers)) == len(subscribers)


def test_ports_are_those_of_the_contract() -> None:
    assert PORT_OFFSETS == {"user": 1, "product": 2, "order": 3, "notification": 4, "analytics": 5}


def test_events_have_the_names_of_the_contract() -> None:
    named = {
        "user": ("created", "updated", "deleted"),
        "product": ("created", "updated", "deleted", "stock_adjusted"),
        "order": ("confirmed", "rejected", "cancelled", "shipped", "delivered"),
        "notification": ("sent", "dead"),
    }
    assert set(SUBSCRIPTIONS) == {f"{service}.{name}.v1" for service, names in named.items() for name in names}
