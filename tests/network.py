"""`responses`, where the services' client is."""

from typing import Any

import responses


def network(**options: Any) -> responses.RequestsMock:
    return responses.RequestsMock(target="libs.common.adapter.Adapter.send", **options)
