"""Writes the Postman collection and its environments from `table.py`: `python -m tests.postman.generate`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from libs.topology import PORT_OFFSETS
from tests.postman.table import FOLDERS, SERVICES, Request

HERE = Path(__file__).parent
COLLECTION = HERE / "quintet.postman_collection.json"
ENVIRONMENTS = {
    "local": {service: f"http://127.0.0.1:{8000 + PORT_OFFSETS[service]}" for service in SERVICES},
    "compose": {service: f"http://{service}:8000" for service in SERVICES},
}
"""Where each service is: from this machine, for `make up` and for what compose.yaml publishes, and from a container on
the network of compose.yaml.
"""
TRIES = 100
PAUSE_MS = 100

EVERY_ANSWER = """
const has = (name) => pm.expect(pm.response.headers.get(name), name).to.be.a("string");
pm.test("no fault of the service", () => pm.expect(pm.response.code).to.not.be.oneOf([500, 501, 502, 504]));
pm.test("names the request", () => pm.expect(pm.response.headers.get("X-Request-ID")).to.match(/^[A-Za-z0-9._-]{1,128}$/));
pm.test("says whether a cache may keep it", () => has("Cache-Control"));
if (pm.response.code === 201) {
    pm.test("says where it is", () => has("Location"));
}
if (pm.response.code >= 400) {
    const problem = pm.response.json();
    pm.test("is a problem document", () => {
        pm.expect(pm.response.headers.get("Content-Type")).to.eql("application/problem+json");
        pm.expect(problem).to.include.keys("type", "title", "status", "detail", "instance", "code", "request_id");
        pm.expect(problem.status).to.eql(pm.response.code);
        pm.expect(problem.type).to.eql(`/errors/${problem.code}`);
        pm.expect(problem.instance).to.eql(pm.request.url.getPath());
    });
    // What is repeated names the request that it was said to first.
    if (!pm.response.headers.has("Idempotent-Replayed")) {
        pm.test("tells of this request", () => pm.expect(problem.request_id).to.eql(pm.response.headers.get("X-Request-ID")));
    }
    const header = { 405: "Allow", 412: "ETag", 429: "Retry-After", 503: "Retry-After" }[pm.response.code];
    if (header) {
        pm.test("says what would do", () => has(header));
    }
}
"""


def collection() -> dict[str, Any]:
    names = [request.name for requests in FOLDERS.values() for request in requests]
    assert len(names) == len(set(names)), "names are unique: a request that waits refers to itself by name"
    return {
        "info": {
            "_postman_id": str(uuid5(NAMESPACE_URL, "quintet")),
            "name": "Quintet",
            "description": "Every operation of the five services. Made by `python -m tests.postman.generate`.",
            "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
        },
        "event": [_script("test", EVERY_ANSWER.strip().splitlines())],
        "item": [{"name": name, "item": [_item(each) for each in requests]} for name, requests in FOLDERS.items()],
    }


def environment(name: str) -> dict[str, Any]:
    values = [{"key": f"{service}_url", "value": url, "enabled": True} for service, url in ENVIRONMENTS[name].items()]
    return {"id": str(uuid5(NAMESPACE_URL, f"quintet/{name}")), "name": f"Quintet, {name}", "values": values}


def generated() -> dict[Path, str]:
    """Every generated file → its contents."""
    environments = {HERE / f"{name}.postman_environment.json": text(environment(name)) for name in ENVIRONMENTS}
    return {COLLECTION: text(collection()), **environments}


def text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _item(request: Request) -> dict[str, Any]:
    path = request.path.removeprefix("/") if request.path.startswith("//") else f"/api/v1{request.path}"
    url = f"{{{{{request.service}_url}}}}" + re.sub(r"\{(\w+)\}", r"{{\1}}", path)
    made: dict[str, Any] = {"method": request.method, "url": url, "header": []}
    headers = dict(request.headers)
    if request.body is not None:
        headers = {"Content-Type": "application/json", **headers}
        raw = request.body if isinstance(request.body, str) else json.dumps(request.body, indent=2)
        made["body"] = {"mode": "raw", "raw": raw, "options": {"raw": {"language": "json"}}}
    made["header"] = [{"key": name, "value": value} for name, value in headers.items()]
    before = [line for name, pattern in request.fresh.items() for line in _fresh(name, pattern)]
    if request.patiently:
        before.append(f"setTimeout(() => {{}}, {PAUSE_MS});")
    events = [_script("prerequest", before)] if before else []
    return {"name": request.name, "event": [*events, _script("test", _test(request))], "request": made}


def _fresh(name: str, pattern: str) -> list[str]:
    """The e-mail is also needed in capitals."""
    lines = [
        f'pm.collectionVariables.set("{name}", "{pattern}".replace("*", pm.variables.replaceIn("{{{{$guid}}}}")));'
    ]
    if name == "email":
        lines.append('pm.collectionVariables.set("EMAIL", pm.collectionVariables.get("email").toUpperCase());')
    return lines


def _test(request: Request) -> list[str]:
    lines = [f'pm.test("answers {request.status}", () => pm.response.to.have.status({request.status}));']
    claims = list(_claims(request))
    if request.keep or any("body" in claim for _, claim in claims):
        lines.append("const body = pm.response.json();")
    lines += [f'pm.collectionVariables.set("{name}", {_found(where)});' for name, where in request.keep.items()]
    lines += [f"pm.test({json.dumps(what)}, () => {{ {claim} }});" for what, claim in claims]
    return _patient(claims, lines) if request.patiently else lines


def _claims(request: Request) -> Iterator[tuple[str, str]]:
    """The claims about the answer, and the JavaScript that throws where one does not hold."""
    for name, value in request.has.items():
        assertion = f"to.eql({_value(value)})" if value else "to.be.a('string')"
        yield f"header {name}", f'pm.expect(pm.response.headers.get("{name}")).{assertion};'
    expected = request.expect | ({"code": request.problem} if request.problem else {})
    for member, value in expected.items():
        yield member, f"pm.expect(body.{member}).to.eql({_value(value)});"
    for number, line in enumerate(request.also, 1):
        yield f"and more ({number})", line


def _patient(claims: list[tuple[str, str]], lines: list[str]) -> list[str]:
    """Repeat the request until all claims hold; the last answer is checked."""
    return [
        "const holds = () => {",
        "    const body = pm.response.json();",
        f"    try {{ {' '.join(claim for _, claim in claims)} return true; }} catch {{ return false; }}",
        "};",
        'const tries = Number(pm.collectionVariables.get("tries") || 0) + 1;',
        'pm.collectionVariables.set("tries", tries);',
        f"if (!holds() && tries < {TRIES}) {{",
        "    pm.execution.setNextRequest(pm.info.requestName);",
        "} else {",
        '    pm.collectionVariables.unset("tries");',
        *(f"    {line}" for line in lines),
        "}",
    ]


def _found(where: str) -> str:
    return (
        f'pm.response.headers.get("{where.removeprefix("header ")}")'
        if where.startswith("header ")
        else f"body.{where}"
    )


def _value(value: Any) -> str:
    """As JavaScript, with the variables in it."""
    literal = json.dumps(value, ensure_ascii=False)
    return f"pm.variables.replaceIn({literal})" if "{{" in literal else literal


def _script(listen: str, lines: list[str]) -> dict[str, Any]:
    return {"listen": listen, "script": {"type": "text/javascript", "exec": lines}}


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content, encoding="utf-8")
