"""CPU time and memory are those of a process and all that descend from it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.load.flame import impersonal
from tests.load.processes import ProcessTree, listener

PROGRAM = """
import subprocess, sys
busy = "import time\\nwhile time.process_time() < {}: pass"
subprocess.run([sys.executable, "-c", busy.format(0.4)])  # ends before it is measured
kept = subprocess.Popen([sys.executable, "-c", busy.format(0.4) + "\\nprint('done', flush=True)\\ninput()"])
kept.wait()
"""


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    process.communicate("\n")


def test_what_children_have_used_is_counted_whether_they_run_or_not(parent: "subprocess.Popen[str]") -> None:
    assert parent.stdout
    assert parent.stdout.readline() == "done\n"
    tree = ProcessTree([parent.pid])

    assert len(tree.pids()) == 2
    assert 0.8 <= tree.cpu_seconds() < 2
    assert tree.pss_mib() > 2


def test_a_process_that_does_not_exist_is_refused() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(ProcessLookupError, match=str(ended.pid)):
        ProcessTree([ended.pid])


def test_the_process_that_listens_on_a_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert listener(port) == os.getpid()
    with pytest.raises(ProcessLookupError, match=str(port)):
        listener(port)


def test_a_flame_graph_names_neither_processes_nor_paths() -> None:
    picture = (
        '<text id="title" x="5">/home/me/py-spy record --pid 4711</text>'
        "<title>process 4711:&quot;/home/me/python -m libs.launcher&quot; (9 samples)</title>"
    )
    assert impersonal(picture, "order") == (
        '<text id="title" x="5">CPU time of the order service</text>'
        "<title>a process of the order service (9 samples)</title>"
    )
