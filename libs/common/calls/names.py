"""DNS look-ups with a timeout.

`getaddrinfo` has only the resolver's own timeout, often tens of seconds. It runs in a thread here (under gevent, in
gevent's thread pool). Callers that wait for the same name share the look-up, each until its own timeout.
"""

import socket
import threading
from ipaddress import ip_address


class _Lookup:
    def __init__(self, host: str, port: int):
        self._host, self._port = host, port
        self.done = threading.Event()
        self.found: list[str] = []
        self.fault: OSError | None = None
        threading.Thread(target=self._run, name="resolver", daemon=True).start()

    def _run(self) -> None:
        try:
            answers = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self.found = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))
        except (OSError, UnicodeError) as exc:
            self.fault = exc if isinstance(exc, OSError) else OSError(str(exc))
        finally:
            self.done.set()


class Name:
    """One host. At most one look-up is under way, so that a resolver that hangs blocks only one thread."""

    def __init__(self, host: str, port: int):
        self._host, self._port = host, port
        self._literal = _is_address(host)
        self._lock = threading.Lock()
        self._lookup: _Lookup | None = None

    def addresses(self, seconds: float) -> list[str]:
        """All addresses in order of preference. Raises TimeoutError after `seconds`, or OSError if there is none."""
        if self._literal:
            return [self._host]
        with self._lock:
            if self._lookup is None or self._lookup.done.is_set():
                self._lookup = _Lookup(self._host, self._port)
            lookup = self._lookup
        if not lookup.done.wait(seconds):
            raise TimeoutError("The name of the host was not resolved in time.")
        if lookup.fault:
            raise OSError(*lookup.fault.args) from lookup.fault
        return lookup.found


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
