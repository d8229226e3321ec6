"""The server process: Gunicorn's gevent worker, with parts of it replaced (ADR 13).

gunicorn_conf.py    the configuration of every service  worker.py   start, drain, stop
requests.py         reading of request heads            bodies.py   reading of request bodies
answers.py          sending of answers                  waits.py    waits for clients, with timeouts
lane.py             the short way of plain requests from their bytes to their endpoint
metrics_files.py    the metrics files of a master and its workers
"""
