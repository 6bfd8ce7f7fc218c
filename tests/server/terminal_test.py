"""What a person sees on a terminal: a banner, one line for each thing that is amiss, one line at the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from flowise_gateway.commands import START_SECONDS, _store_shown, overview
from flowise_gateway.config.settings import Settings, misspelt_settings
from flowise_gateway.serving.banner import Overview, banner
from tests.support.demo_server import PROJECT, DemoServer
from tests.support.processes import clean_environment, free_port
from tests.support.scripted_server import Script, ScriptedServer, http

SECONDS = 30


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


@contextlib.contextmanager
def on_terminal(folder: Path, port: int, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server with a terminal of its own, so that Ctrl-C and the closing reach it; and the other end of that."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "flowise_gateway", "serve"],
        cwd=folder,
        env=clean_environment(folder, PYTHONPATH=str(PROJECT), PORT=str(port), **settings),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509
    ) as server:
        os.close(theirs)
        yield server, ours


def _take_terminal() -> None:
    """Make the terminal this process's own, and obey its closing, which a run under nohup would ignore."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def seen(folder: Path, until: str, *, serves: bool = True, **settings: str) -> str:
    """What stands on a terminal once the server has printed `until` and was interrupted.

    It is interrupted once it answers, or if `serves` is false at once, while its worker begins.
    """
    port = free_port()
    text, deadline = "", time.monotonic() + SECONDS
    with on_terminal(folder, port, **settings) as (server, ours):
        is_interrupted = False
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    text += os.read(ours, 65536).decode().replace("\r\n", "\n")
                except OSError:  # the terminal is closed with its last program
                    break
            if until in text and not is_interrupted and (not serves or answers(port)):
                os.write(ours, b"\x03")
                is_interrupted = True
        if not is_interrupted:
            server.kill()
        assert server.wait(SECONDS) == 0, text
    os.close(ours)
    return text


def test_a_start_on_demo_flows_is_one_readable_screen(tmp_path: Path) -> None:
    text = seen(tmp_path, "serve your own flows.\x1b[0m\n")
    plain = re.sub(r"\x1b\[\d+m", "", text)
    assert "\x1b[1m" in text
    assert re.search(r"^  Open +http://localhost:\d+$", plain, re.MULTILINE)
    assert re.search(r"^  Flowise +the embedded demo flows \(version 3\.\d+\.\d+\)$", plain, re.MULTILINE)
    assert re.search(r"^  Models +\d+: GET /v1/models lists them$", plain, re.MULTILINE)
    assert "  Keys      none: this machine may run every flow\n" in plain
    assert plain.rstrip().endswith("flowise-gateway has stopped.")
    assert "Traceback" not in plain
    assert "{" not in plain


def test_an_interrupt_ends_a_server_whose_worker_has_just_begun(tmp_path: Path) -> None:
    began = time.monotonic()
    text = seen(tmp_path, "serve your own flows.", serves=False)
    assert text.rstrip().endswith("flowise-gateway has stopped.")
    assert time.monotonic() - began < SECONDS


def test_a_closed_terminal_ends_the_server_and_a_reload_does_not(tmp_path: Path) -> None:
    port = free_port()
    with on_terminal(tmp_path, port) as (server, ours):
        try:
            printed(ours, "serve your own flows.", port)
            server.send_signal(signal.SIGHUP)
            printed(ours, "finish their answers", port)
            os.close(ours)
            server.wait(SECONDS)  # its status tells that it could not print
        finally:
            server.kill()
    assert not answers(port)
    assert not list(tmp_path.rglob("*.pid"))


def printed(terminal: int, until: str, port: int) -> None:
    """Read the terminal until `until` stands on it and the server answers."""
    text, deadline = "", time.monotonic() + SECONDS
    while until not in text or not answers(port):
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")


def test_what_is_amiss_is_a_line_each(tmp_path: Path) -> None:
    text = seen(
        tmp_path,
        "keys new",
        FLOWISE_BASE_URL="http://127.0.0.1:9",
        FLOWISE_APY_KEY="x",
        PROXY_STORE="redis://:secret@127.0.0.1:9/0",
        PROXY_API_KEYS="short",
        NO_COLOR="1",
    )
    lines = [line for line in text.splitlines() if line.startswith("  ! ")]
    assert [line.split()[1] for line in lines] == [
        "FLOWISE_APY_KEY",
        "Flowise",
        "PROXY_STORE:",
        "PROXY_SECRET",
        "PROXY_API_KEYS:",
    ]
    assert lines[0] == "  ! FLOWISE_APY_KEY is not a setting: did you mean FLOWISE_API_KEY?"
    assert "secret" not in text
    assert "\x1b" not in text
    assert "Traceback" not in text


def test_a_log_that_nobody_watches_has_no_banner(demo: DemoServer, tmp_path: Path) -> None:
    environment = clean_environment(
        tmp_path, PYTHONPATH=str(PROJECT), PORT=str(free_port()), FLOWISE_BASE_URL=demo.base_url
    )
    with subprocess.Popen(
        [sys.executable, "-m", "flowise_gateway", "serve"],
        cwd=tmp_path,
        env={**environment, "PROXY_API_KEYS": "short"},
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr
        lines = [server.stderr.readline() for _ in range(2)]
        server.terminate()
        server.stderr.read()
    assert '"level":"warning"' in lines[0]
    assert "PROXY_API_KEYS" in lines[0]
    assert "Listening on" in lines[1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FLOWISE_BASE_UR", "FLOWISE_BASE_URL"),
        ("PROXY_APIKEYS", "PROXY_API_KEYS"),
        ("PROXY_API_KEY_FILE", "PROXY_API_KEYS_FILE"),
        ("FLOWISE_VERSION", ""),
    ],
)
def test_a_name_that_is_nearly_a_setting_is_told(name: str, meant: str) -> None:
    lines = misspelt_settings({name: "x", "PATH": "/bin", "PORT": "1"}, dotenv=None)
    assert lines == ([f"{name} is not a setting: did you mean {meant}?"] if meant else [])


def test_a_variable_that_holds_the_key_of_a_flowise_is_no_misspelt_setting() -> None:
    environment = {"FLOWISE_HR_API_KEY": "x"}
    assert len(misspelt_settings(environment, dotenv=None)) == 1
    assert misspelt_settings(environment, dotenv=None, used={"FLOWISE_HR_API_KEY"}) == []


def test_without_colours_there_are_none() -> None:
    overview = Overview("f", "m", "k", "s", problems=("p",), advice="a")
    assert "\x1b" not in banner("http://localhost:8000", overview, coloured=False)


def closing(answer: bytes) -> list[bytes]:
    return [answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), b""]


def test_a_slow_listing_does_not_hold_up_the_start() -> None:
    flows = [
        {"id": f"00000000-0000-4000-8000-{number:012}", "name": f"flow {number}"} for number in range(50)
    ]
    page = http("200 OK", json.dumps({"data": flows, "total": 100_000}).encode())
    version = http("200 OK", b'{"version":"3.1.4"}')
    pages: list[Script] = [[lambda: time.sleep(0.7), *closing(page)] for _ in range(20)]
    with ScriptedServer(closing(version), *pages) as flowise:
        settings = Settings(flowise_base_url=f"{flowise.url}/api/v1", proxy_store="memory:")
        began = time.monotonic()
        found = overview(settings, is_demo=False)
        took = time.monotonic() - began
    assert took < 3 * START_SECONDS
    assert re.fullmatch(r"\d+ or more: Flowise is slow to list its flows", found.models)
    assert not found.problems


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://:p@ss@redis.example/1?password=secret", "redis://redis.example:6379/1"),
        ("rediss://user:secret@redis.example:7000", "rediss://redis.example:7000"),
        ("sqlite:///data/proxy.sqlite3", "sqlite:///data/proxy.sqlite3"),
        ("memory:", "memory:"),
    ],
)
def test_the_store_is_shown_without_its_password(address: str, shown: str) -> None:
    assert _store_shown(address) == shown
