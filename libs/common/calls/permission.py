"""Which hosts and addresses may be called when somebody else chooses the URL, as the receiver of a webhook.

The name of a host is resolved once for each connection, and the connection goes to the address that was checked: a name
cannot mean another address later (DNS rebinding).
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util import parse_url
from urllib3.util.connection import create_connection

_PORTS = {"http": 80, "https": 443}
_TRANSLATED = tuple(
    ipaddress.ip_network(network)
    for network in ("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
"""IPv6 networks whose addresses contain an IPv4 address, which may be private: mapped, NAT64, 6to4, Teredo."""
_endpoint = re.compile(r"([A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?")


def is_endpoint(text: str) -> bool:
    """Whether the text is `host` or `host:port`."""
    found = _endpoint.fullmatch(text)
    return found is not None and (found[2] is None or 0 < int(found[2]) <= 65535)


def _endpoints(text: str) -> list[tuple[str, int]]:
    host, _, port = text.partition(":")
    return [(host, int(port))] if port else [(host, default) for default in _PORTS.values()]


class Permission:
    """Where webhooks may be sent: to the given hosts, each as `host` (ports 80 and 443) or `host:port`, at a public
    address or one in the given networks.
    """

    def __init__(self, hosts: Iterable[str], networks: Iterable[str] = ()):
        self._endpoints = {endpoint for host in hosts for endpoint in _endpoints(host.lower())}
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def allows(self, host: str, port: int) -> bool:
        return (host.lower(), port) in self._endpoints

    def allows_address(self, address: str) -> bool:
        ip = ipaddress.ip_address(address)
        if any(ip in network for network in self._networks):
            return True
        translated = any(ip in network for network in _TRANSLATED)
        return ip.is_global and not (ip.is_multicast or ip.is_unspecified or translated)


class NotPermitted(Exception):
    """Webhooks may not be sent to this host, or to any of its addresses."""


class _JudgedConnection(HTTPConnection):
    """Resolves the host name once, and connects to a permitted address: a second lookup could return another one."""

    permission: Permission

    def _new_conn(self) -> socket.socket:
        addresses = self._resolve()
        permitted = [address for address in addresses if self.permission.allows_address(address)]
        if not permitted:
            raise NotPermitted
        for address in permitted[:-1]:
            with suppress(OSError):
                return self._connect_to(address)
        try:
            return self._connect_to(permitted[-1])
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, "There was no connection in time.") from exc
        except OSError as exc:
            raise NewConnectionError(self, "There was no connection.") from exc

    def _resolve(self) -> list[str]:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as exc:
            raise NameResolutionError(self.host, self, exc) from exc
        return [str(address[0]) for *_, address in found]

    def _connect_to(self, address: str) -> socket.socket:
        return create_connection((address, self.port), self.timeout, socket_options=self.socket_options)


class _JudgedTlsConnection(_JudgedConnection, HTTPSConnection):
    """The same with TLS; the certificate is checked against the host name."""


def _pools(permission: Permission) -> dict[str, type[HTTPConnectionPool]]:
    """Connection pools by scheme, whose connections check this permission."""
    plain = type("_Connection", (_JudgedConnection,), {"permission": permission})
    tls = type("_TlsConnection", (_JudgedTlsConnection,), {"permission": permission})
    return {
        "http": type("_Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("_TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }


class PermittedAdapter(HTTPAdapter):
    """A transport adapter of `requests` that connects only where the permission allows it."""

    def __init__(self, permission: Permission):
        super().__init__()
        self.poolmanager.pool_classes_by_scheme = _pools(permission)
        self._permission = permission

    def check(self, url: str) -> None:
        """Raises NotPermitted for a host or a port that is not allowed."""
        # Parsed as it will be sent: two parsers may find two hosts in one odd URL.
        parts = parse_url(url)
        if not self._permission.allows(parts.host or "", parts.port or _PORTS.get(parts.scheme or "", 0)):
            raise NotPermitted
