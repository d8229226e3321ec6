"""The five services in containers: their start, privileges, resources and shutdown."""

import http.client
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.api import eventually
from libs.topology import PORT_OFFSETS, SERVICES
from tests.containers.files import load
from tests.containers.system import ComposeSystem, docker
from tests.containers.test_images import SECRET
from tests.e2e.shop import Json, Shop, Units, answered
from tests.e2e.system import ROOT

pytestmark = pytest.mark.timeout(600)

START_SECONDS = 30.0
BUSY = 3.0
"""Processes for each core: more than five services that start."""
MEBIBYTES = 600

each_service = pytest.mark.parametrize("service", SERVICES)


def test_all_are_healthy_within_half_a_minute(system: ComposeSystem, tmp_path: Path) -> None:
    """One retry, since other programs may slow the machine down."""
    seconds = [system.seconds_to_start]
    if seconds[0] >= START_SECONDS:
        if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
            pytest.skip(f"this machine is too busy to tell: healthy after {seconds[0]:.1f} s")
        system.stop(*SERVICES)
        with ComposeSystem(system.base_port + 100, tmp_path) as another:
            seconds.append(another.seconds_to_start)
    print(f"healthy after {seconds[-1]:.1f} s")
    assert min(seconds) < START_SECONDS


def test_all_together_take_less_than_600_mebibytes(system: ComposeSystem, shop: Shop) -> None:
    user, laptop = shop.new_user(), shop.new_product(1000)
    for _ in range(50):
        answered(shop.order(user, laptop), 201)
    found = system.resident_mebibytes()
    print(", ".join(f"{service} {used:.0f}" for service, used in found.items()), f"= {sum(found.values()):.0f} MiB")
    assert sum(found.values()) < MEBIBYTES


def test_each_waits_until_those_that_it_needs_are_healthy() -> None:
    told = {
        service: {name for name, how in given["depends_on"].items() if how["condition"] == "service_healthy"}
        for service, given in load("compose/compose.yaml")["services"].items()
        if service in SERVICES
    }
    assert told == {
        "user": set(), "product": {"user"}, "order": {"user", "product", "notification"}, "notification": set(),
        "analytics": {"user", "product", "order", "notification"},
    }  # fmt: skip


@each_service
def test_a_service_is_found_by_its_name_on_the_network_of_the_services(system: ComposeSystem, service: str) -> None:
    assert list(system.inspect(service)["NetworkSettings"]["Networks"]) == [f"{system.project}_microservices-network"]
    other = "order" if service != "order" else "user"
    ask = f"import urllib.request as r; print(r.urlopen('http://{service}:8000/livez', timeout=5).status)"
    assert system.run_inside(other, ask) == "200\n"


@each_service
def test_a_port_is_open_to_this_machine_alone(system: ComposeSystem, service: str) -> None:
    published = system.inspect(service)["NetworkSettings"]["Ports"]["8000/tcp"]
    assert published == [{"HostIp": "127.0.0.1", "HostPort": str(system.base_port + PORT_OFFSETS[service])}]


STATUS = "import json; print(json.dumps(dict(line.rstrip().split(':\t', 1) for line in open('/proc/{}/status'))))"
WRITE = """
import json
told = {}
for path in ("/", "/app", "/venv", "/etc", "/data", "/data/run", "/tmp"):
    try:
        open(f"{path}/canary", "w").close()
        told[path] = True
    except OSError:
        told[path] = False
print(json.dumps(told))
"""


@each_service
@pytest.mark.parametrize("process", [1, "self"])
def test_no_process_has_any_privilege(system: ComposeSystem, service: str, process: object) -> None:
    """The master of gunicorn, and a command that an operator runs in the container."""
    told = json.loads(system.run_inside(service, STATUS.format(process)))
    assert set(told["Uid"].split()) == set(told["Gid"].split()) == {"10001"}
    assert {told[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
    assert told["NoNewPrivs"] == "1"


@each_service
def test_nothing_can_be_written_but_data_and_what_is_safe_to_lose(system: ComposeSystem, service: str) -> None:
    told = json.loads(system.run_inside(service, WRITE))
    assert [path for path, could in told.items() if could] == ["/data", "/data/run", "/tmp"]  # noqa: S108
    host = system.inspect(service)["HostConfig"]
    assert (host["ReadonlyRootfs"], host["Privileged"], host["CapDrop"]) == (True, False, ["ALL"])
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not [mount for mount in system.inspect(service)["Mounts"] if mount["Type"] != "volume"]


@each_service
def test_no_secret_can_be_read_from_outside(system: ComposeSystem, service: str) -> None:
    assert not SECRET.search(json.dumps(system.inspect(service)["Config"]["Env"]))


def test_the_health_is_that_of_the_service(system: ComposeSystem) -> None:
    """A check that always says yes would let others start too early."""
    check = system.inspect("user")["Config"]["Healthcheck"]["Test"][1:]
    docker("exec", system.container("user"), *check)
    elsewhere = [word.replace("8000", "8001") for word in check]
    with pytest.raises(AssertionError):
        docker("exec", system.container("user"), *elsewhere)


# The end -----------------------------------------------------------------------------------------------------------


@contextmanager
def asking(system: ComposeSystem, user: Json, laptop: Json) -> Iterator[tuple[list[str], list[str]]]:
    """Clients that each send one order after the other over one connection until it is closed: the orders that were
    answered, and the outcomes of the others. Nothing is retried.
    """
    made: list[str] = []
    lost: list[str] = []
    body = json.dumps({"user_id": user["id"], "items": [{"product_id": laptop["id"], "quantity": 1}]})

    def order() -> None:
        link = http.client.HTTPConnection("127.0.0.1", system.base_port + PORT_OFFSETS["order"], timeout=30)
        link.connect()
        while True:
            try:
                link.request("POST", "/api/v1/orders", body, {"Content-Type": "application/json"})
                answer = link.getresponse()
                told = answer.read()
            except (OSError, http.client.HTTPException) as exc:
                lost.append(repr(exc))
                return
            if answer.status == 201:
                made.append(json.loads(told)["id"])
            else:
                lost.append(told.decode())
            if answer.headers["Connection"] == "close":
                return

    clients = [threading.Thread(target=order) for _ in range(12)]
    for client in clients:
        client.start()
    yield made, lost
    for client in clients:
        client.join(60)
    assert not [client for client in clients if client.is_alive()]


def test_compose_stop_loses_no_request_that_is_under_way_and_all_end_well(system: ComposeSystem, shop: Shop) -> None:
    user, laptop = shop.known_user(), shop.new_product(100_000)
    with asking(system, user, laptop) as (made, lost):
        assert eventually(lambda: len(made) > 100, 30)
        system.stop(*SERVICES)
    system.restore()
    print(f"{len(made)} orders were answered, {len(lost)} were lost")
    assert not lost
    assert {order["id"] for order in shop.orders_of(user, "confirmed")} >= set(made)


# What docs/containers.md says -----------------------------------------------------------------------------------


def follow(system: ComposeSystem, heading: str, backup: Path) -> None:
    """Run the commands below a heading of the page, for this system and with another folder."""
    block = (ROOT / "docs/containers.md").read_text().split(f"\n## {heading}\n", 1)[1].split("```sh\n", 1)[1]
    block = block.split("```", 1)[0].replace("$PWD/backup", str(backup))
    block = re.sub(r"(?<![/\w])backup(?=/\$|$)", str(backup), block, flags=re.MULTILINE)
    block = block.replace("docker compose -f compose/compose.yaml", f"docker {' '.join(system.files)}")
    done = subprocess.run(
        ["sh", "-eu"], input=block, cwd=ROOT, env=system.variables, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, block + done.stdout[-3000:] + done.stderr[-3000:]


def test_a_backup_brings_back_what_was_and_nothing_else(system: ComposeSystem, shop: Shop, tmp_path: Path) -> None:
    user, laptop = shop.known_user(), shop.new_product(10)
    order = answered(shop.order(user, laptop, 2), 201)
    assert eventually(lambda: [one["status"] for one in shop.notifications(order)] == ["sent"])
    assert eventually(lambda: not shop.waiting())
    follow(system, "Backup of the embedded system", tmp_path / "backup")

    lost = answered(shop.order(user, laptop, 5), 201)
    follow(system, "Restore of the embedded system", tmp_path / "backup")

    assert shop.units(laptop) == Units(stock=8, reserved=2, sold=0)
    assert shop.get("order", f"/orders/{order['id']}") == order
    assert shop.api.get("order", f"/orders/{lost['id']}").status_code == 404
    assert [one["status"] for one in shop.notifications(order)] == ["sent"]
    answered(shop.order(user, laptop, 8), 201)
