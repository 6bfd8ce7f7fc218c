"""What Open Responses (release 2026-04-24) demands of a response, and the order of a stream's events.

The shapes are written after the specification: which fields there must be and of which kind; more of them are
allowed. OpenAI's own schemas demand less: there many a field may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}
TRUTH: Json = {"type": "boolean"}
_BEGINNING = ["response.created", "response.in_progress"]
ENDS = ("response.completed", "response.incomplete", "response.failed")


def one_of(*values: str) -> Json:
    """One of these words."""
    return {"enum": [*values]}


def some(shape: Json) -> Json:
    """A list of such values."""
    return {"type": "array", "items": shape}


def maybe(shape: Json) -> Json:
    """Such a value or null."""
    return {"anyOf": [shape, {"type": "null"}]}


def record(fields: Mapping[str, Json], **optional: Json) -> Json:
    """An object with all these fields; those that may be missing are right where they are there."""
    return {"type": "object", "required": [*fields], "properties": {**fields, **optional}}


def kinds(**fields: Mapping[str, Json]) -> Json:
    """An object whose `type` tells which fields it must have."""
    known = [record({"type": one_of(kind), **more}) for kind, more in fields.items()]
    return {"type": "object", "anyOf": known}


_LOGPROB = {"token": TEXT, "logprob": NUMBER, "bytes": some(WHOLE)}
_LOGPROBS = some(record({**_LOGPROB, "top_logprobs": some(record(_LOGPROB))}))
_CITATION = record(
    {
        "type": one_of("url_citation"),
        "url": TEXT,
        "title": TEXT,
        "start_index": WHOLE,
        "end_index": WHOLE,
    }
)
_OUTPUT_TEXT = record(
    {"type": one_of("output_text"), "text": TEXT, "annotations": some(_CITATION)}, logprobs=_LOGPROBS
)
_PART = {
    "anyOf": [
        _OUTPUT_TEXT,
        kinds(
            input_text={"text": TEXT},
            text={"text": TEXT},
            summary_text={"text": TEXT},
            reasoning_text={"text": TEXT},
            refusal={"refusal": TEXT},
            input_image={"image_url": maybe(TEXT), "detail": one_of("low", "high", "auto")},
            input_file={},
        ),
    ]
}
_PROGRESS = one_of("in_progress", "completed", "incomplete")
_MESSAGE = record(
    {
        "type": one_of("message"),
        "id": TEXT,
        "status": _PROGRESS,
        "content": some(_PART),
        "role": one_of(
            "user", "assistant", "system", "developer", "tool", "critic", "discriminator", "unknown"
        ),
    },
    phase=maybe(one_of("commentary", "final_answer")),
)
_REASONING = record(
    {"type": one_of("reasoning"), "id": TEXT, "summary": some(_PART)},
    content=some(_PART),
    encrypted_content=TEXT,
)
_ITEM = {
    "anyOf": [
        _MESSAGE,
        _REASONING,
        kinds(
            function_call={"id": TEXT, "call_id": TEXT, "name": TEXT, "arguments": TEXT, "status": _PROGRESS},
            function_call_output={
                "id": TEXT,
                "call_id": TEXT,
                "status": _PROGRESS,
                "output": {"anyOf": [TEXT, some(_PART)]},
            },
            compaction={"id": TEXT, "encrypted_content": TEXT},
        ),
    ]
}
_USAGE = record(
    {
        "input_tokens": WHOLE,
        "output_tokens": WHOLE,
        "total_tokens": WHOLE,
        "input_tokens_details": record({"cached_tokens": WHOLE}),
        "output_tokens_details": record({"reasoning_tokens": WHOLE}),
    }
)
_CHOICE = one_of("none", "auto", "required")
_FUNCTION = {
    "name": TEXT,
    "description": maybe(TEXT),
    "parameters": maybe({"type": "object"}),
    "strict": maybe(TRUTH),
}
_FORMAT = kinds(
    text={},
    json_object={},
    json_schema={"name": TEXT, "description": maybe(TEXT), "schema": {}, "strict": TRUTH},
)
_RESPONSE = record(
    {
        "id": TEXT,
        "object": one_of("response"),
        "status": TEXT,
        "model": TEXT,
        "output": some(_ITEM),
        "created_at": WHOLE,
        "completed_at": maybe(WHOLE),
        "usage": maybe(_USAGE),
        "metadata": {},
        "previous_response_id": maybe(TEXT),
        "instructions": maybe(TEXT),
        "incomplete_details": maybe(record({"reason": TEXT})),
        "error": maybe(record({"code": TEXT, "message": TEXT})),
        "tools": some(kinds(function=_FUNCTION)),
        "tool_choice": {
            "anyOf": [
                _CHOICE,
                kinds(function={"name": TEXT}, allowed_tools={"mode": _CHOICE, "tools": some({})}),
            ]
        },
        "text": record({"format": _FORMAT}, verbosity=one_of("low", "medium", "high")),
        "reasoning": maybe(
            record(
                {
                    "effort": maybe(one_of("none", "minimal", "low", "medium", "high", "xhigh")),
                    "summary": maybe(one_of("concise", "detailed", "auto")),
                }
            )
        ),
        "truncation": one_of("auto", "disabled"),
        "parallel_tool_calls": TRUTH,
        "temperature": NUMBER,
        "top_p": NUMBER,
        "top_logprobs": WHOLE,
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "max_output_tokens": maybe(WHOLE),
        "max_tool_calls": maybe(WHOLE),
        "store": TRUTH,
        "background": TRUTH,
        "service_tier": TEXT,
        "safety_identifier": maybe(TEXT),
        "prompt_cache_key": maybe(TEXT),
    }
)
_COMPACTION = record(
    {
        "id": TEXT,
        "object": one_of("response.compaction"),
        "created_at": WHOLE,
        "output": some(_ITEM),
        "usage": _USAGE,
    }
)
_ERROR = record({"code": TEXT, "message": TEXT}, type=TEXT, param=maybe(TEXT))

_OF_ITEM = {"item_id": TEXT, "output_index": WHOLE}
_OF_PART = {**_OF_ITEM, "content_index": WHOLE}
_OF_SUMMARY = {**_OF_ITEM, "summary_index": WHOLE}
_WHOLE_RESPONSE = ("created", "queued", "in_progress", "completed", "incomplete", "failed")
_EVENT_FIELDS: Mapping[str, Mapping[str, Json]] = {
    **{f"response.{state}": {"response": _RESPONSE} for state in _WHOLE_RESPONSE},
    **{f"response.output_item.{what}": {"output_index": WHOLE, "item": _ITEM} for what in ("added", "done")},
    **{f"response.content_part.{what}": {**_OF_PART, "part": _PART} for what in ("added", "done")},
    "response.output_text.delta": {**_OF_PART, "delta": TEXT},
    "response.output_text.done": {**_OF_PART, "text": TEXT},
    "response.output_text.annotation.added": {
        **_OF_PART,
        "annotation_index": WHOLE,
        "annotation": maybe(_CITATION),
    },
    "response.refusal.delta": {**_OF_PART, "delta": TEXT},
    "response.refusal.done": {**_OF_PART, "refusal": TEXT},
    "response.function_call_arguments.delta": {**_OF_ITEM, "delta": TEXT},
    "response.function_call_arguments.done": {**_OF_ITEM, "arguments": TEXT},
    **{
        f"response.reasoning_summary_part.{what}": {**_OF_SUMMARY, "part": _PART}
        for what in ("added", "done")
    },
    "response.reasoning_summary_text.delta": {**_OF_SUMMARY, "delta": TEXT},
    "response.reasoning_summary_text.done": {**_OF_SUMMARY, "text": TEXT},
    "error": {"error": _ERROR},
}
_SHAPES = {
    "response": Draft202012Validator(_RESPONSE),
    "compaction": Draft202012Validator(_COMPACTION),
    "socket error": Draft202012Validator(
        record({"type": one_of("error"), "status": WHOLE, "error": _ERROR}),
    ),
    **{
        kind: Draft202012Validator(record({"type": one_of(kind), "sequence_number": WHOLE, **fields}))
        for kind, fields in _EVENT_FIELDS.items()
    },
}


def faults(kind: str, value: Any) -> list[str]:
    """What is wrong with a value: a response, a compaction, a socket error, or an event by its type."""
    if kind not in _SHAPES:
        return [f"{kind} is no event of Open Responses"]
    found = (_told(error) for error in _SHAPES[kind].iter_errors(value))
    return [f"{kind}: {error.json_path}: {error.message[:300]}" for error in found]


def _told(error: ValidationError) -> ValidationError:
    """The fault that a person would name: what a value lacks of its own kind, not that it is of none."""
    branches: dict[Any, list[ValidationError]] = {}
    for one in error.context or ():
        branches.setdefault(one.relative_schema_path[0], []).append(one)
    own = [branch for branch in branches.values() if not any(_is_of_kind(one) for one in branch)]
    return _told(min(own, key=len)[0]) if own else error


def _is_of_kind(error: ValidationError) -> bool:
    path = error.relative_path
    return error.validator == "enum" and bool(path) and path[-1] == "type"


def right(kind: str, value: Any) -> None:
    """Fails with the list of faults."""
    found = faults(kind, value)
    if found:
        raise AssertionError("; ".join(found))


def stream_faults(events: Sequence[Json]) -> list[str]:
    """What is wrong with the events of a stream, in their shapes and in their order."""
    shapes = [fault for event in events for fault in faults(str(event.get("type")), event)]
    return shapes or [*_order_faults(events), *_Opened().faults(events)]


def _order_faults(events: Sequence[Json]) -> list[str]:
    types = [event["type"] for event in events]
    states = [kind for kind, event in zip(types, events, strict=True) if "response" in event]
    ids = {event["response"]["id"] for event in events if "response" in event}
    tests = {
        "it does not begin with created, in_progress": types[:2] != _BEGINNING,
        "it does not end with the end of a response": types[-1] not in ENDS,
        "it tells twice of a state": states[:-1] != _BEGINNING,
        "it does not count from 0": [event["sequence_number"] for event in events] != [*range(len(events))],
        "the response has several ids": len(ids) > 1,
    }
    return [fault for fault, is_so in tests.items() if is_so]


_Slot = tuple[int, str, int]


class _Opened:
    """Follows what is opened and closed: items in the response, parts in the items."""

    def __init__(self) -> None:
        self._items: list[Json] = []
        self._open: dict[int, str] = {}
        self._parts: dict[_Slot, Json] = {}
        self._calls: dict[_Slot, Json] = {}
        self._counts: dict[tuple[int, str], int] = {}
        self._faults: list[str] = []

    def faults(self, events: Sequence[Json]) -> list[str]:
        """What is out of order."""
        for event in events:
            self._take(event)
        return self._faults

    def _expect(self, event: Json, is_so: bool, what: str) -> None:
        if not is_so:
            self._faults.append(f"{event.get('sequence_number')} {event['type']}: {what}")

    def _take(self, event: Json) -> None:
        kind, _, step = event["type"].removeprefix("response.").rpartition(".")
        if kind == "output_item":
            (self._item_added if step == "added" else self._item_done)(event)
        elif kind in ("content_part", "reasoning_summary_part"):
            self._part(event, step)
        elif "item_id" in event:
            self._piece(event, step)
        elif event["type"] in ENDS:
            self._end(event)

    def _item_added(self, event: Json) -> None:
        item, index = event["item"], event["output_index"]
        self._expect(event, index == len(self._items), "the next output_index is another one")
        self._expect(event, item["id"] not in [known["id"] for known in self._items], "the id is not its own")
        # What a tool gave is there at once; all else grows.
        begun = "completed" if item["type"] == "function_call_output" else "in_progress"
        self._expect(event, item.get("status", begun) == begun, "it has the status of a later one")
        told = [item.get(name) for name in ("content", "summary", "arguments")]
        self._expect(event, not any(told), "it is not empty")
        self._items.append(item)
        self._open[index] = item["id"]
        if item["type"] == "function_call":
            self._calls[self._slot(event)] = {"delta": "", "done": None}

    def _item_done(self, event: Json) -> None:
        index, item = event["output_index"], event["item"]
        self._expect(event, self._open.pop(index, "") == item["id"], "no such item is open")
        self._expect(event, not [slot for slot in self._parts if slot[0] == index], "a part of it is open")
        self._expect(event, item.get("status") != "in_progress", "it must no longer be in progress")
        call = self._calls.get(self._slot(event), {})
        if item["type"] == "function_call":
            self._expect(
                event, item["arguments"] == call.get("done") == call.get("delta"), "it is not what was said"
            )
        self._items[index : index + 1] = [item]

    def _part(self, event: Json, step: str) -> None:
        slot = self._slot(event)
        self._expect(event, self._is_of_open_item(event), "no such item is open")
        if step == "added":
            self._expect(event, slot[2] == self._counts.get(slot[:2], 0), "the next index is another one")
            self._counts[slot[:2]] = slot[2] + 1
            self._parts[slot] = {"delta": "", "done": None, "annotations": []}
            return
        part = self._parts.pop(slot, None)
        if part is None:
            self._expect(event, False, "no such part is open")
            return
        said = event["part"].get("text", event["part"].get("refusal"))
        self._expect(event, said == part["done"] == part["delta"], "it is not what was said")
        cited = event["part"].get("annotations", [])
        self._expect(event, cited == part["annotations"], "the annotations are not those that were told")

    def _piece(self, event: Json, step: str) -> None:
        self._expect(event, self._is_of_open_item(event), "no such item is open")
        is_of_call = "arguments" in event["type"]
        open_ones = self._calls if is_of_call else self._parts
        part = open_ones.get(self._slot(event))
        if part is None or (part["done"] is not None and "annotation" not in event):
            self._expect(event, False, "nothing is open that it could belong to")
        elif "annotation" in event:
            at = event["annotation_index"]
            self._expect(event, at == len(part["annotations"]), "the next annotation_index is another one")
            part["annotations"].append(event["annotation"])
        elif step == "delta":
            part["delta"] += event["delta"]
        else:
            part["done"] = event.get("text", event.get("refusal", event.get("arguments")))

    def _end(self, event: Json) -> None:
        self._expect(event, not self._open, "an item is still open")
        self._expect(
            event, event["response"]["output"] == self._items, "the output is not the items that were told"
        )
        self._expect(
            event, event["type"] == f"response.{event['response']['status']}", "the status is another one"
        )

    def _is_of_open_item(self, event: Json) -> bool:
        known: object = event["item_id"]
        return known == self._open.get(event["output_index"])

    @staticmethod
    def _slot(event: Json) -> _Slot:
        name = next((name for name in ("content_index", "summary_index") if name in event), "")
        return event["output_index"], name, event.get(name, 0)
