"""The database of a service, on SQLite or PostgreSQL, and what is kept in it for every service.

database.py     Database, Session: transactions         columns.py      column types
statements.py   SQL that both engines understand        prepared.py     statements of the hot paths
counters.py     totals without scans                    idempotency.py  keys of operations in one transaction
paging.py       pages of lists                          engines.py      how each engine is set up
sums.py         sums beyond 64 bits                     probe.py        whether the database can be written
erasures.py     what deleted users wrote
"""
