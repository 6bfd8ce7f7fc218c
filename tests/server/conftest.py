"""The demo Flowise that several files of server tests use, one for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.demo_server import DemoServer


@pytest.fixture(scope="module")
def flowise() -> Iterator[DemoServer]:
    """A demo Flowise that does not wait between words."""
    with DemoServer("--token-seconds", "0") as server:
        yield server
