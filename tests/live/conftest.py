"""The real Flowise, and the server under test in front of it, once per test run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from openai import AzureOpenAI, DefaultHttpxClient, OpenAI

from tests.live.flowise_install import NEWEST, VERSION, install
from tests.live.real_flowise import IS_QUEUED, RealFlowise
from tests.live.wire import Wire
from tests.support.processes import ended_in_order
from tests.support.running_proxy import RunningProxy, StartProxy

TEST_SECONDS = 60
EVERYWHERE = {"harness_test", "every_version_test"}
QUEUED = "queue_test"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """An older release is run through in short; queue mode has a file of its own.

    The time limit of a test does not count the installation, which has its own.
    """
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))
    others = {item for item in ours if not _is_wanted(item.path.stem)}
    config.hook.pytest_deselected(items=list(others))
    items[:] = [item for item in items if item not in others]


def _is_wanted(file: str) -> bool:
    if file == QUEUED:
        return IS_QUEUED
    return VERSION == NEWEST or file in EVERYWHERE


@pytest.fixture(scope="session")
def flowise(request: pytest.FixtureRequest) -> Iterator[RealFlowise]:
    """A real Flowise with its flows and a fake model."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"\n{line}\n")

    with ended_in_order(), RealFlowise(install(say)) as running:
        yield running
        running.keep_folder = request.session.testsfailed > 0
        if running.keep_folder:
            say(f"All logs and Flowise's database are kept in {running.folder}")


@pytest.fixture(scope="session")
def start_proxy(flowise: RealFlowise) -> StartProxy:
    """Makes further servers, with settings that differ."""
    numbers = count(1)

    def start(**settings: str) -> RunningProxy:
        ours = {
            "FLOWISE_BASE_URL": flowise.base_url,
            "FLOWISE_API_KEY": flowise.keys["all"],
            "FLOWISE_REQUEST_TIMEOUT": "120",
        }
        folder = flowise.folder / f"proxy-{next(numbers)}"
        folder.mkdir()
        return RunningProxy(folder, **ours | settings)

    return start


@pytest.fixture(scope="session")
def proxy(start_proxy: StartProxy) -> Iterator[RunningProxy]:
    """The server under test."""
    with start_proxy() as running:
        yield running


@pytest.fixture(scope="session")
def wire(proxy: RunningProxy) -> Iterator[Wire]:
    """Raw requests to the server under test."""
    with Wire(proxy.url) as connection:
        yield connection


@pytest.fixture(scope="session")
def openai(proxy: RunningProxy) -> Iterator[OpenAI]:
    """OpenAI's own client; it never asks twice, so that every failure shows."""
    quiet = DefaultHttpxClient(trust_env=False)
    with OpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0, http_client=quiet) as client:
        yield client


@pytest.fixture(scope="session")
def azure(proxy: RunningProxy) -> Iterator[AzureOpenAI]:
    """The same for Azure's paths and key header."""
    quiet = DefaultHttpxClient(trust_env=False)
    with AzureOpenAI(
        azure_endpoint=proxy.url, api_version="2024-10-21", api_key="any", max_retries=0, http_client=quiet
    ) as client:
        yield client
