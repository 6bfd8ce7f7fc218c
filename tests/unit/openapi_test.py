"""The description of the API says what the application does: its routes, its errors, what a field may be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from docs.openapi import PREFIX, document
from docs.openapi_requests import REQUESTS
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import BadRequest, ProxyError
from flowise_gateway.page.page import OPENAPI, STATIC
from flowise_gateway.responses.compaction import compacted, input_tokens
from flowise_gateway.responses.request import parse_response
from openai_adapter import parse_chat, parse_completion
from openai_compatible_server import create_app
from tests.unit.openai_surface_test import TABLES

DOCUMENT: Mapping[str, Any] = json.loads((STATIC / OPENAPI).read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]


def everything(node: Any) -> Iterator[Mapping[str, Any]]:
    """Each object of the document."""
    if isinstance(node, Mapping):
        yield node
    for part in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from everything(part)


def test_the_document_that_is_served_is_the_one_that_is_made() -> None:
    assert document() == DOCUMENT, "make docs writes it anew"


def test_each_route_of_the_application_is_described_and_no_other_is() -> None:
    app = create_app(Settings(flowise_base_url="http://127.0.0.1:9/api/v1", proxy_store="memory:"))
    routes = {
        (re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {
        (place, method)
        for path, item in DOCUMENT["paths"].items()
        for place in (path, *item.get("x-aliases", ()))
        for method in item
        if method != "x-aliases"
    }
    assert described == routes
    assert len({PREFIX.sub("", path) for path in DOCUMENT["paths"]}) == len(DOCUMENT["paths"])


def test_every_reference_leads_to_a_part_and_every_schema_is_one() -> None:
    for node in everything(DOCUMENT):
        if "$ref" in node:
            part: Any = DOCUMENT
            for step in node["$ref"].removeprefix("#/").split("/"):
                part = part[step]
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    ids = [node["operationId"] for node in everything(DOCUMENT) if "operationId" in node]
    assert len(ids) == len(set(ids)) > 20


def test_each_error_of_the_tree_stands_with_its_status() -> None:
    kinds: list[type[ProxyError]] = [ProxyError]
    for kind in kinds:
        kinds += [sub for sub in kind.__subclasses__() if sub.__module__ == ProxyError.__module__]
    named = 0
    for kind in kinds[1:]:
        text = DOCUMENT["components"]["responses"][f"Error{kind.status}"]["description"]
        assert f"- `{kind.code or kind.type}`: " in text
        named += 1
    assert named > 20


@pytest.mark.parametrize(
    ("table", "name"),
    [("chat", "ChatCompletionRequest"), ("completion", "CompletionRequest"), ("response", "ResponseRequest")],
)
def test_each_field_of_the_sdk_is_described(table: str, name: str) -> None:
    [fields] = [one.fields for one in TABLES if one.name == table]
    only_of_a_websocket = {"type", "stream_id"}
    assert set(fields) - set(SCHEMAS[name]["properties"]) - only_of_a_websocket == set()


def count(text: str) -> int:
    """Tokens enough for requests that nobody answers."""
    return len(text)


HELLO = {"role": "user", "content": "Hello"}
FUNCTION = {"type": "function", "function": {"name": "f"}}
SURFACES: Mapping[str, tuple[Callable[[dict[str, Any]], Any], dict[str, Any]]] = {
    "ChatCompletionRequest": (parse_chat, {"model": "m", "messages": [HELLO]}),
    "AzureChatCompletionRequest": (lambda body: parse_chat(body, "m"), {"messages": [HELLO]}),
    "CompletionRequest": (parse_completion, {"model": "m", "prompt": "Hello"}),
    "AzureCompletionRequest": (lambda body: parse_completion(body, "m"), {"prompt": "Hello"}),
    "ResponseRequest": (parse_response, {"model": "m", "input": "Hello"}),
    "CompactionRequest": (lambda body: compacted(body, count), {"model": "m", "input": "Hello"}),
    "InputTokensRequest": (lambda body: input_tokens(body, count), {"input": "Hello"}),
}
LONG = "x" * 600
VALUES: tuple[Any, ...] = (
    *({}, [], [{}], [{"type": "message"}], [{"name": "", "strict": {}}]),
    *(None, True, False, 0, 1, -1, -2, 2, 3, 8, 9, 15, 16, 20, 21, 1.5, -1.5, -2.5, 2**53, 2**53 + 1, 2**60),
    *(
        "",
        "Hello",
        "auto",
        "none",
        "required",
        "disabled",
        "maybe",
        LONG,
        ["Hello"],
        ["Hello"] * 9,
        [1],
        [None],
        [[]],
    ),
    *([""], [LONG], ["x"] * 65, [HELLO], [FUNCTION], [{"name": "f"}], [{"name": 1}], [{"type": "function"}]),
    *(
        [{"type": "web_search"}],
        [{"type": 1}],
        [{**FUNCTION, "name": "f"}],
        [{"type": "function", "name": "f"}],
    ),
    *(
        {"id": "c"},
        {"id": 1},
        {"a": "b"},
        {"a": 1},
        {"a": LONG},
        {LONG: "b"},
        {str(n): "b" for n in range(17)},
    ),
    *(
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema"},
        {"type": "xml"},
        {"type": "function"},
    ),
    *(
        {"type": "json_schema", "json_schema": {"name": "f"}},
        {"type": "json_schema", "json_schema": {"name": "a b"}},
    ),
    *(
        {"format": {"type": "text"}},
        {"format": {"type": "json_schema"}},
        {"format": {"type": 1}},
        {"format": 1},
    ),
    *({"format": {"type": "json_schema", "name": "f", "schema": {}}}, {"verbosity": 1}, {"verbosity": "low"}),
    *({"effort": "low"}, {"effort": 1}, {"include_usage": True}, {"include_obfuscation": 1}, {"vars": 1}),
    *(
        {"include_obfuscation": None},
        {"vars": {}},
        {"uploads": []},
        {"leadEmail": []},
        {"conversation_id": "c"},
    ),
    *([{"role": "user"}], [{"role": "king", "content": "a"}], [{"role": "tool", "content": "a"}]),
    *(
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
    ),
    *(
        [{"role": "user", "content": 1}],
        [{"role": "user", "content": "a"}] * 2,
        [{"role": "assistant", "content": None}],
    ),
)


def accepts(parse: Callable[[dict[str, Any]], Any], body: dict[str, Any]) -> BadRequest | None:
    """Why a body is refused; None if it is not."""
    try:
        parse(body)
    except BadRequest as error:
        return error
    return None


@pytest.mark.parametrize("name", SURFACES)
def test_a_field_may_be_what_the_description_says_and_nothing_else(name: str) -> None:
    parse, base = SURFACES[name]
    validator = Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    )
    assert accepts(parse, base) is None
    different = []
    for field in REQUESTS[name]["properties"]:
        for value in VALUES:
            body = {**base, field: value}
            refusal = accepts(parse, body)
            if validator.is_valid(body) is (refusal is None) or not says_form(refusal):
                continue
            different.append((field, json.dumps(value)[:60], refusal and refusal.message))
    assert different == []


def says_form(refusal: BadRequest | None) -> bool:
    """Whether a refusal is for the form of a value, and not for what it refers to or says."""
    if refusal is None:
        return True
    forms = ("invalid_type", "invalid_value", "missing_required_parameter")
    # An input may be empty where an earlier response is named.
    is_nothing = any(words in refusal.message for words in ("no text", "at least one item"))
    return refusal.code in forms and not is_nothing


@pytest.mark.parametrize("name", SURFACES)
def test_a_required_field_cannot_be_missing(name: str) -> None:
    parse, base = SURFACES[name]
    for field in REQUESTS[name].get("required", ()):
        refusal = accepts(parse, {key: value for key, value in base.items() if key != field})
        assert refusal is not None
        assert refusal.param == field
