"""Events between services: transactional outbox, transports, and an inbox with exactly-once effect.

event.py         Event and its CloudEvent               outbox.py        events to be sent, and their leases
courier.py       claims, sends and marks rows           inbox.py         events received, each handled once
http.py          the transport over HTTP                broker.py        the transport over RabbitMQ
dead_letters.py  events that could not be handled
"""
