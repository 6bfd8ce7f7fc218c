"""The output of a response as it grows: its items, and the events that tell of them. Wire layer, pure.

One message holds the whole text and stays open to the end, so that late sources can be cited in it. Thoughts
before the text are one item, closed when the text begins; later ones are a second, open beside the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import orjson

from flowise_gateway.flow.errors import ErrorObject
from flowise_gateway.flow.events import ClientToolCalled, ToolUsed
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.openai.sse import Frame, failed_response
from flowise_gateway.responses.input_items import OWN_CALL

ItemStatus = Literal["in_progress", "completed", "incomplete"]
MakeId = Callable[[str], str]


class Citation(TypedDict):
    """A web page that the text rests on; the indexes are those of its first mark in the text."""

    type: Literal["url_citation"]
    url: str
    title: str
    start_index: int
    end_index: int


class TextPart(TypedDict):
    """A part of a message, or of a summary of thoughts, which has no more than the first two."""

    type: Literal["output_text", "summary_text"]
    text: str
    annotations: NotRequired[list[Citation]]
    logprobs: NotRequired[list[Any]]


class OutputItem(TypedDict):
    """An item of the output: message, reasoning, function_call or function_call_output."""

    id: str
    type: Literal["message", "reasoning", "function_call", "function_call_output"]
    status: NotRequired[ItemStatus]
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[list[TextPart]]
    summary: NotRequired[list[TextPart]]
    call_id: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]
    output: NotRequired[str]


class Events:
    """Makes frames of events: their numbers rise by one, their names are their types."""

    def __init__(self) -> None:
        """Begin with 0."""
        self._number = 0

    def frame(self, kind: str, **fields: Any) -> Frame:
        """The next event."""
        event = {"type": kind, "sequence_number": self._next(), **fields}
        return Frame(orjson.dumps(event), kind)

    def delta(self, kind: str, head: bytes, text: str) -> Frame:
        """The next event of many that are alike but for their text; `head` is all the rest of it."""
        return Frame(b'%b,"sequence_number":%d,"delta":%b}' % (head, self._next(), orjson.dumps(text)), kind)

    def failed(self, error: ErrorObject, response: Mapping[str, Any]) -> list[Frame]:
        """The last events, which tell of a failed response."""
        return failed_response(self._number, error, response)

    def _next(self) -> int:
        self._number += 1
        return self._number - 1


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the events of an item with text are called."""

    prefix: str
    part: str
    text: str
    index: str
    has_logprobs: bool = False

    @property
    def logprobs(self) -> dict[str, list[Any]]:
        """What OpenAI requires beside text."""
        return {"logprobs": []} if self.has_logprobs else {}


_MESSAGE = _Kind("msg_", "response.content_part", "response.output_text", "content_index", has_logprobs=True)
_THOUGHTS = _Kind(
    "rs_", "response.reasoning_summary_part", "response.reasoning_summary_text", "summary_index"
)


def _message(item_id: str, status: ItemStatus, parts: list[TextPart]) -> OutputItem:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": parts}


def _thoughts(item_id: str, _status: ItemStatus, parts: list[TextPart]) -> OutputItem:
    return {"id": item_id, "type": "reasoning", "summary": parts}


def _text_part(kind: _Kind, text: str, citations: Sequence[Citation] = ()) -> TextPart:
    if kind is _THOUGHTS:
        return {"type": "summary_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [*citations], "logprobs": []}


class _Writing:
    """An item whose text is being written."""

    def __init__(self, kind: _Kind, item_id: str, index: int, events: Events) -> None:
        self._kind, self._id, self._index, self._events = kind, item_id, index, events
        self._place = {"item_id": item_id, "output_index": index, kind.index: 0}
        self._texts: list[str] = []
        head = {"type": f"{kind.text}.delta", **self._place, **kind.logprobs}
        self._head = orjson.dumps(head)[:-1]

    def opened(self) -> list[Frame]:
        """Tell that the item begins."""
        part = _text_part(self._kind, "")
        return [
            self._item_event("added", self._item("in_progress", [])),
            self._events.frame(f"{self._kind.part}.added", **self._place, part=part),
        ]

    def written(self, text: str) -> Frame:
        """Take more text."""
        self._texts.append(text)
        return self._events.delta(f"{self._kind.text}.delta", self._head, text)

    @property
    def last(self) -> str:
        """The text that was written last."""
        return self._texts[-1] if self._texts else ""

    def closed(
        self, status: ItemStatus, citations: Sequence[Citation] = ()
    ) -> tuple[list[Frame], OutputItem]:
        """Tell that the item ends, and give it."""
        text = "".join(self._texts)
        part = _text_part(self._kind, text, citations)
        item = self._item(status, [part])
        cited = [
            self._events.frame(
                f"{self._kind.text}.annotation.added", **self._place, annotation_index=n, annotation=citation
            )
            for n, citation in enumerate(citations)
        ]
        return [
            *cited,
            self._events.frame(f"{self._kind.text}.done", **self._place, text=text, **self._kind.logprobs),
            self._events.frame(f"{self._kind.part}.done", **self._place, part=part),
            self._item_event("done", item),
        ], item

    def _item(self, status: ItemStatus, parts: list[TextPart]) -> OutputItem:
        return (_thoughts if self._kind is _THOUGHTS else _message)(self._id, status, parts)

    def _item_event(self, what: str, item: OutputItem) -> Frame:
        return self._events.frame(f"response.output_item.{what}", output_index=self._index, item=item)


class Output:
    """The items of one response, in the order in which they were begun."""

    def __init__(self, events: Events, make_id: MakeId) -> None:
        """Begin empty."""
        self._events = events
        self._make_id = make_id
        self._items: dict[int, OutputItem] = {}
        self._count = 0
        self._open: dict[_Kind, tuple[int, _Writing]] = {}
        self._has_calls = False

    @property
    def items(self) -> list[OutputItem]:
        """The items that are whole."""
        return [self._items[index] for index in sorted(self._items)]

    @property
    def has_text(self) -> bool:
        """Whether anything of the answer's text has been told."""
        return _MESSAGE in self._open

    @property
    def last_thought(self) -> str:
        """What the item of thoughts that is open ends with."""
        return self._open[_THOUGHTS][1].last if _THOUGHTS in self._open else ""

    def say(self, text: str) -> list[Frame]:
        """Take a piece of the answer's text."""
        return [*self._close_first_thoughts(), *self._write(_MESSAGE, text)]

    def think(self, text: str) -> list[Frame]:
        """Take a piece of how the answer came about."""
        return self._write(_THOUGHTS, text)

    def call(self, event: ClientToolCalled) -> list[Frame]:
        """Take a call of a function of the client's."""
        self._has_calls = True
        return [*self._close_first_thoughts(), *self._call(event.call_id, event.name, event.arguments)]

    def tool(self, event: ToolUsed) -> list[Frame]:
        """Take a tool of the flow that has run, as a call and its output."""
        closed, call_id = self._close_first_thoughts(), self._make_id(OWN_CALL)
        output = event.error or json_text("" if event.tool_output is None else event.tool_output)
        item: OutputItem = {
            "id": self._make_id("fco_"),
            "type": "function_call_output",
            "status": "completed",
            "call_id": call_id,
            "output": output,
        }
        called = self._call(call_id, _function_name(event.tool), _arguments(event.tool_input))
        return [*closed, *called, *self._added(item), self._done(item)]

    def end(self, status: ItemStatus, citations: Sequence[Citation]) -> list[Frame]:
        """Close what is open; an output that would be nothing becomes an empty message."""
        frames = self._close_first_thoughts()
        if not self._has_calls:
            frames += self._write(_MESSAGE, "")
        frames += self._close(_MESSAGE, status, citations)
        return [*frames, *self._close(_THOUGHTS, status)]

    def broken(self) -> list[Frame]:
        """Close what is open of an answer that never ended."""
        by_index = sorted(self._open, key=lambda kind: self._open[kind][0])
        return [frame for kind in by_index for frame in self._close(kind, "incomplete")]

    def _close_first_thoughts(self) -> list[Frame]:
        return [] if _MESSAGE in self._open else self._close(_THOUGHTS, "completed")

    def _write(self, kind: _Kind, text: str) -> list[Frame]:
        frames = []
        if kind not in self._open:
            index = self._new_index()
            self._open[kind] = index, _Writing(kind, self._make_id(kind.prefix), index, self._events)
            frames = self._open[kind][1].opened()
        return [*frames, self._open[kind][1].written(text)] if text else frames

    def _close(self, kind: _Kind, status: ItemStatus, citations: Sequence[Citation] = ()) -> list[Frame]:
        if kind not in self._open:
            return []
        index, writing = self._open.pop(kind)
        frames, self._items[index] = writing.closed(status, citations)
        return frames

    def _call(self, call_id: str, name: str, arguments: str) -> list[Frame]:
        item: OutputItem = {
            "id": self._make_id("fc_"),
            "type": "function_call",
            "status": "completed",
            "call_id": call_id,
            "name": name,
            "arguments": arguments,
        }
        opened = self._added(item, {"status": "in_progress", "arguments": ""})
        place = {"item_id": item["id"], "output_index": self._count - 1}
        family = "response.function_call_arguments"
        return [
            *opened,
            self._events.frame(f"{family}.delta", **place, delta=arguments),
            self._events.frame(f"{family}.done", **place, name=name, arguments=arguments),
            self._done(item),
        ]

    def _added(self, item: OutputItem, begun: Mapping[str, Any] | None = None) -> list[Frame]:
        index = self._new_index()
        self._items[index] = item
        return [
            self._events.frame(
                "response.output_item.added", output_index=index, item={**item, **(begun or {})}
            )
        ]

    def _done(self, item: OutputItem) -> Frame:
        return self._events.frame("response.output_item.done", output_index=self._count - 1, item=item)

    def _new_index(self) -> int:
        self._count += 1
        return self._count - 1


def _arguments(tool_input: Any) -> str:
    """What a tool was given as the JSON object that a function's arguments are."""
    return json_text(tool_input if isinstance(tool_input, dict) else {"input": tool_input})


def _function_name(tool: str) -> str:
    """A tool's name in the letters that a function's name may have."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", tool)[:64] or "tool"
