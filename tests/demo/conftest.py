"""The demo that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flowise_demo.server import DemoOptions
from tests.support.demo_client import (
    Client,
    running,
)


@pytest.fixture(scope="module")
def shared_demo() -> Iterator[Client]:
    with running(DemoOptions(record=True, token_seconds=0.0, heartbeat_seconds=0.1)) as client:
        yield client


@pytest.fixture
def demo(shared_demo: Client) -> Client:
    """The demo without the records and scripts of an earlier test."""
    shared_demo.call("DELETE", "/__demo/records")
    shared_demo.call("POST", "/__demo/script", dict.fromkeys(("listing_status", "prediction_status")))
    return shared_demo
