"""Fast streams of a Flowise in queue mode: it loses most of them in part, and no answer is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.real_flowise import RealFlowise
from tests.live.wire import Wire, chat_body, frames_of, text_of
from tests.support.running_proxy import StartProxy

pytestmark = pytest.mark.live

ANSWER = "".join(f"word{number:04} " for number in range(2000))
FLOWS = ["conv", "af_llm", "toolagent", "af_agent"]


@pytest.fixture(scope="module")
def told(start_proxy: StartProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that is told of the mode."""
    path = tmp_path_factory.mktemp("told") / "proxy.yaml"
    path.write_text("flowise_mode: queue\n")
    with start_proxy(PROXY_CONFIG=str(path)) as running:
        yield running.url


@pytest.fixture(scope="module")
def keyless(start_proxy: StartProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that is told, and has no key to read with what Flowise stores."""
    path = tmp_path_factory.mktemp("keyless") / "proxy.yaml"
    path.write_text("flowise_mode: queue\n")
    with start_proxy(PROXY_CONFIG=str(path), FLOWISE_API_KEY="") as running:
        yield running.url


def flood(url: str, flow: str, count: int) -> Counter[tuple[bool, str | None, str | None]]:
    """Of so many streams at once: whether the text is whole, how it ended, which error it had."""

    def one(number: int) -> tuple[bool, str | None, str | None]:
        with (
            Wire(url) as wire,
            wire.post("/v1/chat/completions", chat_body(flow, f"flood {number}", stream=True), 120) as reply,
        ):
            raw = reply.content
            if reply.status_code != 200:
                return False, None, reply.json()["error"]["code"]
        frames = list(frames_of(raw))
        reasons = [c["finish_reason"] for f in frames for c in f.get("choices") or () if c["finish_reason"]]
        errors = [frame["error"]["code"] for frame in frames if "error" in frame]
        return text_of(raw) == ANSWER, "".join(reasons) or None, "".join(errors) or None

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(one, range(count)))


@pytest.mark.timeout(300, func_only=True)
@pytest.mark.parametrize("count", [20, 60])
@pytest.mark.parametrize("flow", FLOWS)
def test_no_fast_stream_is_cut(flow: str, count: int, told: str, flowise: RealFlowise) -> None:
    asked = model_calls(flowise)
    assert flood(told, flowise.flows[flow], count) == {(True, "stop", None): count}
    assert model_calls(flowise) - asked == count, "no flow runs twice"


@pytest.mark.timeout(300, func_only=True)
@pytest.mark.parametrize("flow", FLOWS)
def test_the_mode_is_found_out(
    flow: str, start_proxy: StartProxy, flowise: RealFlowise, tmp_path: Path
) -> None:
    with start_proxy() as running:
        first = flood(running.url, flowise.flows[flow], 20)
        assert first == {(True, "stop", None): 20}
        assert flood(running.url, flowise.flows[flow], 40) == {(True, "stop", None): 40}


@pytest.mark.timeout(300, func_only=True)
@pytest.mark.parametrize("flow", ["conv", "af_llm"])
def test_what_could_not_be_completed_is_not_streamed(flow: str, keyless: str, flowise: RealFlowise) -> None:
    assert flood(keyless, flowise.flows[flow], 20) == {(True, "stop", None): 20}


def model_calls(flowise: RealFlowise) -> int:
    """How often the model was asked to chat."""
    return sum("messages" in entry.get("body", {}) for entry in flowise.llm_log())
