"""The comparison of documents: a table of changes, and the released documents against the current ones."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from libs.topology import SERVICES
from tests.contract.breaking import breaks, may_break
from tests.openapi import DOCUMENTS, read

Json = dict[str, Any]


@pytest.mark.parametrize("service", SERVICES)
def test_no_promise_of_the_last_release_is_broken_unless_the_version_says_so(service: str) -> None:
    released, proposed = read(f"released/{service}"), read(service)
    versions = released["info"]["version"], proposed["info"]["version"]
    found = [] if may_break(*versions) else breaks(released, proposed)
    assert not found, "undo it, or raise the version in libs/common/__init__.py"


def test_what_is_released_are_the_documents_of_every_service_in_one_version() -> None:
    names = {path.stem for path in (DOCUMENTS / "released").iterdir()}
    assert names == set(SERVICES)
    assert len({read(f"released/{name}")["info"]["version"] for name in names}) == 1


@pytest.mark.parametrize(
    ("released", "version", "may"),
    [
        ("0.1.0", "0.1.0", False),
        ("0.1.0", "0.1.1", False),
        ("0.1.0", "0.2.0", True),
        ("0.9.0", "0.10.0", True),
        ("0.2.0", "0.1.9", False),
        ("0.2.0", "1.0.0", True),
        ("1.2.0", "1.3.0", False),
        ("1.2.0", "2.0.0", True),
        ("2.0.0", "1.9.0", False),
    ],
)
def test_a_major_version_may_break_promises_and_a_minor_one_before_the_first(
    released: str, version: str, may: bool
) -> None:
    assert may_break(released, version) is may


# A table of changes ------------------------------------------------------------------------------------------------

ONE = "/products/{product_id}"


def operation(document: Json, method: str = "post", path: str = "/products") -> Json:
    found: Json = document["paths"][path][method]
    return found


def schema(document: Json, name: str) -> Json:
    found: Json = document["components"]["schemas"][name]
    return found


def member(document: Json, name: str, of: str) -> Json:
    found: Json = schema(document, of)["properties"][name]
    return found


def parameter(document: Json, name: str) -> Json:
    found: Json = next(each for each in operation(document, "get")["parameters"] if each["name"] == name)
    return found


def add_parameter(document: Json, **given: Any) -> None:
    operation(document, "get")["parameters"].append({"in": "query", "name": "new", "schema": {}, **given})


def inline(document: Json, method: str, status: str, path: str = "/products") -> Json:
    """A response that is written inline, without a reference."""
    responses = operation(document, method, path)["responses"]
    name = responses[status]["$ref"].rpartition("/")[2]
    responses[status] = copy.deepcopy(document["components"]["responses"][name])
    found: Json = responses[status]
    return found


def codes(document: Json, status: str) -> Json:
    """The examples of a refusal, by code."""
    found: Json = inline(document, "post", status)["content"]["application/problem+json"]["examples"]
    return found


def rename(document: Json, name: str, other: str) -> None:
    document.update(json.loads(json.dumps(document).replace(name, other)))


BREAKING: list[tuple[str, Callable[[Json], Any], str]] = [
    ("an operation is gone", lambda d: d["paths"][ONE].pop("delete"), f"DELETE {ONE}: is gone"),
    ("a path is gone", lambda d: d["paths"].pop("/products/stats"), "GET /products/stats: is gone"),
    ("an operation has another name", lambda d: operation(d).update(operationId="x"), "operationId was create_product, is x"),
    ("a parameter is gone", lambda d: operation(d, "get")["parameters"].pop(0), "query parameter q is gone"),
    ("a new parameter is required", lambda d: add_parameter(d, required=True), "query parameter new is required now"),
    ("a parameter becomes required", lambda d: parameter(d, "category").update(required=True), "query parameter category is required now"),
    ("a parameter may be less long", lambda d: parameter(d, "category")["schema"].update(maxLength=9), "category: maxLength 100 against 9"),
    ("a parameter has fewer words", lambda d: parameter(d, "sort")["schema"]["enum"].remove("name"), "sort: name against the enum"),
    ("a parameter has another type", lambda d: parameter(d, "limit")["schema"].update(type="string"), "limit: type integer against string"),
    ("a parameter has another default", lambda d: parameter(d, "limit")["schema"].update(default=20), "limit: default 50 against 20"),
    ("a parameter gets a default", lambda d: parameter(d, "category")["schema"].update(default="x"), "category: default None against x"),
    ("a parameter has a pattern", lambda d: parameter(d, "q")["schema"].update(pattern="^a$"), "q: pattern ^[^\\x00]*[^\\x00\\s][^\\x00]*$ against ^a$"),
    ("the body becomes required", lambda d: operation(d, "delete", ONE).update(requestBody={"required": True, "content": {}}), "the body is required now"),
    ("the body is gone", lambda d: operation(d).pop("requestBody"), "body as application/json is gone"),
    ("a media type of the body is gone", lambda d: operation(d, "patch", ONE)["requestBody"]["content"].pop("application/json"), "body as application/json is gone"),
    ("a new member is required", lambda d: schema(d, "StockAdjustment")["required"].append("new"), "body /new: required against optional"),
    ("a member becomes required", lambda d: schema(d, "NewProduct")["required"].append("sku"), "body /sku: required against optional"),
    ("a member is taken no more", lambda d: schema(d, "NewProduct")["properties"].pop("sku"), "body /sku: is not known"),
    ("a member may not be null", lambda d: member(d, "sku", "NewProduct").update(type="string"), "body /sku: type null against string"),
    ("a member may not be a number", lambda d: member(d, "price", "NewProduct")["anyOf"].pop(1), "body /price: type number against string"),
    ("a member must be longer", lambda d: member(d, "name", "NewProduct").update(minLength=2), "body /name: minLength 1 against 2"),
    ("a member must be less", lambda d: member(d, "stock", "NewProduct").update(maximum=9), "body /stock: maximum 1000000000000 against 9"),
    ("a member has a bound", lambda d: schema(d, "NewProduct")["properties"].update(currency={"type": "string", "enum": ["EUR"]}), "against the enum"),
    ("fewer words of a component are taken", lambda d: schema(d, "Currency")["enum"].remove("EUR"), "body /currency: EUR against the enum"),
    ("a member has another default", lambda d: member(d, "stock", "NewProduct").update(default=1), "body /stock: default 0 against 1"),
    ("a member has no default", lambda d: member(d, "stock", "NewProduct").pop("default"), "body /stock: default 0 against None"),
    ("a member has the default of a component", lambda d: (member(d, "currency", "NewProduct").pop("default"), schema(d, "Currency").update(default="USD")), "body /currency: default EUR against USD"),
    ("a list must be shorter", lambda d: member(d, "items", "NewReservation").update(maxItems=9), "body /items: maxItems 100 against 9"),
    ("a member of an item is taken no more", lambda d: schema(d, "WantedLine")["properties"].pop("quantity"), "body /items/* /quantity: is not known"),
    ("a status is gone", lambda d: operation(d)["responses"].pop("409"), "409 is gone"),
    ("success has another status", lambda d: operation(d)["responses"].update({"200": operation(d)["responses"].pop("201")}), "201 is gone"),
    ("a media type of an answer is gone", lambda d: operation(d)["responses"]["201"].pop("content"), "201 as application/json is gone"),
    ("a problem is another type", lambda d: inline(d, "post", "422")["content"].clear(), "422 as application/problem+json is gone"),
    ("a code is gone", lambda d: codes(d, "409").pop("sku-taken"), "POST /products: 409: sku-taken is gone"),
    ("a code has another name", lambda d: rename(d, 'sku-taken"', 'sku-in-use"'), "POST /products: 409: sku-taken is gone"),
    ("a code comes with another status", lambda d: codes(d, "422").update(x=codes(d, "409").pop("sku-taken")), "POST /products: 409: sku-taken is gone"),
    ("the paths are elsewhere", lambda d: d["servers"][0].update(url="/api/v2"), "server /api/v1: is gone"),
    ("a member comes no more", lambda d: (schema(d, "Product")["properties"].pop("sold"), schema(d, "Product")["required"].remove("sold")), "/sold: is gone"),
    ("an optional member comes no more", lambda d: schema(d, "Problem")["properties"].pop("errors"), "/errors: is gone"),
    ("a member of an item comes no more", lambda d: schema(d, "ReservedLine")["properties"].pop("name"), "/items/* /name: is gone"),
    ("the items of an answer may be anything", lambda d: member(d, "items", "ProductPage").pop("items"), "/items/*: is gone"),
    ("a member may be missing", lambda d: schema(d, "Product")["required"].remove("sku"), "/sku: required against optional"),
    ("a member may be null", lambda d: member(d, "name", "Product").update(type=["string", "null"]), "/name: type null against string"),
    ("a member is a number", lambda d: member(d, "price", "Product").update(type="number"), "/price: type number against string"),
    ("a member may be longer", lambda d: member(d, "name", "Product").update(maxLength=999), "/name: maxLength 999 against 200"),
    ("a member has no bound", lambda d: member(d, "stock", "Product").pop("minimum"), "/stock: minimum None against 0"),
    ("a member has another format", lambda d: member(d, "created_at", "Product").update(format="date"), "/created_at: format date against date-time"),
    ("an answer has more words", lambda d: member(d, "status", "Reservation")["enum"].append("lost"), "/status: lost against the enum"),
    ("a page has more items", lambda d: member(d, "items", "ProductPage").update(maxItems=999), "/items: maxItems 999 against 200"),
    ("an answer has another shape", lambda d: member(d, "body", "Outcome")["anyOf"].append({"type": "string"}), "/body: type string against object"),
    ("a header is gone", lambda d: operation(d)["responses"]["201"]["headers"].pop("Location"), "201 Location is gone"),
    ("a header may be missing", lambda d: d["components"]["headers"]["ETag"].pop("required"), "ETag may be missing now"),
    ("a header is another type", lambda d: d["components"]["headers"]["Retry-After"]["schema"].update(type="string"), "Retry-After: type string against integer"),
]  # fmt: skip

HARMLESS: list[tuple[str, Callable[[Json], Any]]] = [
    ("nothing", lambda d: None),
    ("another description", lambda d: operation(d).update(summary="x", description="y")),
    ("another tag", lambda d: operation(d).update(tags=["z"])),
    ("another example", lambda d: operation(d)["requestBody"]["content"]["application/json"].update(example={})),
    ("a new operation", lambda d: d["paths"].update({"/new": {"get": {"operationId": "new", "responses": {}}}})),
    ("a new parameter", add_parameter),
    ("a new member of a request", lambda d: schema(d, "NewProduct")["properties"].update(new={"type": "string"})),
    ("a new member of an answer", lambda d: (schema(d, "Product")["properties"].update(new={"type": "string"}), schema(d, "Product")["required"].append("new"))),
    ("a member of a request may be left out", lambda d: schema(d, "NewProduct")["required"].remove("price")),
    ("a member of a request may be null", lambda d: member(d, "name", "NewProduct").update(type=["string", "null"])),
    ("a member of a request may be longer", lambda d: member(d, "name", "NewProduct").update(maxLength=999)),
    ("a member of a request may be anything", lambda d: schema(d, "NewProduct")["properties"].update(name={})),
    ("a member of a request may be a number", lambda d: member(d, "delta", "StockAdjustment").update(type="number")),
    ("more words are taken", lambda d: schema(d, "Currency")["enum"].append("XXX")),
    ("a body need not be sent", lambda d: operation(d)["requestBody"].update(required=False)),
    ("another media type is taken", lambda d: operation(d)["requestBody"]["content"].update({"application/xml": {"schema": {}}})),
    ("an answer has fewer words", lambda d: member(d, "status", "Reservation")["enum"].remove("sold")),
    ("an answer is shorter", lambda d: member(d, "name", "Product").update(maxLength=99)),
    ("an answer is never null", lambda d: member(d, "sku", "Product").update(type="string")),
    ("another status", lambda d: operation(d)["responses"].update({"402": {"description": "x"}})),
    ("another header", lambda d: operation(d)["responses"]["201"]["headers"].update({"X": {"schema": {}}})),
    ("a component has another name", lambda d: (rename(d, 'schemas/Product"', 'schemas/P"'), rename(d, '"Product":', '"P":'))),
    ("a new code", lambda d: codes(d, "409").update(new={"value": {"code": "new"}})),
    ("another name of an example", lambda d: rename(d, '"sku-taken": {"$ref"', '"x": {"$ref"')),
    ("another server", lambda d: d["servers"].append({"url": "/api/v2"})),
    ("a member may be left out and has a default", lambda d: (schema(d, "NewProduct")["required"].remove("price"), member(d, "price", "NewProduct").update(default="0"))),
    ("a new member has a default", lambda d: schema(d, "NewProduct")["properties"].update(new={"type": "string", "default": "x"})),
    ("a new parameter has a default", lambda d: add_parameter(d, schema={"default": "x"})),
]  # fmt: skip


def changed(change: Callable[[Json], Any]) -> tuple[Json, Json]:
    """The document of the product service before and after a change."""
    document = read("product")
    proposed = copy.deepcopy(document)
    change(proposed)
    return document, proposed


@pytest.mark.parametrize(("change", "told"), [row[1:] for row in BREAKING], ids=[row[0] for row in BREAKING])
def test_this_breaks_a_promise(change: Callable[[Json], Any], told: str) -> None:
    found = breaks(*changed(change))
    assert [line for line in found if line.endswith(told)], found


@pytest.mark.parametrize("change", [row[1] for row in HARMLESS], ids=[row[0] for row in HARMLESS])
def test_this_breaks_no_promise(change: Callable[[Json], Any]) -> None:
    assert breaks(*changed(change)) == []


def test_words_that_may_be_null_may_be_written_in_either_way() -> None:
    def write_out(document: Json) -> None:
        words = [*schema(document, "Currency")["enum"], None]
        schema(document, "ProductChangePatch")["properties"]["currency"] = {"type": ["string", "null"], "enum": words}

    referring, written_out = changed(write_out)
    assert breaks(referring, written_out) == breaks(written_out, referring) == []
