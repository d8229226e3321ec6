"""The documentation agrees with the code."""

import ast
import configparser
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import orjson
import pytest
from flask.cli import AppGroup
from prometheus_client.metrics import MetricWrapperBase

from demo.env_example import CLASSES
from libs.common import errors, metrics
from libs.common.config import Settings
from libs.common.events.event import Event
from libs.common.web.routes import PREFIX, Route
from libs.env_file import read_env_file
from libs.topology import PORT_OFFSETS, SERVICES, SUBSCRIPTIONS
from tests.chaos.bugs import BUGS
from tests.chaos.points import POINTS
from tests.unit.docs import configuration
from tests.unit.docs.pages import ROOT, Page, page, pages, spans

PAGES = pages()
each_page = pytest.mark.parametrize("page", PAGES, ids=repr)
README = page("README.md")
SAGA = page("docs/saga.md")


def in_code(pattern: str) -> set[Any]:
    """The matches of the pattern in the code spans and code blocks of all pages."""
    return {found for one in PAGES for text in one.code for found in re.findall(pattern, text)}


def defined(path: Path) -> set[str]:
    """The names of the functions, classes, methods and variables of a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Name(ctx=ast.Store()):
                found.add(node.id)
    return found


# Links -------------------------------------------------------------------------------------------------------------


def targets(page: Page) -> list[tuple[Path, str]]:
    """The links of the page within the project: path and fragment."""
    inner = [link.partition("#") for link in page.links if not re.match(r"[a-z]+:", link)]
    return [((page.path.parent / path).resolve() if path else page.path, name) for path, _, name in inner]


@each_page
def test_every_link_leads_to_a_file_and_to_what_it_names_in_it(page: Page) -> None:
    for path, name in targets(page):
        assert path.exists(), f"{page} links to {path}"
        if name:
            named = Page(path).anchors if path.suffix == ".md" else defined(path)
            assert name in named, f"{page} links to {name} in {path}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, queue = set(), [README.path]
    while queue:
        path = queue.pop()
        if path.exists() and path not in reached:
            reached.add(path)
            queue += [target for target, _ in targets(Page(path)) if target.suffix == ".md"]

    assert {one.path for one in PAGES} <= reached


# Commands ----------------------------------------------------------------------------------------------------------


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    exist = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))

    assert in_code(r"\bmake ([a-z-]+)\b") <= exist


def test_every_tox_environment_that_is_named_exists_and_is_explained() -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    exist = set(tox["tox"]["env_list"].split(", "))
    named = {name for names in in_code(r"tox run -e ([\w,]+)") for name in names.split(",")}

    assert named - {"NAME"} <= exist
    assert {spans(row[0])[0] for row in page("CONTRIBUTING.md").table("Set-up")} == exist


@each_page
def test_every_shell_block_is_valid_shell(page: Page) -> None:
    for block in page.shell:
        subprocess.run(["sh", "-n"], input=block.encode(), check=True)


def test_every_flask_command_that_is_named_exists(
    make_settings: Callable[..., Settings], run_app: Callable[..., Any]
) -> None:
    named = in_code(r"flask --app (\w+)_service\.app (\w+)(?: (\w+))?")
    assert named

    for service, first, second in named:
        command = run_app(create_app(service, make_settings)).cli.commands[first]
        assert not isinstance(command, AppGroup) or second in command.commands


def create_app(service: str, make_settings: Callable[..., Settings]) -> Any:
    module = import_module(f"{service}_service.app")
    cls = next((cls for cls in CLASSES if cls.__module__ == module.__name__), Settings)
    return module.create_app(make_settings(service, cls))


# The order by hand -------------------------------------------------------------------------------------------------

CURLS = re.findall(r"\bcurl ((?:'[^']*'|\"(?:\\.|[^\"])*\"|\\\n|[^'\"|)#\n])+)", "\n".join(README.shell))


@pytest.mark.parametrize("command", CURLS)
def test_the_readme_asks_for_what_the_services_offer(command: str) -> None:
    some_id = str(UUID(int=7))
    words = [re.sub(r"\$\w+", some_id, word) for word in shlex.split(command)]
    body = words[words.index("-d") + 1] if "-d" in words else None
    url = urlsplit(next(word for word in words if word.startswith("http")))

    service = next(name for name, offset in PORT_OFFSETS.items() if url.port == 8000 + offset)
    route = find_route(service, "POST" if body else "GET", url.path)
    if route.query:
        assert not route.query().validate(dict(parse_qsl(url.query)))
    if route.body:
        assert not route.body().validate(orjson.loads(body or ""))


def find_route(service: str, method: str, path: str) -> Route:
    for route in import_module(f"{service}_service.routes").routes.all:
        pattern = PREFIX + re.sub(r"<[^>]*>", "[^/]+", route.rule)
        if route.method == method and re.fullmatch(pattern, path):
            found: Route = route
            return found
    raise AssertionError(f"the {service} service has no {method} {path}")


# Tables ------------------------------------------------------------------------------------------------------------


def test_the_readme_names_the_port_of_each_service() -> None:
    told = {row[0]: int(row[1]) for row in README.table("What you see")}

    assert told == {service: 8000 + PORT_OFFSETS[service] for service in SERVICES}


@pytest.mark.parametrize("row", README.table("Where is what"), ids=lambda row: row[0])
def test_what_is_looked_for_is_where_the_readme_says(row: list[str]) -> None:
    (path,), (name,) = spans(row[1]), spans(row[2])

    assert name in defined(ROOT / path)


@pytest.mark.parametrize("service", SERVICES)
def test_the_files_of_a_service_are_those_that_the_readme_names(service: str) -> None:
    named = spans(README.prose.split("The files of a service", 1)[1].split("\n\n", 1)[0])
    found = {path.name for path in (ROOT / f"{service}_service").glob("*.py")} - {"__init__.py"}

    assert found <= set(named)


def test_the_events_are_those_of_the_map() -> None:
    rows = page("docs/events.md").table("Which there are")
    told = {spans(row[0])[0]: (spans(row[1]), row[2]) for row in rows}

    assert told == {name: (members(name), ", ".join(SUBSCRIPTIONS[name]) or "nobody here") for name in SUBSCRIPTIONS}


def members(event_type: str) -> list[str]:
    """The members of an event of this type, by its publisher."""
    events = vars(import_module(f"{event_type.split('.')[0]}_service.events")).values()
    published: type[Event] = next(cls for cls in events if getattr(cls, "TYPE", None) == event_type)
    return [declared.name for declared in fields(published) if declared.name != "origin"]


def test_the_metrics_are_those_that_are_kept() -> None:
    kept = {name: (list(labels), doc) for name, labels, doc in map(_metric, vars(metrics).values()) if name}
    rows = page("docs/operations.md").table("Metrics")

    assert {spans(row[0])[0]: (spans(row[1]), row[2]) for row in rows} == kept


def _metric(value: Any) -> tuple[str, tuple[str, ...], str]:
    value = getattr(value, "metric", value)  # its changes may be put off
    if not isinstance(value, MetricWrapperBase):
        return "", (), ""
    described = next(iter(value.describe()))
    suffix = "_total" if described.type == "counter" else ""
    return described.name + suffix, value._labelnames, described.documentation


def test_every_error_is_in_the_table_with_its_status() -> None:
    for service in SERVICES:
        import_module(f"{service}_service.routes")
    told = {(int(row[0]), spans(row[1])[0]) for row in page("docs/api.md").table("Errors")}
    ours = {code: cls for code, cls in errors.all_problems().items() if not cls.__module__.startswith("tests.")}
    for not_there_yet in ("unauthenticated", "forbidden"):
        del ours[not_there_yet]

    assert told == {(cls.status, code) for code, cls in ours.items()}


@pytest.mark.parametrize("row", SAGA.table("The seven rules"), ids=lambda row: f"rule {row[0]}")
def test_each_rule_of_the_saga_has_tests_of_the_code_that_fail_without_it(row: list[str]) -> None:
    proofs = [proof for number, _, proof in SAGA.table("What fails without a rule") if number == row[0]]

    assert proofs
    for proof in proofs:
        ((path, test),) = re.findall(r"\]\(\.\./(tests/\S+)#(test_\w+)\)", proof)
        assert not path.startswith("tests/unit/order_service/test_saga_model")
        assert test in defined(ROOT / path)


def test_every_crash_point_and_every_mistake_that_is_put_in_is_explained() -> None:
    reliability = page("docs/reliability.md")

    assert [spans(row[0])[0] for row in reliability.table("Crash points")] == list(POINTS)
    assert set(re.findall(r"`((?:only-)?(?:no|check)-[a-z-]+)`", reliability.prose)) == BUGS.keys()


# Settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_every_setting_is_explained_with_its_default(cls: type[Settings]) -> None:
    table = configuration.table(cls)

    assert table in page("docs/configuration.md").prose, f"docs/configuration.md needs:\n\n{table}"


def test_the_env_file_that_is_shown_is_read_as_the_page_says(tmp_path: Path) -> None:
    (shown,) = [text for text in page("docs/configuration.md").shell if "MAIL_FROM" in text]
    (tmp_path / ".env").write_text(shown)
    assert read_env_file(tmp_path / ".env") == {
        "LOG_LEVEL": "DEBUG",
        "WEB_CONCURRENCY": "4",
        "DATA_DIR": "of the $shop # 1",
        "MAIL_FROM": 'The "shop" <shop@example.org>',
    }


def test_every_variable_of_the_tools_is_read_where_the_page_says() -> None:
    for name, reader, _ in page("docs/configuration.md").table("Variables of the tools"):
        (variable,), (path,) = spans(name), spans(reader)
        assert re.search(rf"\b{variable}\b", (ROOT / path).read_text(encoding="utf-8"))


def test_every_variable_that_is_named_is_read_by_somebody() -> None:
    tools = {spans(row[0])[0] for row in page("docs/configuration.md").table("Variables of the tools")}
    assigned = in_code(r"\b([A-Z][A-Z0-9_]+)=")
    named = {span for one in PAGES for span in one.spans if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", span)}

    assert assigned | named <= configuration.names() | configuration.variants() | tools
