"""Fixtures of all tests: the demo Flowise and the server in front of it, each a process of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.support.demo_server import DemoServer
from tests.support.openai_check import Golden, golden_files
from tests.support.redis_server import RedisServer
from tests.support.running_proxy import RunningProxy


def pytest_configure() -> None:
    """Let coverage know of greenlets in the servers that tests start, and there alone.

    Asked for greenlets, it makes some in each thread. Python 3.11 loops for ever when such a thread ends
    while a trace function runs: greenlet clears up in a pending call, whose first traced line begins it anew.
    """
    if os.environ.get("PYTEST_XDIST_WORKER") and "COVERAGE_PROCESS_CONFIG" in os.environ:
        from coverage.config import CoverageConfig  # noqa: PLC0415 - not needed but here

        config = CoverageConfig.deserialize(os.environ["COVERAGE_PROCESS_CONFIG"])
        config.concurrency = ["thread", "gevent"]
        os.environ["COVERAGE_PROCESS_CONFIG"] = config.serialize()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be written anew on purpose."""
    parser.addoption("--update-wire", action="store_true", help="write the golden files in tests/wire anew")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Take away the log handler of a command that a test ran: its output is closed by then."""
    before, level = set(logging.root.handlers), logging.root.level
    yield
    for handler in set(logging.root.handlers) - before:
        logging.root.removeHandler(handler)
    logging.root.setLevel(level)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares with a golden file, or writes it."""
    return golden_files(update=request.config.getoption("--update-wire"))


@pytest.fixture(scope="session")
def demo() -> Iterator[DemoServer]:
    """A demo Flowise that keeps what it was asked."""
    with DemoServer("--token-seconds", "0.002") as server:
        yield server


@pytest.fixture(scope="session")
def proxy(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """The server, started as a user starts it, in front of the demo."""
    folder = tmp_path_factory.mktemp("proxy")
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for one test's own server."""
    return tmp_path


@pytest.fixture
def openai_client(proxy: RunningProxy) -> Iterator[OpenAI]:
    """OpenAI's own client, pointed at the server; it tries once, so that errors are seen as sent."""
    with OpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a free port."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url
