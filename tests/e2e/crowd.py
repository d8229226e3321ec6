"""Many clients at once: several processes, each with many threads, whose requests are sent at the same time."""

import http.client
import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

PROCESSES = 4

_barrier: Barrier


class Shot(NamedTuple):
    """A POST of JSON."""

    path: str
    body: Any
    headers: dict[str, str] = {}  # noqa: RUF012  never changed


class Hit(NamedTuple):
    """The answer; names of headers are in lower case."""

    shot: Shot
    status: int
    headers: dict[str, str]
    body: Any
    seconds: float


def volley(port: int, shots: list[Shot]) -> list[Hit]:
    """Send all of them at the same time, each on a connection that was opened before."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(len(shots))
    with spawn.Pool(PROCESSES, _share, (barrier,)) as pool:
        shares = [(port, shots[n::PROCESSES]) for n in range(min(PROCESSES, len(shots)))]
        parts = pool.starmap(_fire_all, shares, chunksize=1)
        pool.close()
        pool.join()
    return [hit for part in parts for hit in part]


def _share(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _fire_all(port: int, shots: list[Shot]) -> list[Hit]:
    with ThreadPoolExecutor(len(shots)) as threads:
        return list(threads.map(lambda shot: _fire(port, shot), shots))


def _fire(port: int, shot: Shot) -> Hit:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()
    _barrier.wait(60)
    started = time.monotonic()
    connection.request("POST", shot.path, json.dumps(shot.body), {"Content-Type": "application/json", **shot.headers})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return Hit(shot, answer.status, headers, body, time.monotonic() - started)
