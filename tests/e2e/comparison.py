"""Compares the answers of the system with the predictions of the model, and reads all figures of the system."""

from decimal import Decimal
from typing import Any

import requests

from demo.api import Quintet
from libs.topology import SERVICES
from tests.e2e.model import DIGITS, NEW, Answer, Json, Refusal
from tests.e2e.shop import check_problem


def compare(predicted: Answer | Refusal, answer: requests.Response) -> None:
    """Status, headers and body."""
    assert answer.status_code == predicted.status, (predicted, answer.status_code, answer.text)
    assert ("Idempotent-Replayed" in answer.headers) == predicted.replayed
    if isinstance(predicted, Refusal):
        problem = (
            answer.json() if predicted.replayed else check_problem(answer.text, answer.status_code, answer.headers)
        )
        assert problem["code"] == predicted.code, (predicted, problem)
        if predicted.errors is not None:
            told = sorted(problem["errors"], key=lambda fault: fault["pointer"])
            wanted = sorted(predicted.errors, key=lambda fault: fault["pointer"])
            assert [{n: f.get(n) for n in w} for w, f in zip(wanted, told, strict=True)] == wanted, problem
        return
    if predicted.body is None:
        assert answer.content == b""
        return
    body = answer.json()
    agree(predicted.body, body, predicted.resource)
    if "version" in body:
        assert answer.headers["ETag"] == f'"{body["version"]}"'
    if answer.status_code == 201:
        assert answer.headers["Location"].endswith(f"s/{body['id']}")


def agree(predicted: Any, found: Any, live: Json | None = None) -> None:
    """Check that they are equal, and replace NEW by the value that was found, also in the stored resource of the model."""
    if isinstance(predicted, dict) and isinstance(found, dict):
        assert predicted.keys() == found.keys(), (predicted, found)
        for name, value in found.items():
            if predicted[name] is NEW:
                assert value is not None, (name, found)
                predicted[name] = value
                if live and live[name] is NEW:
                    live[name] = value
            else:
                agree(predicted[name], value)
    elif isinstance(predicted, list) and isinstance(found, list):
        assert len(predicted) == len(found), (predicted, found)
        for one, other in zip(predicted, found, strict=True):
            agree(one, other)
    else:
        assert predicted == found, (predicted, found)


def figures(api: Quintet) -> Json:
    """Every figure of the services and of analytics, by name."""
    told = {service: api.get(service, f"/{service}s/stats").json() for service in SERVICES if service != "analytics"}
    summary = api.get("analytics", "/analytics/summary").json()
    assert not summary["degraded"]
    for service, stats in told.items():
        shown = summary[f"{service}s"]
        assert {name: stats[name] for name in shown.keys() & stats} == {
            n: shown[n] for n in shown.keys() - {"state", "as_of"}
        }
    found = flat(told)
    delivery = flat(api.get("analytics", "/analytics/notifications/delivery").json(), "delivery.")
    found |= {name: value for name, value in delivery.items() if not name.endswith(("rate", "seconds"))}
    for bucket in api.get("analytics", "/analytics/orders/timeseries").json()["items"]:
        found |= {n: found.get(n, 0) + v for n, v in flat(bucket, "series.").items() if n != "series.start"}
    for currency in DIGITS:
        for by in "units", "revenue":
            top = api.get("analytics", f"/analytics/products/top?by={by}&currency={currency}&limit=100").json()["items"]
            assert top == sorted(top, key=lambda item: (Decimal(item[by]), item["product_id"]), reverse=True)
            found |= {f"top.{item['product_id']}.{currency}.{by}": Decimal(item[by]) for item in top}
    return found


def flat(value: Any, name: str = "") -> Json:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, and amounts under their currency."""
    if isinstance(value, dict):
        return {n: v for member, inner in value.items() for n, v in flat(inner, f"{name}{member}.").items()}
    if isinstance(value, list):
        return {f"{name}{money['currency']}": Decimal(money["amount"]) for money in value}
    return {name.removesuffix("."): value}
