"""Sources, files, usage and the vendor key over real sockets, with the demo flows and a scripted Flowise."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest
import requests
from openai import OpenAI

from flowise_gateway.openai.citations import without_footer
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy

LIBRECHAT = json.loads(
    (Path(__file__).resolve().parents[1] / "wire/librechat/03-chat-turn1-params.json").read_text()
)["request"]
CLOSE = {"Connection": "close"}
FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100


def ask(
    proxy: RunningProxy, model: str, headers: dict[str, str] | None = None, **more: Any
) -> requests.Response:
    """Ask for a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
    sent = {**CLOSE, **(headers or {})}
    return requests.post(f"{proxy.url}/v1/chat/completions", json=body, headers=sent, timeout=30)


def chunks(answer: requests.Response) -> list[dict[str, Any]]:
    """The chunks of a stream."""
    return [json.loads(frame[6:]) for frame in answer.content.split(b"\n\n") if frame.startswith(b"data: {")]


def text_of(answer: requests.Response) -> str:
    """The text of a stream."""
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks(answer) if c["choices"])


def fetched(url: str, **headers: str) -> requests.Response:
    """What a browser gets for a link."""
    return requests.get(url, headers={**CLOSE, **headers}, timeout=30)


@pytest.fixture
def librechat() -> dict[str, Any]:
    """How LibreChat asks: its user agent, its user, a stream without options."""
    return {"headers": {"User-Agent": LIBRECHAT["headers"]["user-agent"]}, "user": LIBRECHAT["body"]["user"]}


def test_sources_are_annotations_sent_once_before_the_finish(proxy: RunningProxy) -> None:
    answer = ask(proxy, "demo-sources", stream=True)
    valid("chat.stream", answer.content)
    choices = [chunk["choices"][0] for chunk in chunks(answer)]
    told = [choice["delta"].get("annotations") for choice in choices]
    [annotations] = [found for found in told if found]
    assert told.index(annotations) == len(told) - 2
    assert choices[-1]["finish_reason"] == "stop"
    assert [a["url_citation"]["url"] for a in annotations] == [
        "https://docs.flowiseai.com/",
        "https://docs.flowiseai.com/using-flowise/prediction",
    ]
    body = ask(proxy, "demo-sources")
    valid("chat.response", body.content)
    assert body.json()["choices"][0]["message"]["annotations"] == annotations
    assert len(body.json()["flowise"]["source_documents"]) == 3
    assert "Sources of this answer" not in text_of(answer)


def test_openais_client_reads_the_annotations(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model="demo-sources", messages=[{"role": "user", "content": "Hello"}]
    )
    [first, _] = answer.choices[0].message.annotations or []
    assert first.url_citation.title == "Introduction"


def test_librechat_gets_a_footer_and_the_usage_it_never_asks_for(
    proxy: RunningProxy, librechat: dict[str, Any]
) -> None:
    answer = ask(proxy, "demo-sources", stream=True, **librechat)
    assert chunks(answer)[-1]["usage"]["total_tokens"] > 0
    text = text_of(answer)
    assert text.endswith("[Prediction](https://docs.flowiseai.com/using-flowise/prediction)")
    body = ask(proxy, "demo-sources", **librechat).json()["choices"][0]["message"]["content"]
    assert body == text
    assert without_footer(text.strip()) == text_of(ask(proxy, "demo-sources", stream=True)).strip()


SEEN_BY_OPEN_WEBUI = ["Introduction", "Prediction", "rivers.txt"]


@pytest.mark.parametrize("header", ["X-OpenWebUI-User-Id", "X-OpenWebUI-Chat-Id"])
def test_open_webui_gets_its_sources_as_its_own_events(proxy: RunningProxy, header: str) -> None:
    answer = ask(proxy, "demo-sources", {header: "1"}, stream=True)
    valid("chat.stream", answer.content, strict=False)
    events = [chunk["event"] for chunk in chunks(answer) if "event" in chunk]
    assert [event["type"] for event in events] == ["source"] * 3
    assert [event["data"]["source"]["name"] for event in events] == SEEN_BY_OPEN_WEBUI
    assert events[2]["data"]["document"] == ["The Nile is a river in Africa."]
    assert events[2]["data"]["metadata"] == [{"source": "rivers.txt", "name": "rivers.txt", "page": 2}]
    assert b'"annotations"' not in answer.content
    assert b'"event"' not in ask(proxy, "demo-sources", stream=True).content
    # A body has no place for events.
    assert ask(proxy, "demo-sources", {header: "1"}).json()["choices"][0]["message"]["annotations"]


def test_open_webui_gets_them_beside_a_responses_events_too(proxy: RunningProxy) -> None:
    answer, whole = (
        requests.post(
            f"{proxy.url}/v1/responses",
            json={"model": "demo-sources", "input": "Hello", "stream": stream},
            headers={**CLOSE, "X-OpenWebUI-User-Id": "1"},
            timeout=30,
        )
        for stream in (True, False)
    )
    lines = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]
    events = [line["event"] for line in lines if "event" in line]
    assert [event["data"]["source"]["name"] for event in events] == SEEN_BY_OPEN_WEBUI
    assert [line["sequence_number"] for line in lines] == list(range(len(lines)))
    # It reads an item's annotations as well, and would list each web source twice.
    assert '"annotations":[{' not in answer.text
    assert whole.json()["output"][-1]["content"][0]["annotations"]


def test_other_clients_get_usage_only_when_they_ask(proxy: RunningProxy) -> None:
    assert all("usage" not in chunk for chunk in chunks(ask(proxy, "demo-sources", stream=True)))


def test_a_model_may_choose_what_is_told(demo: DemoServer, folder: Path) -> None:
    flow = {"assistant": FLOW, "agent": "0c6fd9a2-1f53-4a57-9a3e-6d6f0b1c52e1"}
    sources = "2b7f4c68-8d0e-4a86-b1f4-93d7a5c0e812"
    (folder / "proxy.yaml").write_text(
        "models:\n"
        f"  - {{id: quiet, flow: {flow['agent']}, steps: off, usage: always}}\n"
        f"  - {{id: noted, flow: {sources}, sources: footer}}\n"
        f"  - {{id: bare, flow: {sources}, sources: off}}\n"
    )
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as own:
        quiet = ask(own, "quiet", stream=True)
        thoughts = "".join(
            c["choices"][0]["delta"].get("reasoning_content", "") for c in chunks(quiet) if c["choices"]
        )
        assert "▸" not in thoughts
        assert "calculator" in thoughts  # the model's own thought
        assert ask(own, "quiet").json()["choices"][0]["message"]["reasoning_content"] == thoughts
        assert chunks(quiet)[-1]["usage"]["completion_tokens"] > 0
        noted = ask(own, "noted").json()["choices"][0]["message"]
        assert "Sources of this answer" in noted["content"]
        assert "annotations" not in noted
        bare = ask(own, "bare").json()["choices"][0]["message"]
        assert "Sources of this answer" not in bare["content"]
        assert "annotations" not in bare


def test_an_agents_answer_tells_its_tools_nodes_and_time(proxy: RunningProxy) -> None:
    answer = ask(proxy, "demo-agent").json()
    told = answer["flowise"]
    assert [tool["name"] for tool in told["used_tools"]] == ["calculator"]
    assert [(node["name"], node["state"]) for node in told["nodes"]] == [("Agent", "FINISHED")]
    assert told["execution_time_seconds"] > 0
    assert answer["metadata"]["agents_used"] == '["Agent"]'
    assert answer["metadata"]["iterations"] == "1"
    last = [chunk for chunk in chunks(ask(proxy, "demo-agent", stream=True)) if "flowise" in chunk]
    assert len(last) == 1
    assert last[0]["flowise"]["used_tools"] == told["used_tools"]
    assert not re.search("credential|agentMessages|system", json.dumps(told), re.IGNORECASE)


def links_in(text: str) -> dict[str, str]:
    """The links of an answer by their names."""
    return dict(re.findall(r"\[([^\]]+)\]\((\S+/v1/flowise/files/\S+)\)", text))


def test_files_are_links_that_open_without_a_key(demo: DemoServer, folder: Path) -> None:
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS="sesame") as own:
        key = {"Authorization": "Bearer sesame"}
        text = text_of(ask(own, "demo-files", key, stream=True))
        links = links_in(text)
        assert set(links) == {"chart.png", "page.html", "not really.png", "report.pdf"}
        assert "\n\n![chart.png](" in text
        assert "\n\n[report.pdf](" in text
        assert "\n\n```html\n<b>hi</b>\n```" in text

        chart = fetched(links["chart.png"])
        assert chart.status_code == 200
        assert chart.headers["Content-Type"] == "image/png"
        assert chart.headers["Content-Disposition"].startswith("inline")
        assert chart.content.startswith(b"\x89PNG")
        for name in ("page.html", "not really.png"):
            page = fetched(links[name])
            assert page.headers["Content-Type"] == "application/octet-stream"
            assert page.headers["Content-Disposition"].startswith("attachment")
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            assert page.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert fetched(links["report.pdf"]).headers["Content-Type"] == "application/pdf"
        assert requests.head(links["chart.png"], headers=CLOSE, timeout=30).status_code == 200

        token = links["chart.png"].rpartition("/")[2]
        assert fetched(f"{own.url}/flowise/files/{token}").content == chart.content
        assert fetched(f"{own.url}/v1//flowise//files/{token}").content == chart.content
        assert token not in own.log()
        for wrong in (token[:-4] + "AAAA", "x", token + "/..", "../../models", "a/" + token):
            refused = fetched(f"{own.url}/v1/flowise/files/{wrong}")
            assert refused.status_code in (401, 404)
            valid("error", refused.content)
        assert fetched(f"{own.url}/v1/flowise/files/{token[:-4]}AAAA").status_code == 404
        assert fetched(f"{own.url}/v1/models").status_code == 401


def test_a_body_has_the_same_files_and_names_them(proxy: RunningProxy) -> None:
    body = ask(proxy, "demo-files")
    valid("chat.response", body.content)
    text = body.json()["choices"][0]["message"]["content"]
    stream = text_of(ask(proxy, "demo-files", stream=True))
    assert re.sub(r"files/\S+\)", "", text) == re.sub(r"files/\S+\)", "", stream)
    told = {file["name"]: file["url"] for file in body.json()["flowise"]["files"]}
    assert told == links_in(text)
    assert without_footer(text).endswith("```html\n<b>hi</b>\n```")


def test_a_link_outlives_the_server_and_opens_on_any_with_the_same_secret(
    demo: DemoServer, folder: Path
) -> None:
    settings = {"FLOWISE_BASE_URL": demo.base_url, "PROXY_PUBLIC_URL": "https://ai.example.com/x"}
    with RunningProxy(folder, **settings, PROXY_SECRET="0123456789abcdef") as one:
        links = links_in(ask(one, "demo-files").json()["choices"][0]["message"]["content"])
    assert links["chart.png"].startswith("https://ai.example.com/x/v1/flowise/files/")
    path = links["chart.png"].removeprefix("https://ai.example.com/x")
    with RunningProxy(folder, **settings, PROXY_SECRET="0123456789abcdef") as two:
        assert fetched(two.url + path).status_code == 200
    with RunningProxy(folder, **settings, PROXY_SECRET="another secret of 16") as three:
        assert fetched(three.url + path).status_code == 404


def test_links_are_relative_where_the_host_is_none_to_link_to(demo: DemoServer, folder: Path) -> None:
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS="key") as keyed:
        answer = ask(keyed, "demo-files", {"Host": "a(b)<c>", "api-key": "key"})
    assert "](/v1/flowise/files/" in answer.json()["choices"][0]["message"]["content"]


ANSWER = {"text": "Here.", "artifacts": [{"type": "png", "data": "FILE-STORAGE::chart.png"}]}
HEADED = {"Content-Type": "application/octet-stream"}


class OddFlowise(http.server.BaseHTTPRequestHandler):
    """A Flowise whose every flow makes one file, and which gives in its place what a test wants."""

    protocol_version = "HTTP/1.1"
    status = 200
    given: dict[str, str] = HEADED
    pieces: Sequence[bytes] = (PNG,)
    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        """Answer a prediction."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._give(200, {"Content-Type": "application/json"}, [json.dumps(ANSWER).encode()])

    def do_GET(self) -> None:
        """Give the file; nothing else is known."""
        if "/get-upload-file?" in self.path:
            self.asked.append(self.path)
            self._give(self.status, self.given, self.pieces)
        else:
            self._give(404, {"Content-Type": "application/json"}, [b"{}"])

    def _give(self, status: int, headers: dict[str, str], pieces: Sequence[bytes]) -> None:
        length = headers.get("Content-Length", str(sum(map(len, pieces))))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": length, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.wfile.write(piece)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def odd(folder: Path) -> Iterator[tuple[type[OddFlowise], RunningProxy, str]]:
    """An odd Flowise, a server before it, and the link to its file."""

    class Own(OddFlowise):
        asked: ClassVar[list[str]] = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as flowise:
        threading.Thread(target=flowise.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{flowise.server_port}/api/v1"
        with RunningProxy(folder, FLOWISE_BASE_URL=base, PROXY_SECRET="0123456789abcdef") as own:
            text = ask(own, FLOW).json()["choices"][0]["message"]["content"]
            yield Own, own, links_in(text)["chart.png"]
        flowise.shutdown()


Odd = tuple[type[OddFlowise], RunningProxy, str]


def test_flowise_is_asked_for_the_file_of_that_run_alone(odd: Odd) -> None:
    flowise, _, link = odd
    assert fetched(link).content == PNG
    assert fetched(link + "?fileName=other&chatflowId=x").content == PNG
    [asked] = set(flowise.asked)
    query = parse_qs(asked.partition("?")[2])
    assert set(query) == {"chatflowId", "chatId", "fileName"}
    assert (query["chatflowId"], query["fileName"]) == ([FLOW], ["chart.png"])


@pytest.mark.parametrize(
    ("status", "given", "body"),
    [
        (200, {"Content-Type": "text/html"}, b"<html>Flowise</html>"),
        (200, {"Content-Type": "application/json"}, b"{}"),
        (500, {"Content-Type": "application/json"}, b'{"message":"ENOENT /root/.flowise/x"}'),
        (302, {"Location": "/login"}, b""),
    ],
)
def test_what_flowise_gives_in_place_of_a_file_is_no_file(
    odd: Odd, status: int, given: dict[str, str], body: bytes
) -> None:
    flowise, _, link = odd
    flowise.status, flowise.given, flowise.pieces = status, given, [body]
    answer = fetched(link)
    assert answer.status_code == 404
    valid("error", answer.content)
    assert answer.json()["error"]["code"] == "file_not_found"
    assert b"flowise/x" not in answer.content


def test_flowises_own_headers_are_not_passed_on(odd: Odd) -> None:
    flowise, _, link = odd
    flowise.given = {"Content-Type": "image/svg+xml", "Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*"}
    answer = fetched(link)
    assert answer.headers["Content-Type"] == "image/png"
    assert not {"Set-Cookie", "Access-Control-Allow-Origin"} & set(answer.headers)


def test_a_file_that_breaks_off_does_not_end_like_a_whole_one(odd: Odd) -> None:
    flowise, own, link = odd
    flowise.given = {**HEADED, "Content-Length": "5000000"}
    flowise.pieces = [PNG, b"x" * 1_000_000]
    with pytest.raises(requests.RequestException):
        fetched(link)
    assert requests.get(f"{own.url}/health", headers=CLOSE, timeout=10).ok


def test_a_large_file_is_never_held_as_a_whole(odd: Odd) -> None:
    flowise, own, link = odd
    fetched(link)
    before = peak_kib(own.pid)
    flowise.pieces = [PNG, *[b"x" * 1_000_000] * 100]
    answer = fetched(link)
    assert len(answer.content) == len(PNG) + 100_000_000
    assert peak_kib(own.pid) - before < 40_000


def peak_kib(pid: int) -> int:
    """The most memory that a process and its children have held."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    found = [re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{one}/status").read_text()) for one in pids]
    return max(int(match[1]) for match in found if match)


def test_an_unreachable_flowise_is_a_503(folder: Path, odd: Odd) -> None:
    *_, link = odd
    settings = {"FLOWISE_BASE_URL": "http://127.0.0.1:9/api/v1", "PROXY_SECRET": "0123456789abcdef"}
    with RunningProxy(folder, **settings) as cut_off:
        answer = fetched(cut_off.url + "/v1/" + link.partition("/v1/")[2])
    assert answer.status_code == 503
    valid("error", answer.content)
