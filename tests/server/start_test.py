"""What is wrong at the start ends it with one line."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.support.processes import Server, clean_environment
from tests.support.running_proxy import PROJECT


def test_a_server_that_cannot_start_ends_instead_of_trying_for_ever(tmp_path: Path) -> None:
    (tmp_path / "tenacity.py").write_text("raise ImportError('broken')")
    command = [sys.executable, str(PROJECT / "openai_compatible_server.py")]
    settings = {"PYTHONPATH": str(tmp_path), "PORT": "0", "FLOWISE_BASE_URL": "http://127.0.0.1:9"}
    with Server("broken", command, clean_environment(tmp_path, **settings), tmp_path) as server:
        assert server.ended(20) != 0


def _stopped_at_once(folder: Path, **settings: str) -> str:
    command = [sys.executable, str(PROJECT / "openai_compatible_server.py")]
    with Server("refused", command, clean_environment(folder, **settings), folder) as server:
        status = server.ended(15)
    assert status == 2
    return server.tail()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"PORT": "eighty"}, "PORT='eighty' is not allowed: it must be a whole number from 0 to 65535"),
        ({"FLOWISE_BASE_URL": "flows.example.com"}, "FLOWISE_BASE_URL='flows.example.com' is not allowed"),
        ({"HOST": "0.0.0.0"}, "PROXY_API_KEYS"),
        ({"HOST": "no.such.host.invalid", "PROXY_API_KEYS": "k"}, "HOST='no.such.host.invalid'"),
        ({"FLOWISE_API_KEY": "secret key"}, "FLOWISE_API_KEY=(hidden) is not allowed"),
        ({"PROXY_STORE": "redis://:pa/secret@localhost:6379/0"}, "PROXY_STORE=(hidden) is not allowed"),
        ({"PROXY_STORE": "redis://:secret@localhost:port/0"}, "PROXY_STORE=redis:(hidden) cannot be opened"),
        ({"PROXY_STORE": "redis://localhost/0?secret=1"}, "PROXY_STORE=redis:(hidden) cannot be opened"),
        ({"PROXY_STORE": "redis+sentinel://h:secret/one"}, "PROXY_STORE=redis+sentinel:(hidden) cannot be"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    tmp_path: Path, settings: dict[str, str], expected: str
) -> None:
    output = _stopped_at_once(tmp_path, **settings)
    assert len(output.splitlines()) == 1
    assert expected in output
    assert "secret" not in output


def test_a_store_whose_package_is_missing_stops_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "redis.py").write_text("raise ModuleNotFoundError('redis')")
    output = _stopped_at_once(tmp_path, PYTHONPATH=str(tmp_path), PROXY_STORE="redis://localhost")
    assert len(output.splitlines()) == 1
    assert "pip install redis" in output


def test_a_taken_port_stops_the_start_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        output = _stopped_at_once(tmp_path, PORT=port)
    assert len(output.splitlines()) == 1
    assert f"PORT={port}" in output
