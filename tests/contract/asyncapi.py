"""The AsyncAPI 3 document of all events, `docs/asyncapi.json`: `python -m tests.contract.asyncapi` writes it.

It is generated from the topology, the event classes, their schemas and the transports. The command refuses a schema
that breaks the published one, `docs/asyncapi.released.json`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from libs.common import VERSION
from libs.common.events import broker
from libs.common.events.event import BATCH_JSON, MAX_BYTES, MAX_EVENTS, envelope
from libs.common.web.exchange import JSON
from libs.common.web.routes import PREFIX
from libs.topology import PORT_OFFSETS, SERVICES, SUBSCRIPTIONS
from tests.contract.additive import breaches
from tests.events import ASYNCAPI, EVENTS, example_of, publisher_of, schema_of

Json = dict[str, Any]

RELEASED = ASYNCAPI.with_name("asyncapi.released.json")
"""The published document; the other one is regenerated with every change of the code."""

SUBSCRIBERS = [service for service in SERVICES if any(service in names for names in SUBSCRIPTIONS.values())]

DESCRIPTION = f"""
What the services of Quintet tell each other, and whoever else listens. Every event is a CloudEvent 1.0 in JSON.

By default events travel over HTTP: the publisher posts batches of at most {MAX_EVENTS} events and {MAX_BYTES // 1024} KiB
to each subscriber, which answers for each event. Where a broker is set, they are published to the topic exchange
`{broker.events.name}` of RabbitMQ instead, with their type as routing key, and each subscriber has a queue.

Delivery is at least once: recognise a second delivery by `id`. Events of one subject are sent in order, but one that is
tried again may arrive after its successor. Ignore members that you do not know: within a version some may be added.
"""
CLOUD_EVENT: Json = {
    "description": "A CloudEvent 1.0 in the JSON format (https://cloudevents.io).",
    "type": "object",
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1, "maxLength": 64, "description": "Recognise a second delivery by it."},
        "source": {"type": "string", "format": "uri-reference", "description": "Who says so."},
        "type": {"type": "string", "description": "What happened, with the version of its data."},
        "subject": {"type": "string", "format": "uuid", "description": "Events of one subject are sent in order."},
        "time": {"type": "string", "format": "date-time", "description": "When it was written, in UTC."},
        "datacontenttype": {"const": "application/json"},
        "dataschema": {"type": "string", "format": "uri", "description": "The `$id` of the JSON Schema of `data`."},
        "correlationid": {
            "type": "string",
            "minLength": 1,
            "description": "The id of the request that caused it; the event's own id where there was none.",
        },
        "traceparent": {
            "type": "string",
            "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            "description": "The trace context of that request (https://www.w3.org/TR/trace-context/).",
        },
        "data": {"type": "object", "description": "The facts."},
    },
    "required": [
        "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "correlationid", "data",
    ],
}  # fmt: skip
OUTCOMES: Json = {
    "name": "outcomes",
    "title": "What became of a batch",
    "summary": "One outcome for each event, in order. A batch that is refused as a whole gets a problem document.",
    "contentType": JSON,
    "payload": {
        "type": "object",
        "properties": {
            "results": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": ["string", "null"], "description": "Null where the event has no usable id."},
                        "outcome": {
                            "enum": ["done", "duplicate", "retry", "dead"],
                            "description": "`retry`: send it again later; `dead`: the consumer keeps it as a dead letter.",
                        },
                    },
                    "required": ["id", "outcome"],
                },
            }
        },
        "required": ["results"],
    },
    "bindings": {"http": {"statusCode": 200, "bindingVersion": "0.3.0"}},
}


def document() -> Json:
    return {
        "asyncapi": "3.0.0",
        "id": "urn:quintet:events",
        "info": {
            "title": "Quintet events",
            "version": VERSION,
            "description": DESCRIPTION.strip(),
            "license": {"name": "MIT", "url": "https://opensource.org/license/mit"},
            "tags": [{"name": service} for service in SERVICES],
        },
        "defaultContentType": broker.EVENT_JSON,
        "servers": {**{service: _http_server(service) for service in SUBSCRIBERS}, "broker": _BROKER},
        "channels": {
            **{f"{service}.http": _endpoint(service) for service in SUBSCRIBERS},
            **{event: _topic(event) for event in SUBSCRIPTIONS},
            **{f"{service}.queue": _queue(service) for service in SUBSCRIBERS},
        },
        "operations": {
            **{f"{pair[0]}.post.{pair[1]}": _post(*pair) for pair in _pairs()},
            **{f"{service}.take": _take(service) for service in SUBSCRIBERS},
            **{f"{publisher_of(event)}.publish.{event}": _publish(event) for event in SUBSCRIPTIONS},
            **{f"{service}.consume": _consume(service) for service in SUBSCRIBERS},
        },
        "components": {
            "messages": {
                **{event: _event(event) for event in SUBSCRIPTIONS},
                **{f"{publisher}.to.{subscriber}": _batch(publisher, subscriber) for publisher, subscriber in _pairs()},
                "outcomes": OUTCOMES,
            },
            "schemas": {"CloudEvent": CLOUD_EVENT, **{event: _data(event) for event in SUBSCRIPTIONS}},
        },
    }


def text(made: Json) -> str:
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


# Servers -----------------------------------------------------------------------------------------------------------


def _http_server(service: str) -> Json:
    return {
        "host": f"127.0.0.1:{8000 + PORT_OFFSETS[service]}",
        "protocol": "http",
        "description": f"The {service} service, where `make up` starts it.",
    }


_BROKER: Json = {
    "host": "127.0.0.1:5672",
    "protocol": "amqp",
    "protocolVersion": "0.9.1",
    "description": "RabbitMQ, where BROKER_URL names it.",
}


# Messages ----------------------------------------------------------------------------------------------------------


def _data(event: str) -> Json:
    """The schema as its file has it, but for its dialect and its id, which AsyncAPI says in its own way."""
    return {name: value for name, value in schema_of(event).items() if name not in ("$schema", "$id")}


def _event(event: str) -> Json:
    schema, service = schema_of(event), publisher_of(event)
    named = {"type": event, "source": f"/{service}_service", "dataschema": schema["$id"]}
    return {
        "name": event,
        "title": event,
        "summary": schema["description"],
        "tags": [{"name": service}],
        "contentType": broker.EVENT_JSON,
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {
            "allOf": [{"$ref": "#/components/schemas/CloudEvent"}],
            "properties": {
                **{name: {"const": value} for name, value in named.items()},
                "data": {"$ref": f"#/components/schemas/{event}"},
            },
        },
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": "0.3.0"}},
        "examples": [{"payload": _example(event)}],
    }


def _example(event: str) -> Json:
    """The event on the wire, with an id, a time and a request of no meaning."""
    wrapped = envelope(EVENTS[event](**example_of(event)), publisher_of(event))
    return {
        **wrapped,
        "id": "0198c0de-0000-7000-8000-0000000000ff",
        "time": "2026-01-31T12:00:10.000000Z",
        "correlationid": "a-request",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


def _batch(publisher: str, subscriber: str) -> Json:
    events = _told(publisher, subscriber)
    return {
        "name": f"{publisher}.to.{subscriber}",
        "title": f"Events of the {publisher} service for the {subscriber} service",
        "tags": [{"name": publisher}],
        "contentType": BATCH_JSON,
        "payload": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_EVENTS,
            "items": {"oneOf": [{"$ref": f"#/components/messages/{event}/payload"} for event in events]},
        },
    }


# Channels ----------------------------------------------------------------------------------------------------------


def _endpoint(service: str) -> Json:
    return {
        "address": f"{PREFIX}/events",
        "title": f"What the {service} service is told over HTTP",
        "servers": [{"$ref": f"#/servers/{service}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (*_batches_for(service), "outcomes")},
    }


def _topic(event: str) -> Json:
    exchange = broker.events
    declared = {"name": exchange.name, "type": exchange.type, "durable": exchange.durable, "vhost": "/"}
    return {
        "address": event,
        "title": schema_of(event)["description"],
        "servers": [{"$ref": "#/servers/broker"}],
        "messages": {event: {"$ref": f"#/components/messages/{event}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {**declared, "autoDelete": exchange.auto_delete},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _queue(service: str) -> Json:
    own, *waiting, dead = broker.queues(service)
    bound = sorted((binding.exchange.name, binding.routing_key) for binding in own.bindings)
    declared = {"name": own.name, "durable": own.durable, "exclusive": own.exclusive, "autoDelete": own.auto_delete}
    return {
        "address": own.name,
        "title": f"What the {service} service is told over RabbitMQ",
        "description": f"What is to be tried again waits in {', '.join(f'`{queue.name}`' for queue in waiting)}; what "
        f"the broker gives up comes to `{dead.name}`. These are the consumer's own.",
        "servers": [{"$ref": "#/servers/broker"}],
        "messages": {event: {"$ref": f"#/components/messages/{event}"} for event in _read_by(service)},
        "bindings": {"amqp": {"is": "queue", "queue": {**declared, "vhost": "/"}, "bindingVersion": "0.3.0"}},
        "x-bindings": [{"exchange": exchange, "routingKey": key} for exchange, key in bound],
        "x-arguments": own.queue_arguments,
    }  # fmt: skip


# Operations --------------------------------------------------------------------------------------------------------


def _post(publisher: str, subscriber: str) -> Json:
    return {
        **_over_http("send", publisher, subscriber, f"{publisher}.to.{subscriber}"),
        "summary": f"The {publisher} service posts a batch to the {subscriber} service.",
    }


def _take(service: str) -> Json:
    return {
        **_over_http("receive", service, service, *_batches_for(service)),
        "summary": f"The {service} service takes a batch and answers for each event.",
    }


def _over_http(action: str, service: str, subscriber: str, *batches: str) -> Json:
    channel = f"{subscriber}.http"
    return {
        **_operation(action, service, channel, *batches),
        "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
        "reply": {
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [{"$ref": f"#/channels/{channel}/messages/outcomes"}],
        },
    }


def _publish(event: str) -> Json:
    return {
        **_operation("send", publisher_of(event), event, event),
        "summary": f"The {publisher_of(event)} service publishes {event}, and waits for the broker's confirm.",
        "bindings": {
            "amqp": {"deliveryMode": 2, "mandatory": bool(SUBSCRIPTIONS[event]), "bindingVersion": "0.3.0"},
        },
    }


def _consume(service: str) -> Json:
    return {
        **_operation("receive", service, f"{service}.queue", *_read_by(service)),
        "summary": f"The {service} service acknowledges an event once it is in effect or safe elsewhere.",
        "bindings": {"amqp": {"ack": True, "bindingVersion": "0.3.0"}},
    }


def _operation(action: str, service: str, channel: str, *messages: str) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "tags": [{"name": service}],
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


# Who tells whom ----------------------------------------------------------------------------------------------------


def _pairs() -> list[tuple[str, str]]:
    """Each pair of publisher and subscriber."""
    return [(one, other) for one in SERVICES for other in SUBSCRIBERS if _told(one, other)]


def _batches_for(service: str) -> list[str]:
    return [f"{publisher}.to.{subscriber}" for publisher, subscriber in _pairs() if subscriber == service]


def _told(publisher: str, subscriber: str) -> list[str]:
    return [event for event in _read_by(subscriber) if publisher_of(event) == publisher]


def _read_by(subscriber: str) -> list[str]:
    return [event for event, names in SUBSCRIPTIONS.items() if subscriber in names]


def schemas(made: Json) -> Json:
    """Event type → the schema of its data, and that of the envelope."""
    found: Json = made["components"]["schemas"]
    return found


def read(path: Path) -> Json:
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


def breaks(made: Json) -> list[str]:
    """The breaking changes of a document against the published one."""
    return breaches(schemas(read(RELEASED)), schemas(made))


def main() -> None:
    made = document()
    if found := breaks(made):
        sys.exit("\n".join([*found, "What was published stays as it is: publish the next version beside it."]))
    ASYNCAPI.write_text(text(made), encoding="utf-8")


if __name__ == "__main__":
    main()
