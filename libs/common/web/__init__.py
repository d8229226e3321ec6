"""The REST API of a service: routes, requests and answers, OpenAPI, health and metrics.

routes.py       Routes: declarations of operations      endpoint.py     parses, runs the view, dumps
fields.py       schemas and fields                      messages.py     JSON, preconditions, problem documents
flask_app.py    the Flask app and its hooks             admission.py    load shedding
limits.py       rate limits                             events.py       POST /events
openapi.py      the OpenAPI document                    json_schema.py  its JSON Schemas and examples
documents.py    pages: OpenAPI, Swagger UI, errors      health.py       liveness, readiness, health, metrics
"""
