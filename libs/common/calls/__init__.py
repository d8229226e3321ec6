"""Calls of other services over HTTP.

client.py       ServiceClient: timeouts, deadline, retries      connections.py  the transport adapter of requests
resilience.py   circuit breaker, bulkhead, retry budget         names.py        addresses of hosts
"""
