"""A server with client keys and small limits, one for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.demo_server import DemoServer
from tests.support.hostile import CANARY
from tests.support.running_proxy import RunningProxy


@pytest.fixture(scope="module")
def keyed(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with client keys and small limits."""
    settings = {
        "FLOWISE_BASE_URL": demo.base_url,
        "PROXY_API_KEYS": f"{CANARY}, second-key",
        "PROXY_MAX_BODY_BYTES": "20000",
        "PROXY_BODY_TIMEOUT": "0.7",
        "LOG_LEVEL": "debug",
    }
    with RunningProxy(tmp_path_factory.mktemp("keyed"), **settings) as server:
        yield server
