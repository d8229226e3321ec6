"""The REST API of a service: routes, requests and answers, OpenAPI, health and metrics.

routes.py       Routes: declarations of operations      endpoint.py     parses, runs the view, dumps
exchange.py     a request as an endpoint sees it        frame.py        what surrounds every request
fields.py       schemas and fields                      messages.py     JSON bodies and preconditions
flask_app.py    the Flask app: the adapter to Flask     responses.py    answers as responses of Flask
admission.py    load shedding                           limits.py       rate limits
openapi.py      the OpenAPI document                    json_schema.py  its JSON Schemas and examples
documents.py    pages: OpenAPI, Swagger UI, errors      health.py       liveness, readiness, health, metrics
events.py       POST /events
"""
