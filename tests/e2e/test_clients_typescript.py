"""A client with the types that openapi-typescript generates from the five documents: tsc checks it, and it places and
follows an order.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from libs.topology import SERVICES
from tests.e2e.shop import Shop
from tests.programs import node_modules, npm_program, program

SOURCE = Path(__file__).with_name("clients")
RENAMED = {
    "user": ("User", "email"),
    "product": ("Product", "price"),
    "order": ("Order", "total"),
    "notification": ("Notification", "status"),
    "analytics": ("Summary", "degraded"),
}
"""For each service, a schema and a member that the client reads."""


@pytest.fixture
def documents(shop: Shop) -> dict[str, Any]:
    return {service: shop.get(service, "/openapi.json") for service in SERVICES}


def compile_walk(directory: Path, documents: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Generate types from the documents, and compile the client; returns the output of tsc."""
    generate, tsc = npm_program("openapi-typescript"), npm_program("tsc")
    shutil.copytree(SOURCE, directory, dirs_exist_ok=True)
    (directory / "node_modules").symlink_to(node_modules())
    for service, document in documents.items():
        (directory / f"{service}.json").write_text(json.dumps(document), encoding="utf-8")
    outputs = {s: {"root": f"{s}.json", "x-openapi-ts": {"output": f"{s}.ts"}} for s in documents}
    # It takes JSON, too.
    (directory / "redocly.yaml").write_text(json.dumps({"apis": outputs}), encoding="utf-8")
    words = [generate, "--default-non-nullable=false"]
    subprocess.run(words, cwd=directory, check=True, capture_output=True, timeout=60)
    return subprocess.run([tsc, "--pretty", "false"], cwd=directory, capture_output=True, text=True, timeout=60)


def test_the_typescript_client_walks_an_order(shop: Shop, documents: dict[str, Any], tmp_path: Path) -> None:
    compiled = compile_walk(tmp_path, documents)
    assert compiled.returncode == 0, compiled.stdout

    urls = [shop.api.url(service) for service in SERVICES]
    walked = subprocess.run(
        [program("node"), "js/walk.js", *urls], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert walked.returncode == 0, walked.stderr
    for status, order_id in json.loads(walked.stdout).items():
        assert shop.get("order", f"/orders/{order_id}")["status"] == status


def test_it_does_not_compile_when_a_member_that_it_uses_is_renamed(documents: dict[str, Any], tmp_path: Path) -> None:
    for service, (schema, member) in RENAMED.items():
        rename(documents[service]["components"]["schemas"][schema], member)

    compiled = compile_walk(tmp_path, documents)

    assert compiled.returncode != 0
    missed = {member for _, member in RENAMED.values() if f"'{member}' does not exist" not in compiled.stdout}
    assert not missed, compiled.stdout


def rename(schema: dict[str, Any], member: str) -> None:
    schema["properties"][f"the_{member}"] = schema["properties"].pop(member)
    if member in schema.get("required", ()):
        schema["required"][schema["required"].index(member)] = f"the_{member}"
