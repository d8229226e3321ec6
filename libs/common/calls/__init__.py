"""HTTP calls to other services.

client.py       ServiceClient: timeouts, deadline, retries      connections.py  the transport adapter of requests
resilience.py   circuit breaker, bulkhead, retry budget         names.py        DNS look-ups with a timeout
permission.py   which hosts and addresses may be called
"""
