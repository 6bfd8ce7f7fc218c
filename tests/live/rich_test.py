"""What stands behind an answer of a real flow: told alike whether it is streamed or whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.real_flowise import RealFlowise
from tests.live.wire import Json, Wire, chat_body, frames_of

pytestmark = pytest.mark.live

FLOWS = [
    *("toolagent", "toolagent_docs", "toolagent_artifacts", "toolagent_detailed"),
    *("af_agent", "af_agent_docs", "af_agent_artifacts", "af_agent_reply", "af_llm", "af_llm_reply"),
    *("rag", "conv", "llmchain", "af_branches"),
]
RUN_OF_ITS_OWN = {
    *(
        "chat_id",
        "session_id",
        "chat_message_id",
        "execution_id",
        "execution_time_seconds",
        "warnings",
        "files",
    ),
}
QUESTION = "please usetool"


def told(message: Json, usage: Json, details: Json) -> Json:
    """All that is told, without what each run has of its own."""
    nodes = [{k: v for k, v in node.items() if k != "seconds"} for node in details.get("nodes", [])]
    return {
        "text": without_file_links(message["content"]),
        "reasoning": message.get("reasoning_content", ""),
        "annotations": message.get("annotations", []),
        "usage": usage,
        "flowise": {k: v for k, v in details.items() if k not in RUN_OF_ITS_OWN} | {"nodes": nodes},
    }


def without_file_links(text: str) -> str:
    """The text without tokens, which differ from run to run."""
    return "\n".join(line for line in text.split("\n") if "/flowise/files/" not in line)


def whole(wire: Wire, flow: str) -> Json:
    """A whole answer."""
    body = wire.chat(flow, QUESTION)
    return told(body["choices"][0]["message"], body["usage"], body["flowise"])


def streamed(wire: Wire, flow: str) -> Json:
    """A streamed answer, put together."""
    asked = chat_body(flow, QUESTION, stream=True, stream_options={"include_usage": True})
    with wire.post("/v1/chat/completions", asked) as reply:
        frames = list(frames_of(reply.content))
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "annotations": []}
    for choice in (choice for frame in frames for choice in frame.get("choices", [])):
        for name, value in message.items():
            message[name] = value + (choice["delta"].get(name) or type(value)())
    [details] = [frame["flowise"] for frame in frames if "flowise" in frame]
    return told(message, frames[-1]["usage"], details)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_stream_tells_what_a_whole_answer_tells(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    first, second = whole(wire, flowise.flows[flow]), streamed(wire, flowise.flows[flow])
    assert second == first
    assert first["text"].strip()
    if flow == "af_branches":
        begun, said, ended = first["text"].split("\n\n")
        assert (begun[:8], said, ended[:8]) == ("Reply to", "Said beside it", "Reply to")
    if flow.startswith(("toolagent", "af_agent")):
        assert "▸" in first["reasoning"]
        assert first["flowise"]["used_tools"]
    if flow in ("rag", "toolagent_docs", "af_agent_docs"):
        assert first["flowise"]["source_documents"]
    if flow.startswith("af_"):
        assert not first["flowise"].get("usage_estimated")
