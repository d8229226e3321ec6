"""The REST surface: from the declaration of a route to its answer, its document and its metrics.

routes.py       Routes: operations are declared here    endpoint.py     parse, run the view, dump
fields.py       schemas and fields                      messages.py     JSON, conditions, problem documents
flask_app.py    what surrounds every view               admission.py    load shedding
limits.py       rate limits                             events.py       POST /events
openapi.py      the OpenAPI document                    json_schema.py  the schemas and examples in it
documents.py    what a service says of itself           health.py       liveness, readiness, health, metrics
"""
