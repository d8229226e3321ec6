"""Writes the Postman collection and its environment from `table.py`: `python -m tests.postman.generate`."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from libs.topology import PORT_OFFSETS
from tests.postman.table import FOLDERS, Request

HERE = Path(__file__).parent
COLLECTION = HERE / "quintet.postman_collection.json"
ENVIRONMENT = HERE / "local.postman_environment.json"
TRIES = 100
PAUSE_MS = 100

EVERY_ANSWER = """
pm.test("no fault of the service", () => pm.expect(pm.response.code).to.not.be.oneOf([500, 501, 502, 504]));
pm.test("names the request", () => pm.expect(pm.response.headers.get("X-Request-ID")).to.match(/^[A-Za-z0-9._-]{1,128}$/));
if (pm.response.code >= 400) {
    const problem = pm.response.json();
    pm.test("is a problem document", () => {
        pm.expect(pm.response.headers.get("Content-Type")).to.eql("application/problem+json");
        pm.expect(problem).to.include.keys("type", "title", "status", "detail", "instance", "code", "request_id");
        pm.expect(problem.status).to.eql(pm.response.code);
        pm.expect(problem.request_id).to.eql(pm.response.headers.get("X-Request-ID"));
    });
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


def environment() -> dict[str, Any]:
    values = [
        {"key": f"{service}_url", "value": f"http://127.0.0.1:{8000 + offset}", "enabled": True}
        for service, offset in PORT_OFFSETS.items()
    ]
    return {"id": str(uuid5(NAMESPACE_URL, "quintet/local")), "name": "Quintet, local", "values": values}


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
    """The e-mail comes in capitals, too."""
    lines = [
        f'pm.collectionVariables.set("{name}", "{pattern}".replace("*", pm.variables.replaceIn("{{{{$guid}}}}")));'
    ]
    if name == "email":
        lines.append('pm.collectionVariables.set("EMAIL", pm.collectionVariables.get("email").toUpperCase());')
    return lines


def _test(request: Request) -> list[str]:
    expected = dict(request.expect)
    if request.problem:
        expected["code"] = request.problem
    lines = [f'pm.test("answers {request.status}", () => pm.response.to.have.status({request.status}));']
    if expected or request.keep or any("body" in line for line in request.also):
        lines.append("const body = pm.response.json();")
    lines += [f'pm.collectionVariables.set("{name}", {_found(where)});' for name, where in request.keep.items()]
    for name, value in request.has.items():
        header = f'pm.response.headers.get("{name}")'
        assertion = f"to.eql({_value(value)})" if value else "to.be.a('string')"
        lines.append(_assert(f"header {name}", f"pm.expect({header}).{assertion};"))
    for member, value in expected.items():
        lines.append(_assert(member, f"pm.expect(body.{member}).to.eql({_value(value)});"))
    lines += [_assert(f"and more ({number})", line) for number, line in enumerate(request.also, 1)]
    return _patient(request, lines) if request.patiently else lines


def _patient(request: Request, lines: list[str]) -> list[str]:
    """Ask again as long as the answer is not the expected one; the last answer is judged."""
    met = " && ".join(f"now.{member} === {_value(value)}" for member, value in request.expect.items())
    return [
        "const now = pm.response.json();",
        'const tries = Number(pm.collectionVariables.get("tries") || 0) + 1;',
        'pm.collectionVariables.set("tries", tries);',
        f"if (!({_careful(met)}) && tries < {TRIES}) {{",
        "    pm.execution.setNextRequest(pm.info.requestName);",
        "} else {",
        '    pm.collectionVariables.unset("tries");',
        *(f"    {line}" for line in lines),
        "}",
    ]


def _careful(condition: str) -> str:
    """`now.items[0].id` of an empty list must not throw."""
    return condition.replace("[0].", "[0]?.")


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


def _assert(what: str, line: str) -> str:
    return f"pm.test({json.dumps(what)}, () => {{ {line} }});"


def _script(listen: str, lines: list[str]) -> dict[str, Any]:
    return {"listen": listen, "script": {"type": "text/javascript", "exec": lines}}


if __name__ == "__main__":
    COLLECTION.write_text(text(collection()), encoding="utf-8")
    ENVIRONMENT.write_text(text(environment()), encoding="utf-8")
