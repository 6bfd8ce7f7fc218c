"""A client reads a stream of an upstream that is long silent, with heartbeats between its words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.bench import Bench, Driver
from tests.clients.checks import said
from tests.clients.declared import declared_clients
from tests.clients.matrix import Client
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, ending, token

pytestmark = pytest.mark.clients

SURFACES = [
    pytest.param(client, surface, id=f"{client.folder}-{surface}")
    for client in declared_clients()
    for surface in client.surfaces
    # Azure's addresses have the same streams.
    if not client.is_application
    and "azure" not in surface
    and True in client.streams
    and (surface, "stream") not in client.missing
    and "stream" not in client.missing
]


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that sends many heartbeats, in front of a Flowise that is silent before each word."""
    with SayingFlowise() as flowise:
        flowise.streams(0.5, token("Hel"), 0.5, token("lo"), 0.5, ending())
        settings = {"FLOWISE_BASE_URL": flowise.base_url, "PROXY_HEARTBEAT_SECONDS": "0.1"}
        with RunningProxy(tmp_path_factory.mktemp("silent"), **settings) as proxy:
            yield proxy.url


@pytest.mark.parametrize(("client", "surface"), SURFACES)
def test_heartbeats_disturb_no_stream(
    client: Client, surface: str, silent: str, bench: Bench, tmp_path: Path
) -> None:
    command = bench.environment(client).script(client.source(), bench.folder)
    driver = Driver([*command, silent], tmp_path)
    case = {"surface": surface, "model": FLOW, "stream": True, "user": "a", "turns": said("Hello")}
    answer = driver.ask(case)
    driver.stop()
    assert answer.get("text", "").strip() == "Hello", answer
