"""`.env.example` lists exactly the variables that the services read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.env_example import CLASSES
from libs.common.config import Settings, env_example
from libs.topology import SERVICES
from tests.contract.conftest import settings_of

ROOT = Path(__file__).parents[2]


def variables(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE))


def test_the_example_is_what_the_declarations_say() -> None:
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example(CLASSES)


def test_the_command_writes_it() -> None:
    """`make env-example` redirects the output of this command."""
    ran = subprocess.run([sys.executable, "-m", "demo.env_example"], capture_output=True, cwd=ROOT, timeout=60)
    assert (ran.stdout, ran.returncode) == ((ROOT / ".env.example").read_bytes(), 0), ran.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_in_the_example(service: str) -> None:
    assert settings_of(service) in CLASSES


@pytest.mark.parametrize("service", SERVICES)
def test_with_every_line_of_the_example_a_service_starts_as_without(service: str) -> None:
    environ = variables(env_example(CLASSES))
    assert len(environ) > 25
    assert settings_of(service).load(service, environ) == settings_of(service).load(service, {})


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_reads_a_variable_that_is_not_in_the_example(service: str) -> None:
    """Only the settings read the environment."""
    known = set(variables(env_example(CLASSES))) | {"SERVICE", "PROMETHEUS_MULTIPROC_DIR"}
    read = set()
    for path in (*(ROOT / "libs").rglob("*.py"), *(ROOT / f"{service}_service").rglob("*.py")):
        read |= set(
            re.findall(r"(?:os\.environ(?:\.get\(|\[)|getenv\()\s*[\"']([A-Z_]+)", path.read_text(encoding="utf-8"))
        )
    assert read <= known


def test_every_setting_says_what_it_is() -> None:
    for cls in (Settings, *CLASSES):
        for name, declared in cls.__dataclass_fields__.items():
            if not declared.metadata.get("internal"):
                assert declared.metadata["doc"].endswith("."), name
