"""One prediction of the demo: what its body asks for, and what its answer and its stored messages hold."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from flowise_demo.agent_events import without_credentials
from flowise_demo.flows import Flow, Json
from flowise_demo.http import Connection, compact, encoded
from flowise_demo.model import Message
from flowise_demo.scripts import Script
from flowise_demo.steps import Answer, Event, RunFailed

_INVALID_HISTORY = (
    "Invalid history format. Each history item must have: "
    '{ role: "apiMessage" | "userMessage", content: string }'
)


@dataclass(slots=True)
class Run:
    """One prediction under way."""

    flow: Flow
    body: Json
    connection: Connection
    script: Script
    is_streaming: bool
    record: Json
    chat_id: Any
    session_id: Any
    is_muted: bool = False  # a fault has cut the run off from its client
    is_driven: bool = False
    abort_wanted: bool = False
    events: int = 0
    execution_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    task: asyncio.Task[None] | None = None

    @property
    def slot(self) -> str:
        """The key of the stream that gets this run's events: the chatId alone, as in Flowise."""
        return str(self.chat_id)

    @property
    def session(self) -> tuple[str, str]:
        """The key of the stored messages."""
        return (self.flow.id, str(self.session_id))


# ------------------------------------------------------------------------------------------- request bodies
def check_body(flow: Flow, body: Json) -> None:
    """Raise what Flowise raises for such a body."""
    if flow.type == "AGENTFLOW":
        _check_agent_body(body)
    else:
        _check_chat_body(body)


def _check_agent_body(body: Json) -> None:
    if body.get("question") and body.get("form"):
        raise RunFailed("Question and form cannot be provided at the same time")
    kind = (body.get("humanInput") or {}).get("type", "proceed")
    if kind not in ("proceed", "reject"):
        raise RunFailed(f"Invalid human input type. Expected 'proceed' or 'reject', but got '{kind}'")
    history = body.get("history") or []
    if not isinstance(history, list) or not all(map(_is_valid_history, history)):
        raise RunFailed(_INVALID_HISTORY)


def _is_valid_history(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("role") not in ("apiMessage", "userMessage"):
        return False
    return isinstance(item.get("content"), str)


def _check_chat_body(body: Json) -> None:
    session_id = (body.get("overrideConfig") or {}).get("sessionId") or ""
    for name, value in (("sessionId", session_id), ("chatId", body.get("chatId") or "")):
        if not isinstance(value, str):
            raise RunFailed(f"Invalid {name}: must be a string")
    for upload in body.get("uploads") or []:
        if upload.get("type") in ("file", "audio") and not str(upload.get("data")).startswith("data:"):
            raise RunFailed("Cannot read properties of undefined (reading 'split')")


def caller_history(body: Json) -> list[Message]:
    """The caller's own turns; a chatflow drops what it does not know without a word."""
    roles = {"userMessage": "user", "apiMessage": "assistant"}
    items = body.get("history")
    known = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    named = [(item.get("role") or item.get("type"), item.get("content", "")) for item in known]
    return [{"role": roles[role], "content": content} for role, content in named if role in roles]


def question_text(body: Json, *, is_agent: bool) -> str:
    """The text of the question as the model gets it, full-text files in front."""
    question = body.get("question")
    if not isinstance(question, str):
        spoken = "undefined" if question is None else compact(question)
        question = "" if is_agent else spoken
    uploads = body.get("uploads") or []
    files = [one for one in uploads if isinstance(one, dict) and one.get("type") == "file:full"]
    texts = [f"<doc name='{one.get('name')}'>{one.get('data')}</doc>" for one in files]
    return "\n\n".join(texts) + "\n\n\n\n" + question if texts else question


_TRANSCRIBED = ("audio/webm", "audio/mp4", "audio/ogg")


def transcribe(flow: Flow, body: Json) -> None:
    """Put what a recording says in place of the question; other types are dropped without a word."""
    uploads = body.get("uploads")
    for upload in uploads if isinstance(uploads, list) else []:
        is_audio = isinstance(upload, dict) and upload.get("type") == "audio"
        if flow.hears and is_audio and upload.get("mime") in _TRANSCRIBED:
            body["question"] = f"The spoken words of {upload.get('name')}"


_SYSTEM_INPUTS = ("systemMessagePrompt", "systemMessage", "llmMessages", "agentMessages")


def system_override(flow: Flow, body: Json) -> list[Message]:
    """The system messages that the caller may and does override."""
    config = json.loads(flow.row.get("apiConfig") or "{}").get("overrideConfig") or {}
    if not config.get("status"):
        return []
    inputs = [one for node in (config.get("nodes") or {}).values() for one in node if one.get("enabled")]
    names = {one["name"] for one in inputs} & set(_SYSTEM_INPUTS)
    wanted = [value for name, value in (body.get("overrideConfig") or {}).items() if name in names]
    texts = [text for value in wanted for text in _override_texts(value)]
    if flow.type == "CHATFLOW":
        texts = [_filled_template(text) for text in texts]
    return [{"role": "system", "content": text} for text in texts]


def _override_texts(value: Any) -> list[str]:
    if isinstance(value, dict):  # by node id
        return [text for part in value.values() for text in _override_texts(part)]
    if isinstance(value, list):  # messages of an agentflow's node
        return [str(message.get("content")) for message in value if isinstance(message, dict)]
    return [str(value)]


def _filled_template(text: str) -> str:
    """A chatflow's system message is a template: single braces name a variable, doubled ones are braces."""
    single = re.search(r"\{([^{}]*)\}", re.sub(r"\{\{|\}\}", "", text))
    if single:
        raise RunFailed(f"Missing value for input variable `{single[1]}`")
    return text.replace("{{", "{").replace("}}", "}")


def answer_body(run: Run, answer: Answer, message_id: str) -> Json:
    """The JSON answer, fields in Flowise's order; a field without a value is left out."""
    ids = {"question": run.body.get("question"), "chatId": run.chat_id, "chatMessageId": message_id}
    if run.flow.type == "AGENTFLOW":
        executed = without_credentials(answer.entries)
        rest = {"executionId": run.execution_id, "agentFlowExecutedData": executed, "action": answer.action}
        tail: Json = {"sessionId": run.session_id}
    else:
        rest = {"isStreamValid": False}
        tail = {"sessionId": run.session_id, "memoryType": _memory_type(run.flow)}
    body = {"text": answer.text} | answer.extras | ids | rest | tail
    return {name: value for name, value in body.items() if value is not None}


def metadata_body(run: Run, answer: Answer, message_id: str) -> Json:
    """What a stream tells of its run before it ends; only what has a value."""
    told = {
        "chatId": run.chat_id,
        "chatMessageId": message_id,
        "question": run.body.get("question"),
        "sessionId": run.session_id,
        "memoryType": _memory_type(run.flow),
        "action": answer.action,
    }
    return {name: value for name, value in told.items() if value}


def _memory_type(flow: Flow) -> str | None:
    return "Buffer Memory" if flow.memory and flow.type == "CHATFLOW" else None


def message_rows(run: Run, answer: Answer, message_id: str) -> list[Json]:
    """Question and answer as Flowise stores them: of a full-text file it keeps the name, not the text."""
    asked = question_text({**run.body, "uploads": []}, is_agent=run.flow.type == "AGENTFLOW")
    feedback = (run.body.get("humanInput") or {}).get("feedback")
    return [
        _message_row(run, str(uuid.uuid4()), "userMessage", asked or feedback or " "),
        _message_row(run, message_id, "apiMessage", answer.text),
    ]


def _message_row(run: Run, message_id: str, role: str, content: str) -> Json:
    now = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    nothing = (
        "sourceDocuments usedTools fileAnnotations agentReasoning reasonContent fileUploads artifacts action"
    )
    is_agent = run.flow.type == "AGENTFLOW"
    return {
        "id": message_id,
        "role": role,
        "chatflowid": run.flow.id,
        "executionId": run.execution_id if is_agent else None,
        "content": content,
        **dict.fromkeys(nothing.split()),
        "chatType": "EXTERNAL",
        "chatId": run.chat_id,
        "memoryType": _memory_type(run.flow),
        "sessionId": run.session_id,
        "createdDate": moment,
        "leadEmail": None,
        "followUpPrompts": None,
        "execution": None,
    }


def frame(event: Event, connection: Connection) -> bytes:
    """One SSE message; up to 3.1.1 three of them began with a line that lacks its colon."""
    body = {"event": event.name, "data": event.data}
    if event.duration is not None:
        body["duration"] = event.duration
    colon = "" if connection.old_framing and event.name in ("end", "error", "abort") else ":"
    return b"message%b\ndata:%b\n\n" % (colon.encode(), encoded(body))
