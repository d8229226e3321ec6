"""The server process: Gunicorn's gevent worker, with parts of it replaced (ADR 13).

gunicorn_conf.py    the configuration of every service  worker.py   start, drain, stop
requests.py         how requests arrive                 bodies.py   and their bodies
answers.py          how answers leave                   waits.py    waits for clients
glance.py           requests that are refused before they are parsed
metrics_files.py    the metrics of a master and its workers
"""
