"""Every place that lists the services lists those of libs/topology.py, and CONTRIBUTING names every such place."""

import configparser
import re
import tomllib
from collections.abc import Callable
from dataclasses import fields

import pytest
import yaml

from libs.common.config import Settings
from libs.topology import PACKAGES, SERVICES
from tests.unit.docs.pages import ROOT, page, spans

ORDERED = list(SERVICES)


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def services_of(packages: str) -> list[str]:
    """The services whose packages a text names, separated by anything."""
    return [found[:-8] for found in re.findall(r"\b[a-z]+_service\b", packages)]


def setup(section: str, option: str) -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return services_of(config[section][option])


def compose_services(path: str) -> list[str]:
    """The services of the compose file; workers and migrations belong to a service."""
    found = yaml.load(re.sub(r"!override|!reset", "", text(path)), Loader=yaml.SafeLoader)["services"]
    return [name for name in found if name in SERVICES or f"{name}-migration" in found]


def lists_in_setup() -> list[list[str]]:
    sections = [
        ("options.packages.find", "include"),
        ("coverage:run", "source"),
        ("mypy", "files"),
        ("importlinter", "root_packages"),
        ("importlinter:contract:independence", "modules"),
        ("importlinter:contract:library", "forbidden_modules"),
        ("importlinter:contract:layers", "containers"),
    ]
    return [setup(section, option) for section, option in sections]


LISTS: dict[str, Callable[[], list[list[str]]]] = {
    "libs/topology.py": lambda: [[name[:-8] for name in PACKAGES.values()]],
    "libs/common/config.py": lambda: [
        [field.name[:-12] for field in fields(Settings) if field.name.endswith("_service_url")]
    ],
    "Makefile": lambda: [re.findall(r"^SERVICES := (.*)$", text("Makefile"), re.MULTILINE)[0].split()],
    "Procfile": lambda: [
        re.findall(r"^(\w+):", text("Procfile"), re.MULTILINE),
        re.findall(r"SERVICE=(\w+)", text("Procfile")),
        services_of(text("Procfile")),
    ],
    "setup.cfg": lists_in_setup,
    "tox.ini": lambda: [services_of(re.findall(r"^services = (.*)$", text("tox.ini"), re.MULTILINE)[0])],
    "ruff.toml": lambda: [
        services_of(" ".join(tomllib.loads(text("ruff.toml"))["lint"]["isort"]["known-first-party"]))
    ],
    "compose/compose.yaml": lambda: [compose_services("compose/compose.yaml")],
    "compose/compose.production.yaml": lambda: [compose_services("compose/compose.production.yaml")],
    "compose/postgres/init/services.sql": lambda: [
        re.findall(r"^\\set service (\w+)$", text("compose/postgres/init/services.sql"), re.MULTILINE)
    ],
    "compose/write_secrets.py": lambda: [
        re.findall(r'"(\w+)"', re.findall(r"^SERVICES = (.*)$", text("compose/write_secrets.py"), re.MULTILINE)[0])
    ],
}


@pytest.mark.parametrize("path", LISTS)
def test_a_list_of_the_services_is_that_of_the_map(path: str) -> None:
    assert LISTS[path]() == [ORDERED] * len(LISTS[path]())


def test_every_service_has_its_package_its_document_and_its_tests() -> None:
    for service, package in PACKAGES.items():
        assert (ROOT / package / "app.py").exists()
        assert (ROOT / package / "migrations" / f"{service}_0001.py").exists()
        assert (ROOT / "docs" / "openapi" / f"{service}.json").exists()
        assert (ROOT / "tests" / "unit" / package).is_dir()
        assert (ROOT / "tests" / "integration" / package).is_dir()


def test_the_guide_to_a_sixth_service_names_every_list() -> None:
    assert [spans(row[0])[0] for row in page("CONTRIBUTING.md").table("A sixth service")] == list(LISTS)


def test_no_other_file_lists_the_packages_of_all_services() -> None:
    """Documents, tests and generated files have other tests."""
    files = [path for pattern in ("*", "compose/**/*", "libs/**/*", ".ci/*") for path in ROOT.glob(pattern)]
    listing = {
        str(path.relative_to(ROOT))
        for path in files
        if path.is_file() and path.suffix not in (".md", ".txt", ".whl", ".pyc")
        and set(services_of(path.read_text(encoding="utf-8", errors="replace"))) >= set(SERVICES)
    }  # fmt: skip

    assert listing <= LISTS.keys() | {".env.example"}
