"""Adds to the schemas what OpenAI's SDK knows and they do not: `python -m tests.openai_schemas_refresh`.

The schemas come from OpenAI's own document, which has limits and patterns that the SDK's types lack; the SDK has
fields, types of items and words that are newer than the document. Nothing is taken out. What was added stands in
`$defs` under `sdk.…`, or in the lists of words.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionParams
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponseParams
from pydantic import TypeAdapter

SCHEMAS = Path(__file__).resolve().parents[1] / "openai_schemas"
SDK_TYPES: dict[str, Any] = {
    "CreateChatCompletionRequest": ChatParams,
    "CreateChatCompletionResponse": ChatCompletion,
    "CreateChatCompletionStreamResponse": ChatCompletionChunk,
    "CreateCompletionRequest": CompletionParams,
    "CreateCompletionResponse": Completion,
    "CreateResponse": ResponseParams,
    "Model": Model,
    "Response": Response,
    "ResponseItemList": ResponseItemList,
    "ResponseStreamEvent": ResponseStreamEvent,
}
MAX_SAFETY_IDENTIFIER = 128
"""As the SDK's words have it since the document was written."""

Schema = dict[str, Any]


def refreshed(name: str, doc: Schema) -> Schema:
    """The schema of a file with all that the SDK's type for it has beside."""
    if name not in SDK_TYPES:
        return doc
    sdk = TypeAdapter(SDK_TYPES[name]).json_schema()
    merged = _Merger(copy.deepcopy(doc), sdk)
    merged.merge({"$ref": doc["$ref"]}, sdk)
    for schema in list(_all_schemas(merged.doc)):
        for limited in _all_schemas(schema.get("properties", {}).get("safety_identifier")):
            if "maxLength" in limited:
                limited["maxLength"] = MAX_SAFETY_IDENTIFIER
    return merged.doc


class _Merger:
    def __init__(self, doc: Schema, sdk: Schema) -> None:
        self.doc, self._sdk = doc, sdk
        self._seen: set[tuple[int, int]] = set()

    def merge(self, ours: Schema, theirs: Schema) -> None:
        """Add to one schema what another one allows beside."""
        union, known = _alternatives(self.doc, ours)
        _, given = _alternatives(self._sdk, theirs)
        self._add_words(known, given)
        for other in given:
            if other.get("type") == "array" and "items" in other:
                for schema in known:
                    if "items" in schema:
                        self.merge(schema["items"], other["items"])
            elif _fields(self._sdk, other):
                self._add_object(union, known, other)

    def _add_object(self, union: list[Schema], known: list[Schema], other: Schema) -> None:
        tags, fields = _tags(self._sdk, other), set(_fields(self._sdk, other))
        alike = [schema for schema in known if _fields(self.doc, schema) and _tags(self.doc, schema) == tags]
        if alike:
            nearest = min(alike, key=lambda schema: len(fields ^ set(_fields(self.doc, schema))))
            self._add_fields(nearest, other)
        elif tags and any(_tags(self.doc, schema) for schema in known):
            name = f"sdk.{other['title']}"
            self.doc["$defs"][name] = self._adopted(other)
            union.append({"$ref": f"#/$defs/{name}"})

    def _add_fields(self, ours: Schema, theirs: Schema) -> None:
        if (id(ours), id(theirs)) in self._seen:
            return
        self._seen.add((id(ours), id(theirs)))
        known = _fields(self.doc, ours)
        for name, schema in _fields(self._sdk, theirs).items():
            if name in known:
                self.merge(known[name], schema)
            else:
                _home(self.doc, ours)[name] = self._adopted(schema)

    @staticmethod
    def _add_words(known: list[Schema], given: list[Schema]) -> None:
        lists = [schema["enum"] for schema in known if _is_word(schema)]
        is_open = any(schema.get("type") == "string" and not _is_word(schema) for schema in given)
        if lists and not is_open:
            words = [word for schema in given if _is_word(schema) for word in _words(schema)]
            lists[0] += [word for word in words if not any(word in each for each in lists)]

    def _adopted(self, schema: Any) -> Any:
        """A schema of the SDK's, with what it refers to under names of its own."""
        if isinstance(schema, list):
            return [self._adopted(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[-1]
            if f"sdk.{name}" not in self.doc["$defs"]:
                self.doc["$defs"][f"sdk.{name}"] = {}
                self.doc["$defs"][f"sdk.{name}"] = self._adopted(self._sdk["$defs"][name])
            return {"$ref": f"#/$defs/sdk.{name}"}
        if "const" in schema:
            return {"type": "string", "enum": [schema["const"]]}
        dropped = ("title", "description", "discriminator", "default")
        is_fields = all(isinstance(value, dict) for value in schema.values())
        return {k: self._adopted(v) for k, v in schema.items() if is_fields or k not in dropped}


def _resolved(doc: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = doc["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return schema


def _alternatives(doc: Schema, schema: Schema) -> tuple[list[Schema], list[Schema]]:
    """The first list of alternatives of a schema, to add more to, and all alternatives in depth."""
    schema = _resolved(doc, schema)
    inner = schema.get("anyOf") or schema.get("oneOf")
    if not inner:
        return [], [schema]
    union: list[Schema] = inner
    found = []
    for each in inner:
        deeper, alternatives = _alternatives(doc, each)
        found += alternatives
        union = deeper if len(deeper) > len(union) else union
    return union, found


def _fields(doc: Schema, schema: Schema) -> dict[str, Schema]:
    schema = _resolved(doc, schema)
    fields = dict(schema.get("properties", {}))
    for part in schema.get("allOf", ()):
        fields.update(_fields(doc, part))
    return fields


def _home(doc: Schema, schema: Schema) -> dict[str, Schema]:
    """Where a schema's own fields are."""
    schema = _resolved(doc, schema)
    if "allOf" in schema:
        return _home(doc, schema["allOf"][-1])
    home: dict[str, Schema] = schema.setdefault("properties", {})
    return home


def _tags(doc: Schema, schema: Schema) -> frozenset[str]:
    """What tells an object from others beside it: the words of its type, or role."""
    fields = _fields(doc, schema)
    for name in ("type", "role"):
        if name in fields:
            words = [_words(each) for each in _alternatives(doc, fields[name])[1] if _is_word(each)]
            return frozenset(word for each in words for word in each)
    return frozenset()


def _is_word(schema: Schema) -> bool:
    return "const" in schema or "enum" in schema


def _words(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema["enum"])


def _all_schemas(value: Any) -> Iterator[Schema]:
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _all_schemas(each)


def main() -> None:
    """Write the files anew."""
    for name in SDK_TYPES:
        path = SCHEMAS / f"{name}.json"
        before = json.loads(path.read_text())
        after = refreshed(name, before)
        path.write_text(json.dumps(after, ensure_ascii=False, separators=(",", ":")))
        sys.stdout.write(f"{name}: {len(after['$defs']) - len(before['$defs'])} more definitions\n")


if __name__ == "__main__":
    main()
