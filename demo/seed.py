"""Waits for the five services, loads the demo data once, and prints the addresses.

In `make up` the launcher runs it after it has opened the ports, so that it talks to the system that is being started.
"""

import os
import sys

import requests

from demo.api import Quintet
from libs.topology import SERVICES

USERS = (
    {"email": "ada@example.com", "name": "Ada Lovelace", "role": "customer"},
    {"email": "grace@example.com", "name": "Grace Hopper", "role": "customer"},
    {"email": "sam@example.com", "name": "Sam Seller", "role": "staff"},
)
PRODUCTS = (
    {"sku": "LAPTOP-14", "name": "Laptop", "price": "2499.99", "stock": 25, "category": "computers",
     "description": "Fourteen inches, 32 GB of memory."},
    {"sku": "MOUSE-1", "name": "Mouse", "price": "24.90", "stock": 200, "category": "accessories",
     "description": "Two buttons and a wheel."},
    {"sku": "KEYBOARD-1", "name": "Keyboard", "price": "89.00", "stock": 120, "category": "accessories",
     "description": "Mechanical, quiet switches."},
    {"sku": "MONITOR-27", "name": "Monitor", "price": "349.50", "stock": 40, "category": "computers",
     "description": "Twenty-seven inches."},
)  # fmt: skip


def load(quintet: Quintet) -> None:
    """Create the demo data; those that exist already (409: the e-mail or the SKU is taken) are left unchanged."""
    for service, path, rows in (("user", "/users", USERS), ("product", "/products", PRODUCTS)):
        for row in rows:
            try:
                answer = quintet.post(service, path, row)
            except requests.RequestException:
                raise SystemExit(f"The demo data is not loaded: the {service} service did not answer.") from None
            if answer.status_code not in (201, 409):
                raise SystemExit(f"demo data: {path} answered {answer.status_code}: {answer.text}")


def main() -> None:
    quintet = Quintet.configured()
    if not quintet.wait_until_healthy(60):
        sys.exit("The services did not become healthy; see the lines above.")
    load(quintet)
    print("\nQuintet is up, with demo data:\n")
    for service in SERVICES:
        print(f"  {service:13} {quintet.url(service)}/docs")
    print(f"\n  dashboard     {quintet.url('analytics')}/")
    print(f"  logs          {os.environ.get('LOG_DIR') or 'standard output'}")
    print("\nTry `make demo`. Ctrl-C stops everything.\n", flush=True)
