"""The growing output of a response: its items and their events.

One message contains the whole text and stays open to the end, so that sources found late can be cited in it.
Reasoning before the text is one item, closed when the text begins; later reasoning is a second item, open
beside the message.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

import orjson

from flowise_gateway.flow.errors import ErrorObject
from flowise_gateway.flow.events import ClientToolCalled, ToolUsed
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.openai.citations import UrlCitation
from flowise_gateway.openai.sse import Frame, failed_response
from flowise_gateway.responses.input_items import OWN_CALL
from flowise_gateway.responses.items import MakeId

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class Citation(UrlCitation):
    """A citation in the format of Responses."""

    type: Literal["url_citation"]


class TextPart(TypedDict):
    """A part of a message, or of a reasoning summary, which only has the first two keys."""

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
    """Creates event frames with consecutive sequence numbers and their types as names."""

    def __init__(self) -> None:
        """Start with 0, as both specifications require."""
        self._number = 0

    def frame(self, kind: str, **fields: Any) -> Frame:
        """The next event."""
        event = {"type": kind, "sequence_number": self._next(), **fields}
        return Frame(orjson.dumps(event), kind)

    def delta(self, kind: str, head: bytes, text: str) -> Frame:
        """The next of many events that only differ in their text; `head` is everything before it."""
        return Frame(b'%b,"sequence_number":%d,"delta":%b}' % (head, self._next(), orjson.dumps(text)), kind)

    def failed(self, error: ErrorObject, response: Mapping[str, Any]) -> list[Frame]:
        """The last events of a failed response."""
        return failed_response(self._number, error, response)

    def _next(self) -> int:
        self._number += 1
        return self._number - 1


class _OpenItem(ABC):
    """An item whose text is still growing."""

    id_prefix: ClassVar[str]
    part_event: ClassVar[str]
    text_event: ClassVar[str]
    index_field: ClassVar[str]
    logprobs: ClassVar[Mapping[str, list[Any]]] = {}
    """A field that OpenAI requires with the text of a message."""

    def __init__(self, item_id: str, index: int, events: Events) -> None:
        """Set the item's index in the output."""
        self.index, self.last_text = index, ""
        self._id, self._events, self._texts = item_id, events, list[str]()
        self._place = {"item_id": item_id, "output_index": index, self.index_field: 0}
        head = {"type": f"{self.text_event}.delta", **self._place, **self.logprobs}
        self._delta_head = orjson.dumps(head)[:-1]

    def opening(self) -> list[Frame]:
        """The events at the start of the item."""
        return [
            self._item_event("added", self._item("in_progress", [])),
            self._events.frame(f"{self.part_event}.added", **self._place, part=self._part("")),
        ]

    def add(self, text: str) -> Frame:
        """Add text."""
        self.last_text = text
        self._texts.append(text)
        return self._events.delta(f"{self.text_event}.delta", self._delta_head, text)

    def close(self, status: ItemStatus, citations: Sequence[Citation] = ()) -> tuple[list[Frame], OutputItem]:
        """The events at the end of the item, and the complete item."""
        text = "".join(self._texts)
        part = self._part(text, citations)
        item = self._item(status, [part])
        frames = [
            self._events.frame(
                f"{self.text_event}.annotation.added", **self._place, annotation_index=n, annotation=citation
            )
            for n, citation in enumerate(citations)
        ]
        return [
            *frames,
            self._events.frame(f"{self.text_event}.done", **self._place, text=text, **self.logprobs),
            self._events.frame(f"{self.part_event}.done", **self._place, part=part),
            self._item_event("done", item),
        ], item

    @abstractmethod
    def _item(self, status: ItemStatus, parts: list[TextPart]) -> OutputItem:
        """Return the complete item."""

    @abstractmethod
    def _part(self, text: str, citations: Sequence[Citation] = ()) -> TextPart:
        """Return the item's only part."""

    def _item_event(self, what: str, item: OutputItem) -> Frame:
        return self._events.frame(f"response.output_item.{what}", output_index=self.index, item=item)


class _Message(_OpenItem):
    id_prefix, index_field = "msg_", "content_index"
    part_event, text_event = "response.content_part", "response.output_text"
    logprobs = {"logprobs": []}  # noqa: RUF012 - never changed

    def _item(self, status: ItemStatus, parts: list[TextPart]) -> OutputItem:
        return {"id": self._id, "type": "message", "status": status, "role": "assistant", "content": parts}

    def _part(self, text: str, citations: Sequence[Citation] = ()) -> TextPart:
        return {"type": "output_text", "text": text, "annotations": [*citations], "logprobs": []}


class _Reasoning(_OpenItem):
    id_prefix, index_field = "rs_", "summary_index"
    part_event, text_event = "response.reasoning_summary_part", "response.reasoning_summary_text"

    def _item(self, status: ItemStatus, parts: list[TextPart]) -> OutputItem:  # noqa: ARG002 - it has none
        return {"id": self._id, "type": "reasoning", "summary": parts}

    def _part(self, text: str, citations: Sequence[Citation] = ()) -> TextPart:  # noqa: ARG002 - it has none
        return {"type": "summary_text", "text": text}


class Output:
    """The items of one response, in the order of their start. Each method returns the events to send."""

    def __init__(self, events: Events, make_id: MakeId) -> None:
        """Start without items."""
        self._events, self._make_id = events, make_id
        self._items: dict[int, OutputItem] = {}
        self._count = 0
        self._message: _Message | None = None
        self._reasoning: _Reasoning | None = None
        self._has_calls = False

    @property
    def items(self) -> list[OutputItem]:
        """The items that are complete."""
        return [self._items[index] for index in sorted(self._items)]

    @property
    def has_text(self) -> bool:
        """Whether the message has started."""
        return self._message is not None

    @property
    def last_thought(self) -> str:
        """The text added last to the open reasoning."""
        return self._reasoning.last_text if self._reasoning else ""

    def add_text(self, text: str) -> list[Frame]:
        """Add text to the answer."""
        if self._message:  # nearly always
            return [self._message.add(text)]
        frames = self._close_reasoning()
        self._message = _Message(self._make_id(_Message.id_prefix), self._new_index(), self._events)
        frames += self._message.opening()
        return [*frames, self._message.add(text)] if text else frames

    def add_thought(self, text: str) -> list[Frame]:
        """Add text to the reasoning."""
        if self._reasoning:
            return [self._reasoning.add(text)]
        self._reasoning = _Reasoning(self._make_id(_Reasoning.id_prefix), self._new_index(), self._events)
        return [*self._reasoning.opening(), self._reasoning.add(text)]

    def add_call(self, event: ClientToolCalled) -> list[Frame]:
        """Add a call of a client's function."""
        self._has_calls = True
        frames = [] if self._message else self._close_reasoning()
        return [*frames, *self._call(event.call_id, event.name, event.arguments)]

    def add_flow_tool(self, event: ToolUsed) -> list[Frame]:
        """Add a tool call of the flow, as a call and its output."""
        frames = [] if self._message else self._close_reasoning()
        call_id = self._make_id(OWN_CALL)
        output: OutputItem = {
            "id": self._make_id("fco_"),
            "type": "function_call_output",
            "status": "completed",
            "call_id": call_id,
            "output": event.error or json_text("" if event.tool_output is None else event.tool_output),
        }
        # Function names only have these characters, and their arguments are an object.
        name = re.sub(r"[^a-zA-Z0-9_-]+", "_", event.tool)[:64] or "tool"
        given = event.tool_input if isinstance(event.tool_input, dict) else {"input": event.tool_input}
        frames += self._call(call_id, name, json_text(given))
        return [*frames, self._added(output, output), self._done(output)]

    def close(self, status: ItemStatus, citations: Sequence[Citation]) -> list[Frame]:
        """End all open items; an output without any becomes an empty message."""
        frames = [] if self._message or self._has_calls else self.add_text("")
        return [*frames, *self._close_open(status, citations)]

    def interrupt(self) -> list[Frame]:
        """End the open items of an interrupted answer."""
        return self._close_open("incomplete")

    def _close_open(self, status: ItemStatus, citations: Sequence[Citation] = ()) -> list[Frame]:
        frames = list[Frame]()
        if self._message:  # it started before the open reasoning item
            frames, self._items[self._message.index] = self._message.close(status, citations)
            self._message = None
        return [*frames, *self._close_reasoning()]

    def _close_reasoning(self) -> list[Frame]:
        if not self._reasoning:
            return []
        frames, self._items[self._reasoning.index] = self._reasoning.close("completed")
        self._reasoning = None
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
        added = self._added(item, {**item, "status": "in_progress", "arguments": ""})
        place = {"item_id": item["id"], "output_index": self._count - 1}
        family = "response.function_call_arguments"
        return [
            added,
            self._events.frame(f"{family}.delta", **place, delta=arguments),
            self._events.frame(f"{family}.done", **place, name=name, arguments=arguments),
            self._done(item),
        ]

    def _added(self, item: OutputItem, shown: OutputItem) -> Frame:
        index = self._new_index()
        self._items[index] = item
        return self._events.frame("response.output_item.added", output_index=index, item=shown)

    def _done(self, item: OutputItem) -> Frame:
        return self._events.frame("response.output_item.done", output_index=self._count - 1, item=item)

    def _new_index(self) -> int:
        self._count += 1
        return self._count - 1
