"""The database of a service (SQLite or PostgreSQL) and the tables that every service has.

database.py     Database, Session: transactions         engines.py      engine setup and error translation
statements.py   SQL for both engines                    prepared.py     compiled statements of the hot paths
driver.py       psycopg under gevent                    bulk.py         many rows as one parameter
columns.py      column types, naming convention         changes.py      types for updates of a resource
counters.py     totals without table scans              sums.py         sums beyond 64 bits
paging.py       keyset pagination                       idempotency.py  Idempotency-Key
erasures.py     erasure of personal data in steps       probe.py        write check for health
sweep.py        finds work for background loops         updates.py      many rows in one UPDATE
"""
