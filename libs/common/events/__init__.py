"""Events between services: stored with the change, sent later, handled once in effect.

event.py         Event, and its CloudEvent              outbox.py        events to be sent, and the leases on them
courier.py       claim, send, mark                      inbox.py         events received, each handled once
http.py          the embedded transport                 broker.py        the transport over RabbitMQ
dead_letters.py  events that could not be handled
"""
