"""The Flowises that clients are tried in front of: the demo, and a real one whose model is scripted."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import requests

from tests.live.real_flowise import RealFlowise
from tests.support.counting_relay import CountingRelay
from tests.support.demo_server import DemoServer
from tests.support.processes import wait_for

Json = dict[str, Any]
MAX_END_SECONDS = 20
ASSISTANT = "5518949f-3ebc-4082-af01-fa2a18623da6"
FILES = "ad75b8c3-5e92-4a4b-97f6-029c3ea8b1f4"
FLOWISE_FLOWS: Mapping[str, str] = {
    "demo-assistant": "conv",
    "demo-agent": "af_agent",
    "demo-sources": "rag",
    "demo-json": "af_structured",
    "demo-approval": "af_human",
    "demo-files": "toolagent_files",
    "demo-errors": "conv",
    # Of the real Flowise's flows only agentflows end when their client leaves.
    "demo-agent-errors": "af_llm",
}
"""The real Flowise's flows by the demo's names, so that the same checks ask for them."""


class Upstream(Protocol):
    """What the checks do to the Flowise behind the gateway, and what they learn from it of the last run."""

    config: str
    """The gateway's `proxy.yaml`."""
    settings: dict[str, str]
    """The gateway's other settings."""
    document_text: str
    """What the flow reads in the checks' PDF."""

    def count_runs(self) -> Callable[[], int]:
        """A counter of the runs that are started from now on."""

    def refuse_once(self) -> contextlib.AbstractContextManager[None]:
        """Answer the next run with a 503 before anything has run."""

    def messages(self) -> list[str]:
        """The texts that the flow's model saw, the newest last."""

    def image(self) -> str:
        """The data URI of the image that the flow got."""

    def is_aborted(self) -> bool:
        """Whether the run was ended before its end."""

    def repeats(self, answer: str, question: str) -> bool:
        """Whether this is the model's answer to this question."""

    def remembered(self, answer: str) -> int:
        """How many earlier messages the model that gave this answer had seen."""


class DemoUpstream:
    """The demo, which keeps what reached it."""

    document_text = "The text of "

    def __init__(self, demo: DemoServer) -> None:
        self._demo = demo
        takes_files = json.dumps({"fullFileUpload": {"status": True}})
        demo.control("PUT", f"/__demo/flows/{FILES}", {"chatbotConfig": takes_files})
        self.settings = {"FLOWISE_BASE_URL": demo.base_url}
        self.config = config_of(discovery=True, assistant=ASSISTANT, **{"demo-assistant": ASSISTANT})

    def count_runs(self) -> Callable[[], int]:
        """A counter of the runs that are started from now on."""
        self._demo.clear()
        before = self._demo.stats()["runs_started"]
        return lambda: self._demo.stats()["runs_started"] - before

    @contextlib.contextmanager
    def refuse_once(self) -> Iterator[None]:
        """Answer the next run with a 503 before anything has run."""
        self._demo.control("POST", "/__demo/script", {"prediction_status": [503]})
        try:
            yield
        finally:
            self._demo.control("POST", "/__demo/script", {"prediction_status": None})

    def messages(self) -> list[str]:
        """The texts that the flow's model saw, the newest last."""
        return [str(message["content"]) for message in self._settled_record()["messages"]]

    def image(self) -> str:
        """The data URI of the image that the flow got."""
        [upload] = self._settled_record()["body"]["uploads"]
        assert upload["data"].startswith(f"data:{upload['mime']};base64,")
        return str(upload["data"])

    def is_aborted(self) -> bool:
        """Whether the run was ended before its end."""
        return bool(self._settled_record()["outcome"] == "aborted")

    def repeats(self, answer: str, question: str) -> bool:
        """Whether this is the model's answer to this question."""
        return f'You asked: "{question}"' in answer

    def remembered(self, answer: str) -> int:
        """How many earlier messages the model that gave this answer had seen."""
        [number] = re.findall(r"I remember (\d+) earlier messages", answer)
        return int(number)

    def _settled_record(self) -> Json:
        """The last run, once it has ended."""
        wait_for(lambda: self._demo.records()[-1]["outcome"] != "running", MAX_END_SECONDS)
        return self._demo.records()[-1]


class FlowiseUpstream:
    """A real Flowise behind a relay that counts its runs; what its model saw is in the model's log."""

    document_text = "Pdf words here"

    def __init__(self, flowise: RealFlowise, relay: CountingRelay) -> None:
        self._flowise = flowise
        self._relay = relay
        self.settings = {"FLOWISE_BASE_URL": relay.base_url, "FLOWISE_API_KEY": flowise.keys["all"]}
        flows = {name: flowise.flows[flow] for name, flow in FLOWISE_FLOWS.items()}
        self.config = config_of(discovery=False, assistant=flows["demo-assistant"], **flows)

    def count_runs(self) -> Callable[[], int]:
        """A counter of the runs that are started from now on."""
        before = len(self._relay.runs)
        return lambda: len(self._relay.runs) - before

    @contextlib.contextmanager
    def refuse_once(self) -> Iterator[None]:
        """Answer the next run with a 503 before anything has run."""
        self._relay.refusals = 1
        try:
            yield
        finally:
            self._relay.refusals = 0

    def messages(self) -> list[str]:
        """The texts that the flow's model saw, the newest last."""
        return [text_of(message["content"]) for message in self._asked()["body"]["messages"]]

    def image(self) -> str:
        """The data URI of the image that the flow got."""
        parts = [part for message in self._asked()["body"]["messages"] for part in parts_of(message)]
        [image] = [part for part in parts if part["type"] == "image_url"]
        return str(image["image_url"]["url"])

    def is_aborted(self) -> bool:
        """Whether Flowise has left its model's answer, and the execution says that it was aborted."""
        return wait_for(lambda: self._is_given_up() and self._execution_was_aborted(), MAX_END_SECONDS)

    def repeats(self, answer: str, question: str) -> bool:
        """Whether this is the model's answer to this question."""
        return f"Reply to [{question}]" in answer

    def remembered(self, answer: str) -> int:
        """How many earlier messages the model that gave this answer had seen."""
        [roles] = re.findall(r"after \d+ messages: ([a-z,]+)\.", answer)
        return len(re.findall("user|assistant", roles)) - 1

    def _asked(self) -> Json:
        """The last request to the model, with its number."""
        return next(
            entry for entry in reversed(self._flowise.llm_log()) if "messages" in entry.get("body", {})
        )

    def _is_given_up(self) -> bool:
        number = self._asked()["id"]
        return any(
            (entry["id"], entry.get("event")) == (number, "client closed early")
            for entry in self._flowise.llm_log()
        )

    def _execution_was_aborted(self) -> bool:
        run = self._relay.runs[-1]
        session = run.get("overrideConfig", {}).get("sessionId", run["chatId"])
        headers = {"Authorization": f"Bearer {self._flowise.keys['all']}"}
        url = f"{self._flowise.base_url}/executions"
        answer = requests.get(url, {"sessionId": session}, headers=headers, timeout=30)
        answer.raise_for_status()
        [execution] = answer.json()["data"]
        return execution["state"] == "ERROR" and "operation was aborted" in str(execution["executionData"])


def config_of(*, discovery: bool, assistant: str, **flows: str) -> str:
    """The gateway's configuration: these flows by name, and the assistant in two further ways."""
    models: list[Json] = [{"id": name, "flow": flow} for name, flow in flows.items()]
    models += [
        {"id": "prompted", "flow": assistant, "tools": "prompt"},
        {"id": "uncounted", "flow": assistant, "usage": "asked"},
    ]
    return json.dumps({"discovery": {"enabled": discovery}, "models": models})


def parts_of(message: Json) -> list[Json]:
    """The parts of a message to the model."""
    content = message["content"]
    return content if isinstance(content, list) else [{"type": "text", "text": content or ""}]


def text_of(content: Any) -> str:
    """The text of a message to the model."""
    return "".join(part.get("text", "") for part in parts_of({"content": content}))
