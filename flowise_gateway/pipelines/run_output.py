"""Reports one run of a pipeline in Flowise's format: stream events, or a JSON answer.

Reads Haystack's chunks, messages and documents by attribute, so that Haystack is not imported here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import orjson

from flowise_gateway.pipelines.sockets import Place, Wiring

Json = dict[str, Any]
APART = "\n\n"
"""Starts a new paragraph for a model's text after a tool call."""


class RunCancelled(BaseException):
    """Nobody waits for the run any more; a BaseException, so that components do not handle it."""


def frame(event: str, data: Any) -> bytes:
    """One message of an event stream in Flowise's format."""
    return b"message:\ndata:%b\n\n" % as_json({"event": event, "data": data})


def as_json(value: Any) -> bytes:
    """JSON of a component's output; values that JSON cannot represent become strings."""
    return orjson.dumps(
        value, default=_plain, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
    )


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


@dataclass(slots=True)
class _Step:
    """A running component."""

    name: str
    kind: str
    begun: float
    output: Json = field(default_factory=dict)


class RunOutput:
    """Collects the output of a run; `send` receives the frames of its stream, None if not streamed."""

    def __init__(self, body: Mapping[str, Any], wiring: Wiring, send: Callable[[bytes], None] | None) -> None:
        """Start a run of this prediction."""
        overrides = body.get("overrideConfig")
        own = overrides if isinstance(overrides, dict) else {}
        self.chat_id = str(body.get("chatId") or uuid.uuid4())
        self.is_cancelled = False
        self._question = body.get("question")
        self._session_id = str(own.get("sessionId") or self.chat_id)
        self._wiring = wiring
        self._send = send
        self._speaker = ""
        self._speaking = False
        self._held: list[tuple[str, Any]] = []  # steps parallel to a streaming one; they would split its text
        self._has_spoken = False
        self._used_tool = False
        self._entries: list[Json] = []
        self._called: list[Json] = []
        self._used: list[Json] = []
        self._asked: dict[int, Json] = {}  # incomplete tool calls
        self._documents: dict[str, Sequence[Any]] = {}
        self._finish_reason = ""
        self._event("agentFlowEvent", "INPROGRESS")

    # ------------------------------------------------------------------------------------------ components
    def component_begins(self, name: str, kind: str) -> _Step:
        """Record the start of a component. Raises RunCancelled."""
        self.check()
        self._tell(name, "INPROGRESS")
        self._speaking = self._speaking or name in self._wiring.speakers
        return _Step(name, kind, time.time())

    def component_ends(self, step: _Step, output: Mapping[str, Any] | None) -> None:
        """Record the output of a component; None if it failed."""
        if step.name in self._wiring.speakers:
            self._speaking = False
        told = self._told_of(step, output) if output is not None else {}
        ended = time.time()
        delta = round((ended - step.begun) * 1000)
        told["timeMetadata"] = {"start": round(step.begun * 1000), "end": round(ended * 1000), "delta": delta}
        status = "ERROR" if output is None else "FINISHED"
        entry = {
            "nodeId": step.name,
            "nodeLabel": step.name,
            "data": {"id": step.name, "name": step.kind, "output": told},
            "previousNodeIds": [],
            "status": status,
        }
        self._entries.append(entry)
        self._tell(step.name, status)
        self._step_event("agentFlowExecutedData", [entry])

    def _told_of(self, step: _Step, output: Mapping[str, Any]) -> Json:
        told: Json = {}
        if step.name in self._wiring.sources:
            found = [value for value in output.values() if _is_documents(value)]
            self._documents[step.name] = found[-1] if found else ()
        messages = [message for value in output.values() for message in _messages(value)]
        if usage := _usage(output, messages):
            told["usageMetadata"] = usage
        if step.name in self._wiring.speakers:
            self._flush_calls()
            tools = _tool_results(messages)
            told["usedTools"] = tools
            reasons = [getattr(message, "meta", {}).get("finish_reason") for message in messages]
            self._finish_reason = str(next((reason for reason in reversed(reasons) if reason), ""))
        return told

    def _tell(self, name: str, status: str) -> None:
        self._step_event("nextAgentFlow", {"nodeId": name, "nodeLabel": name, "status": status})

    def _step_event(self, event: str, data: Any) -> None:
        """Send an event of a step; while another component streams text, after its end."""
        if self._speaking:
            self._held.append((event, data))
            return
        held, self._held = self._held, []
        for each in (*held, (event, data)):
            self._event(*each)

    # ---------------------------------------------------------------------------------------------- tokens
    def chunk(self, component: str, chunk: Any) -> None:
        """Add a chunk of a component's text. Raises RunCancelled."""
        self.check()
        if self._speaker not in ("", component):
            return  # if several could answer, the first one to stream does
        if chunk.content:
            self._speaker = component
            self._flush_calls()
            self._say(chunk.content)
        for delta in getattr(chunk, "tool_calls", None) or ():
            asked = self._asked.setdefault(delta.index, {"tool": "", "toolInput": "", "toolOutput": ""})
            asked["tool"] = delta.tool_name or asked["tool"]
            asked["toolInput"] += delta.arguments or ""
        reasoning = getattr(getattr(chunk, "reasoning", None), "reasoning_text", "")
        if reasoning:
            self._event("thinking", reasoning)
        if result := getattr(chunk, "tool_call_result", None):
            self._flush_calls()
            self._used.append(_used_tool(result))
            self._event("usedTools", self._used)

    def _say(self, text: str) -> None:
        if self._used_tool and self._has_spoken:
            text = APART + text.lstrip("\n")
        self._used_tool, self._has_spoken = False, True
        if self._send is not None:
            self._send(b'message:\ndata:{"event":"token","data":%b}\n\n' % orjson.dumps(text))

    def _flush_calls(self) -> None:
        """Report the model's tool calls, once their inputs are complete."""
        if self._asked:
            asked = [{**call, "toolInput": _loaded(call["toolInput"])} for call in self._asked.values()]
            self._asked.clear()
            self._called += asked
            self._used_tool = True
            self._event("calledTools", self._called)

    def check(self) -> None:
        """Raise RunCancelled if nobody waits for the run any more."""
        if self.is_cancelled:
            raise RunCancelled

    # ------------------------------------------------------------------------------------------------- end
    def ends(self, result: Mapping[str, Any]) -> bytes:
        """Record the pipeline's output; returns the JSON answer, empty for a stream."""
        self._speaking = False
        value = self._answer(result)
        text = answer_text(value)
        documents = _documents_of(value) or [each for found in self._documents.values() for each in found]
        sources = [_source(document) for document in documents]
        if self._entries and self._finish_reason:
            last = self._entries[-1]["data"]["output"]
            last["responseMetadata"] = {"finish_reason": self._finish_reason}
        if self._send is None:
            return as_json(self._whole(text, sources))
        if not self._has_spoken and text:
            self._say(text)
        if sources:
            self._event("sourceDocuments", sources)
        self._step_event("agentFlowExecutedData", self._entries)
        self._event("agentFlowEvent", "FINISHED")
        self._event("metadata", self._identity())
        self._event("end", "[DONE]")
        return b""

    def _answer(self, result: Mapping[str, Any]) -> Any:
        for place in self._wiring.answers:
            output = result.get(place.component)
            if isinstance(output, Mapping) and place.socket in output:
                return output[place.socket]
        raise ValueError(f"the pipeline ended without {_names(self._wiring.answers)}")

    def _whole(self, text: str, sources: list[Json]) -> Json:
        more = {"sourceDocuments": sources} if sources else {}
        return {"text": text, **self._identity(), **more, "agentFlowExecutedData": self._entries}

    def _identity(self) -> Json:
        return {
            "question": self._question,
            "chatId": self.chat_id,
            "chatMessageId": str(uuid.uuid4()),
            "sessionId": self._session_id,
        }

    def _event(self, event: str, data: Any) -> None:
        if self._send is not None:
            self._send(frame(event, data))


CURRENT: ContextVar[RunOutput | None] = ContextVar("run", default=None)
"""The run of the current thread or task."""


# -------------------------------------------------------------------------------------- values of components
def answer_text(value: Any) -> str:
    """The text of an output: of an answer, a message, or all documents."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        if not value:
            return ""
        if _is_documents(value):
            return APART.join(each.content or "" for each in value)
        is_conversation = hasattr(value[0], "role")
        return answer_text(value[-1] if is_conversation else value[0])
    for name in ("text", "data"):
        if isinstance(getattr(value, name, None), str):
            return str(getattr(value, name))
    is_plain = value is None or hasattr(value, "role") or hasattr(value, "data")
    return "" if is_plain else as_json(value).decode()


def _documents_of(value: Any) -> Sequence[Any]:
    """The documents of an answer."""
    if isinstance(value, (list, tuple)) and value:
        return getattr(value[0], "documents", None) or (value if _is_documents(value) else ())
    return ()


def _is_documents(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) and bool(value)
    return is_list and type(value[0]).__name__ == "Document"


def _source(document: Any) -> Json:
    return {"pageContent": document.content or "", "metadata": dict(document.meta or {})}


def _messages(value: Any) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return [each for each in value if hasattr(each, "role") and hasattr(each, "meta")]
    return ()


def _tool_results(messages: Iterable[Any]) -> list[Json]:
    results = (result for message in messages for result in getattr(message, "tool_call_results", ()))
    return [_used_tool(result) for result in results]


def _used_tool(result: Any) -> Json:
    output = result.result if isinstance(result.result, str) else answer_text(result.result)
    used = {"tool": result.origin.tool_name, "toolInput": result.origin.arguments, "toolOutput": output}
    return {**used, "error": output} if result.error else used


def _loaded(arguments: str) -> Any:
    try:
        return orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments


def _usage(output: Mapping[str, Any], messages: Iterable[Any]) -> Json:
    """The token usage reported by a component's models, under any known names; may be empty."""
    counts = [message.meta.get("usage") for message in messages]
    replies = output.get("meta")  # of generators whose replies are strings
    if isinstance(replies, list):
        counts += [each.get("usage") for each in replies if isinstance(each, Mapping)]
    known = [count for count in counts if isinstance(count, Mapping)]
    if not known:
        return {}
    total = {
        name: sum(_count(count, *names) for count in known)
        for name, names in (
            ("input_tokens", ("prompt_tokens", "input_tokens")),
            ("output_tokens", ("completion_tokens", "output_tokens")),
        )
    }
    if not any(total.values()):
        return {}
    cached = sum(_count(count.get("prompt_tokens_details"), "cached_tokens") for count in known)
    thought = sum(_count(count.get("completion_tokens_details"), "reasoning_tokens") for count in known)
    return {
        **total,
        "total_tokens": sum(total.values()),
        "input_token_details": {"cache_read": cached},
        "output_token_details": {"reasoning": thought},
    }


def _count(counts: Any, *names: str) -> int:
    values = [counts.get(name) for name in names] if isinstance(counts, Mapping) else []
    return next((value for value in values if isinstance(value, int)), 0)


def _names(places: Iterable[Place]) -> str:
    return " or ".join(map(str, places))
