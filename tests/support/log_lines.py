"""The JSON log lines of a running server."""

from __future__ import annotations

import json
from typing import Any

from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

REQUEST, BACKGROUND, SOCKET = "request", "background response", "response over a websocket"


def lines(proxy: RunningProxy, message: str = "", **fields: Any) -> list[dict[str, Any]]:
    """The lines so far with this message, if any, and these fields."""
    whole, _, _ = proxy.log().rpartition("\n")
    found = [json.loads(line) for line in whole.split("\n") if line.startswith("{")]
    return [
        line
        for line in found
        if (not message or line["message"] == message) and all(line.get(n) == v for n, v in fields.items())
    ]


def line(proxy: RunningProxy, message: str = REQUEST, **fields: Any) -> dict[str, Any]:
    """The one line with this message and these fields, which may be written after its answer."""
    assert wait_for(lambda: bool(lines(proxy, message, **fields)), 10), proxy.log()
    [found] = lines(proxy, message, **fields)
    return found
