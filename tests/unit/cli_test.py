"""The command line: what it says, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flowise_gateway import __version__
from flowise_gateway.check import client_of
from flowise_gateway.cli import main
from flowise_gateway.config.config_file import load_config
from flowise_gateway.config.settings import Settings
from flowise_gateway.flowise.transport.requests_transport import RequestsTransport
from flowise_gateway.storage.sqlite_store import SqliteStore
from tests.support.demo_server import PROJECT, DemoServer
from tests.support.processes import clean_environment, wait_for
from tests.support.scripted_server import ScriptedServer, http

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FLOWISE_BASE_URL", "FLOWISE_API_KEY", "PROXY_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command; its status and what it said."""
    status = main(arguments)
    said = capsys.readouterr()
    return status, said.out, said.err


def use(monkeypatch: pytest.MonkeyPatch, base_url: str, key: str = "") -> None:
    """Point the command at a Flowise."""
    monkeypatch.setenv("FLOWISE_BASE_URL", base_url)
    if key:
        monkeypatch.setenv("FLOWISE_API_KEY", key)


def test_a_healthy_flowise_is_shown_with_its_flows(
    demo: DemoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, demo.base_url)
    status, out, _ = told(capsys, "check")
    assert status == 0
    assert "Flowise 3.1.4" in out
    assert "OK" in out
    line = next(line for line in out.splitlines() if line.startswith("demo-json "))
    assert line.split()[1:3] == ["CHATFLOW", "no"]
    status, out, _ = told(capsys, "check", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["problems"] == []
    assert {flow["slug"]: flow["streams"] for flow in report["flows"]}["demo-agent"] is True


def test_nothing_listening_a_wrong_path_and_a_wrong_key_name_cause_and_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    status, out, _ = told(capsys, "check")
    assert status == 1
    assert "PROBLEM: Flowise cannot be reached" in out
    assert "Is Flowise running" in out
    page = http("200 OK", b"<html>", "text/html")
    with ScriptedServer(page_script := [page]) as server:
        use(monkeypatch, server.url + "/wrong")
        status, out, _ = told(capsys, "check")
    assert page_script
    assert status == 1
    assert "/api/v1" in out
    with DemoServer("--key", "right") as keyed:
        use(monkeypatch, keyed.base_url, "wrong")
        status, out, _ = told(capsys, "check")
    assert status == 1
    assert "FLOWISE_API_KEY" in out


def test_each_of_equal_servers_is_asked(
    demo: DemoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = f"['{demo.base_url}', 'http://127.0.0.1:9']"
    Path("proxy.yaml").write_text(f"flowises: [{{name: pair, base_urls: {addresses}}}]\n")
    monkeypatch.delenv("FLOWISE_BASE_URL", raising=False)
    status, out, err = told(capsys, "check")
    assert (status, err) == (1, "")
    assert "Flowise 3.1.4" in out
    assert "PROBLEM: server 2: Flowise cannot be reached" in out


def test_an_old_flowise_that_knows_no_pages_no_version_and_no_probe_is_healthy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.dumps([{"id": FLOW, "name": "old flow", "flowData": "{}", "type": None}]).encode()
    missing = http("404 Not Found", b'{"message":"no such route"}')
    answers = [[missing], [http("200 OK", rows)], [missing], [missing]]
    with ScriptedServer(
        *[[a[0].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), b""] for a in answers]
    ) as server:
        use(monkeypatch, server.url)
        status, out, _ = told(capsys, "check")
    assert status == 0, out
    assert "(version unknown)" in out
    assert "old-flow  CHATFLOW  ?" in out


def test_a_name_in_the_file_that_is_no_models_is_a_problem(
    demo: DemoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, demo.base_url)
    Path("proxy.yaml").write_text(
        f"models:\n  - id: mine\n    flow: {FLOW}\n    fallback: demo-agnet\n"
        f"keys:\n  - name: k\n    sha256: '{'a' * 64}'\n    models: [mine, demo-agent, 'demo-*', {FLOW}, mein]\n"
    )
    status, out, _ = told(capsys, "check")
    assert status == 1
    assert [line for line in out.splitlines() if line.startswith("PROBLEM")] == [
        "PROBLEM: proxy.yaml: fallback of model mine: there is no model demo-agnet",
        "PROBLEM: proxy.yaml: models of key k: there is no model mein",
    ]


def test_a_configured_flow_that_is_not_there_is_a_problem(
    demo: DemoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, demo.base_url)
    Path("proxy.yaml").write_text("models:\n  - id: gone\n    flow: 00000000-0000-4000-8000-000000000001\n")
    status, out, _ = told(capsys, "check")
    assert status == 1
    assert "PROBLEM: proxy.yaml: the flow of model gone" in out


def test_models_are_those_that_clients_see(
    demo: DemoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, demo.base_url)
    Path("proxy.yaml").write_text(f"models:\n  - id: support\n    flow: {FLOW}\n")
    assert told(capsys, "models")[1].splitlines()[1].split()[:2] == ["support", FLOW]
    listed = json.loads(told(capsys, "models", "--json")[1])
    assert {"id": "support", "flow": FLOW, "name": "support", "server": "default"} in [
        {**model, "name": "support"} if model["id"] == "support" else model for model in listed
    ]


def test_an_answer_is_printed_as_it_comes(
    demo: DemoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, demo.base_url)
    status, out, _ = told(capsys, "ask", "demo-assistant", "What is the price for Apple?")
    assert status == 0
    assert 'You asked: "What is the price for Apple?"' in out
    status, out, err = told(capsys, "ask", "nothing", "Hello")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"flowise-gateway {__version__}\n"


def test_a_new_key_fits_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(capsys, "keys", "new", "librechat")
    key = next(line.strip() for line in out.splitlines() if line.strip().startswith("sk-flowise-"))
    assert status == 0
    assert hashlib.sha256(key.encode()).hexdigest() in out


@pytest.mark.parametrize("name", ["librechat", "yes", "1", "null", "a: b", "Größe 2"])
def test_a_new_keys_lines_are_read_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(capsys, "keys", "new", name)
    assert status == 0
    Path("proxy.yaml").write_text("keys:\n" + out.partition("under keys:\n")[2])
    key = load_config(Path("proxy.yaml")).keys[0]
    assert (key.name, key.models) == (name, ("*",))
    assert out.count("sk-flowise-") == 1


@pytest.mark.parametrize("name", ["", "o'clock", "a\nb", "-", "x" * 65])
def test_a_name_that_the_file_would_refuse_makes_no_key(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = told(capsys, "keys", "new", "--", name)
    assert (status, out) == (2, "")
    assert err == "error: a key's name must be 1 to 64 letters, digits, spaces or . _ @ : / -\n"


def command(folder: Path, flowise: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """A command line of its own, and its environment."""
    program = [sys.executable, "-m", "flowise_gateway", *arguments]
    return program, clean_environment(folder, FLOWISE_BASE_URL=flowise, PYTHONPATH=str(PROJECT))


def test_a_reader_that_leaves_ends_it_quietly(demo: DemoServer, tmp_path: Path) -> None:
    program, environment = command(tmp_path, demo.base_url, "models")
    read_end, write_end = os.pipe()
    os.close(read_end)
    with subprocess.Popen(
        program, env=environment, cwd=tmp_path, stdout=write_end, stderr=subprocess.PIPE
    ) as process:
        os.close(write_end)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


# In the background of a script, where the tests may run too, an interrupt is ignored and that is inherited.
HEARING = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
]


def test_an_interrupt_aborts_the_run(demo: DemoServer, tmp_path: Path) -> None:
    demo.clear()
    program, environment = command(tmp_path, demo.base_url, "ask", "demo-agent-errors", "be slow")
    with subprocess.Popen(
        [*HEARING, *program], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"word"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert wait_for(lambda: demo.records()[-1]["outcome"] == "aborted", 5), demo.records()[-1]["outcome"]


def closing(*answers: bytes) -> list[list[bytes]]:
    """Scripts that close the connection after each answer."""
    return [[a.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), b""] for a in answers]


def test_names_from_flowise_do_nothing_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": FLOW, "name": "a\x1b[31m\n\u202eb", "flowData": "{}"}]
    with ScriptedServer(*closing(*[http("200 OK", json.dumps(rows).encode())] * 2)) as server:
        use(monkeypatch, server.url)
        status, out, _ = told(capsys, "models")
        assert status == 0
        assert out.splitlines()[1].endswith(r"a\x1b[31m\n\u202eb")
        assert json.loads(told(capsys, "models", "--json")[1])[0]["name"] == "a\x1b[31m\n\u202eb"


def test_a_models_own_timeout_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("proxy.yaml").write_text(f"models:\n  - id: m\n    flow: {FLOW}\n    request_timeout: 0.3\n")
    answers = closing(http("200 OK", b"[]"), http("200 OK", b'{"isStreaming":false}'))
    with ScriptedServer(*answers, [], []) as server:
        use(monkeypatch, server.url)
        status, _, err = told(capsys, "ask", "m", "Hello")
    assert status == 1
    assert "within 0.3 s" in err


def test_the_setting_for_connecting_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("FLOWISE_CONNECT_TIMEOUT", "0.25")
    transport = next(iter(client_of(Settings.from_env()).servers)).transport
    assert isinstance(transport, RequestsTransport)
    assert transport.connect_timeout_seconds == 0.25


def test_a_flow_can_be_asked_by_its_id_where_flowise_gives_no_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with DemoServer("--key", "right", "--token-seconds", "0") as keyed:
        use(monkeypatch, keyed.base_url, "wrong")
        assert told(capsys, "ask", FLOW, "Hello")[0] == 0
        for arguments in (["ask", "demo-agent", "Hello"], ["models"]):
            status, out, err = told(capsys, *arguments)
            assert (status, out) == (1, "")
            assert "FLOWISE_API_KEY" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check"], "\nOK: "),
        (["check", "--json"], '"slug": "demo-json"'),
        (["models"], "\ndemo-json "),
        (["models", "--json"], '{"id": "demo-json", '),
        (["ask", "demo-json", "What is 6*7?"], 'You asked: "What is 6*7?"'),
    ],
)
def test_without_a_flowise_the_demo_flows_are_asked(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = told(capsys, *arguments)
    assert (status, err) == (0, "No FLOWISE_BASE_URL is set: using the embedded demo flows.\n")
    assert expected in out
    assert json.loads(out) if "--json" in arguments else out.endswith("\n")


def test_an_interrupt_ends_the_demo_flows_too(tmp_path: Path) -> None:
    program, environment = command(tmp_path, "", "ask", "demo-agent-errors", "be slow")
    with subprocess.Popen(
        [*HEARING, *program],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"word"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        _, err = process.communicate(timeout=60)  # the pipe closes when nobody holds it any more
    assert (process.returncode, err) == (
        130,
        b"No FLOWISE_BASE_URL is set: using the embedded demo flows.\n",
    )


def test_demo_flows_that_do_not_start_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    status, out, err = told(capsys, "models")
    assert (status, out) == (1, "")
    assert err.endswith("error: the embedded demo flows did not start\n")


def test_a_wrong_file_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    Path("proxy.yaml").write_text("keys: 5\n")
    status, _, err = told(capsys, "check")
    assert status == 2
    assert err.startswith("error: proxy.yaml:1: keys: ")


def test_serve_is_the_server_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flowise_gateway", "serve"]
    environment = clean_environment(tmp_path, PORT="eighty", PYTHONPATH=str(PROJECT))
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 2
    assert "PORT='eighty'" in ended.stderr


def test_the_store_is_copied_while_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROXY_STORE", f"sqlite:///{tmp_path}/s.db")
    assert told(capsys, "backup", "copy.db")[0] == 1
    SqliteStore(tmp_path / "s.db").put({"a": b"1"}, 60)
    status, out, _ = told(capsys, "backup", "copy.db")
    assert (status, out.split(",")[0]) == (0, "copy.db: 1 entries")
    assert SqliteStore(tmp_path / "copy.db").get("a") == b"1"
    status, _, err = told(capsys, "backup", "copy.db")
    assert status == 1
    assert "File exists: 'copy.db'" in err


@pytest.mark.parametrize("store", ["memory:", "redis://:hidden@redis.example:6379/0"])
def test_a_store_that_is_no_file_says_how_it_is_copied(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROXY_STORE", store)
    status, _, err = told(capsys, "backup", "copy.db")
    assert status == 2
    assert ("redis-cli --rdb" in err) == store.startswith("redis")
    assert "hidden" not in err


@pytest.mark.parametrize(
    ("store", "cure"), [("memory:", "/v1/flowise/usage"), ("sqlite:///no.db", "at no.db")]
)
def test_usage_says_why_there_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, store: str, cure: str
) -> None:
    monkeypatch.setenv("PROXY_STORE", store)
    assert cure in told(capsys, "usage")[2]


def test_pipelines_need_their_extra_and_a_key_for_other_machines(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowise_gateway.pipelines.server.LIBRARY", "no_such_library")
    assert main(["pipelines"]) == 2
    assert "pip install 'flowise-gateway[haystack]'" in capsys.readouterr().err
    monkeypatch.setattr("flowise_gateway.pipelines.server.LIBRARY", "flask")
    assert main(["pipelines", "--host", "0.0.0.0"]) == 2
    assert "set PROXY_PIPELINES_KEY" in capsys.readouterr().err
