"""Makes `openapi.json`: the routes of the application, what they take and what they answer.

Routes come from the application's own table, summaries from its views, bodies of answers from the types that
the renderers are held to, bodies of requests from the checks that refuse them (`openapi_requests.py`), errors
from the tree of errors.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from docs.openapi_requests import REQUESTS, STRING, Schema, record
from flowise_gateway import __version__
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import ErrorBody, ProxyError
from flowise_gateway.openai.model_list import Deployment, ModelBody
from flowise_gateway.openai.schema import ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk
from flowise_gateway.responses.compaction import Compaction, InputTokens
from flowise_gateway.responses.renderer import Response
from flowise_gateway.responses.routes import MAX_LISTED
from flowise_gateway.responses.stored import ItemPage
from openai_compatible_server import ReadyBody, create_app

ANSWERS = (
    *(ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk, Response, InputTokens, Compaction),
    *(ItemPage, ModelBody, Deployment, ReadyBody, ErrorBody),
)
PREFIX = re.compile(r"^/(?:v1|openai/v1|openai(?!/deployments))(?=/)")
"""Under which a route answers besides its own place."""

OPEN, READ, RUN = (
    (403, 500),
    (400, 401, 403, 404, 429, 500, 503),
    (400, 401, 403, 404, 408, 413, 415, 429, 500, 503),
)
DESCRIPTION = """Every flow of a Flowise as a model, behind OpenAI's API.

A route answers at the addresses in its `x-aliases` too, and with a trailing slash. Fields that no flow
can obey are taken, checked, and named in the header `x-flowise-ignored-params`; other unknown fields are
not looked at. A field that is null is a field that was not sent.

**The status says whether sending again is safe**: 5xx, 429 and 408 mean that nothing has run. A failure
after which the flow may have run is a 400, or what `PROXY_RUN_ERROR_STATUS` says; in a stream it is an
event `data: {"error": …}`."""


def ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Schema:
    return ref("schemas", name)


def listed(name: str) -> Schema:
    return record(["object", "data"], object={"const": "list"}, data={"type": "array", "items": schema(name)})


def json(of: Schema) -> Schema:
    return {"application/json": {"schema": of}}


@dataclass(frozen=True)
class Operation:
    """What a view takes and answers beside what its route says."""

    tag: str
    content: Mapping[str, Any]
    errors: tuple[int, ...] = READ
    request: str = ""
    example: Mapping[str, Any] = field(default_factory=dict)
    stream: str = ""
    query: tuple[Schema, ...] = ()
    is_public: bool = False
    status: str = "200"
    note: str = ""


def stream_of(name: str) -> Schema:
    """The content of a stream: server-sent events, of which comments are heartbeats."""
    of_event = {
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [schema(name), schema("ErrorBody")]},
    }
    data = {"anyOf": [{"const": "[DONE]", "description": "The end."}, STRING | of_event]}
    return {"text/event-stream": {"itemSchema": record(["data"], event=STRING, data=data)}}


def query(name: str, text: str, of: Schema) -> Schema:
    return {"name": name, "in": "query", "description": text, "schema": of}


_ASKED = {"messages": [{"role": "user", "content": "Hello"}]}
_MODEL = {"model": "demo-assistant"}
_INPUT = {**_MODEL, "input": "Hello"}
_HTML = {"text/html; charset=utf-8": {"schema": STRING}}
_BYTES: Schema = {"application/octet-stream": {}, "image/*": {}, "application/pdf": {}}
_FILE: Schema = {
    kind: {} for kind in ("text/css", "text/html", "text/javascript", "text/plain", "image/svg+xml")
}
_USAGE = (
    query("from", "The first day, such as `2026-11-01`; else thirty days end with `to`.", STRING),
    query("to", "The last day; else today, in UTC.", STRING),
    query("by", "`day` (the default), `key`, `user`, `model`, or several with commas.", STRING),
    query("user", "One user's alone, named as clients name it.", STRING),
    query("format", "`csv`, else JSON.", STRING),
)
_USED = {name: {"type": "integer"} for name in ("requests", "input_tokens", "output_tokens")}
_USAGE_ROW = record([*_USED], day=STRING, key=STRING, user=STRING, model=STRING, **_USED)
_USAGE_REPORT = record(
    ["object", "from", "to", "by", "data"],
    object={"const": "list"},
    to=STRING,
    by={"type": "array", "items": STRING},
    data={"type": "array", "items": _USAGE_ROW},
    **{"from": STRING},
)
_EVENTS_AFTER = (
    query("stream", "`true`: the events of a background response, as they come.", STRING),
    query(
        "starting_after",
        "The number of the last event that is known.",
        {"type": "integer", "minimum": 0, "maximum": 10**9},
    ),
)
_PAGES = (
    query("order", "By time.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    query(
        "limit", "Items of a page.", {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": 20}
    ),
    query("after", "The id of the last item of the page before.", STRING),
)
OPERATIONS: Mapping[str, Operation] = {
    "Views.chat_completions": Operation(
        "Chat completions",
        json(schema("ChatCompletion")),
        RUN,
        "ChatCompletionRequest",
        {**_MODEL, **_ASKED},
        "ChatCompletionChunk",
    ),
    "Views.completions": Operation(
        "Chat completions",
        json(schema("Completion")),
        RUN,
        "CompletionRequest",
        {**_MODEL, "prompt": "Hello"},
        "CompletionChunk",
    ),
    "ResponseRoutes.create": Operation(
        "Responses", json(schema("Response")), RUN, "ResponseRequest", _INPUT, "ResponseStreamEvent"
    ),
    "ResponseRoutes.socket": Operation(
        "Responses",
        {},
        (*READ, 405),
        status="101",
        note="A WebSocket, whose messages are `response.create` with a request for a response; else a 405.",
    ),
    "ResponseRoutes.retrieve": Operation(
        "Responses", json(schema("Response")), stream="ResponseStreamEvent", query=_EVENTS_AFTER
    ),
    "ResponseRoutes.delete": Operation(
        "Responses",
        json(
            record(
                ["id", "object", "deleted"], id=STRING, object={"const": "response"}, deleted={"const": True}
            )
        ),
    ),
    "ResponseRoutes.cancel": Operation("Responses", json(schema("Response")), RUN),
    "ResponseRoutes.input_items": Operation("Responses", json(schema("ItemPage")), query=_PAGES),
    "ResponseRoutes.input_tokens": Operation(
        "Responses", json(schema("InputTokens")), RUN, "InputTokensRequest", _INPUT
    ),
    "ResponseRoutes.compact": Operation(
        "Responses", json(schema("Compaction")), RUN, "CompactionRequest", _INPUT
    ),
    "Views.models": Operation("Models", json(listed("ModelBody"))),
    "Views.model": Operation("Models", json(schema("ModelBody"))),
    "Views.deployments": Operation("Models", json(listed("Deployment"))),
    "Views.file": Operation(
        "Files", _BYTES, (403, 404, 500, 503), is_public=True, note="The link is the key; it expires."
    ),
    "Views.health": Operation(
        "Operation", json(record(["status"], status={"const": "ok"})), OPEN, is_public=True
    ),
    "Views.ready": Operation(
        "Operation",
        json(schema("ReadyBody")),
        (*OPEN, 503),
        is_public=True,
        note="503 while the server drains.",
    ),
    "Views.metrics": Operation(
        "Operation",
        {"text/plain": {"schema": STRING}},
        note="A 404 with `PROXY_METRICS=off`; `open` needs no key.",
    ),
    "Views.usage": Operation(
        "Operation",
        {**json(_USAGE_REPORT), "text/csv": {"schema": STRING}},
        query=_USAGE,
        note="Needs a key with `admin: true`.",
    ),
    "Views.openapi": Operation("Operation", json(record(["openapi", "paths"])), OPEN, is_public=True),
    "Views.page": Operation("Page", _HTML, (*OPEN, 404), is_public=True, note="A 404 with `PROXY_PAGE=off`."),
    "Views.page_file": Operation(
        "Page", _FILE, (*OPEN, 404), is_public=True, note="A 404 with `PROXY_PAGE=off`."
    ),
    "Views.docs": Operation("Page", _HTML, (*OPEN, 404), is_public=True, note="A 404 with `PROXY_PAGE=off`."),
}
"""By the name of the view; a route whose view is missing here stops the making of the document."""

_HEADERS: Mapping[str, str] = {
    "x-request-id": "The id of the request, or the caller's own; the log line has it too.",
    "x-conversation-id": "The conversation that the next message may name.",
    "x-flowise-chat-id": "Finds the run in Flowise.",
    "x-flowise-ignored-params": "What of the request no flow obeys.",
    "x-ratelimit-limit-requests": "Of the key, where it has a limit.",
    "x-ratelimit-remaining-requests": "Of the key, where it has a limit.",
    "x-ratelimit-reset-requests": "Of the key, where it has a limit.",
    "x-should-retry": "`true` or `false`, where the status alone would mislead.",
    "Retry-After": "Seconds.",
    "retry-after-ms": "Milliseconds.",
}
_OF_RUNS = [name for name in _HEADERS if name.startswith(("x-conv", "x-flowise", "x-ratelimit"))]
_OF_ERRORS = ["x-should-retry", "Retry-After", "retry-after-ms"]


def headers(*names: str) -> Schema:
    return {name: ref("headers", name) for name in ("x-request-id", *names)}


def document() -> dict[str, Any]:
    """The whole document."""
    _, answers = msgspec.json.schema_components(ANSWERS, ref_template="#/components/schemas/{name}")
    event = record(["type", "sequence_number"], type=STRING, sequence_number={"type": "integer"})
    return {
        "openapi": "3.2.0",
        "info": {"title": "flowise-gateway", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"api-key": []}],
        "tags": [{"name": name} for name in dict.fromkeys(each.tag for each in OPERATIONS.values())],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Any, where the server has no client keys.",
                },
                "api-key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "api-key",
                    "description": "As Azure's clients send it.",
                },
            },
            "headers": {name: {"description": text, "schema": STRING} for name, text in _HEADERS.items()},
            "responses": errors(),
            "schemas": {**REQUESTS, **answers, "ResponseStreamEvent": event},
        },
    }


def errors() -> dict[str, Any]:
    """The answers with the status of an error: which codes there are, and what each means."""
    kinds: list[type[ProxyError]] = [ProxyError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    found: dict[int, dict[str, str]] = {}
    for kind in kinds[1:]:
        # Of a module that only tests and commands load, none is an answer of a route.
        if kind.__module__ == ProxyError.__module__:
            text = inspect.getdoc(kind) or ""
            found.setdefault(kind.status, {})[kind.code or kind.type] = " ".join(text.split())
    found.setdefault(500, {})
    return {
        f"Error{status}": {
            "description": "\n".join(f"- `{code}`: {text}" for code, text in codes.items()),
            "headers": headers(*_OF_ERRORS),
            "content": json(schema("ErrorBody")),
        }
        for status, codes in sorted(found.items())
    }


def paths() -> dict[str, Any]:
    """Each route once, at the first of its addresses."""
    app = create_app(Settings(flowise_base_url="http://127.0.0.1:9/api/v1", proxy_store="memory:"))
    places: dict[tuple[str, str], list[str]] = {}
    views: dict[tuple[str, str], str] = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule)
        view = app.view_functions[rule.endpoint]
        [method] = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        key = (PREFIX.sub("", path), method + " websocket" * rule.websocket)
        places.setdefault(key, []).append(path)
        views[key] = view.__qualname__
        SUMMARIES[view.__qualname__] = inspect.getdoc(view) or ""
    found: dict[str, Any] = {}
    for (tail, method), all_places in places.items():
        first = next((place for place in all_places if place == f"/v1{tail}"), all_places[0])
        item = found.setdefault(first, {})
        item[method.split()[0].lower()] = operation(first, views[tail, method], method)
        if aliases := sorted({*all_places} - {first}):
            item["x-aliases"] = aliases
    return dict(sorted(found.items(), key=lambda entry: (not entry[0].startswith("/v1/"), entry[0])))


SUMMARIES: dict[str, str] = {}


def operation(path: str, view: str, method: str) -> dict[str, Any]:
    """One operation: its view's promise, what it takes, what it answers."""
    about = OPERATIONS[view]
    summary, _, more = SUMMARIES[view].partition("\n\n")
    described = {
        "tags": [about.tag],
        "operationId": re.sub(r"\W+", "_", f"{method.split(maxsplit=1)[0].lower()}{path}").strip("_"),
        "summary": " ".join(summary.split()).rstrip("."),
        "description": "\n\n".join(text for text in (more, about.note) if text),
        "parameters": [*parameters(path), *about.query],
        "requestBody": request_body(about, is_azure="{deployment}" in path),
        "responses": {about.status: success(about)}
        | {str(status): ref("responses", f"Error{status}") for status in about.errors},
    }
    if about.is_public:
        described["security"] = [{}, {"bearer": []}] if view == "Views.ready" else []
    return {name: value for name, value in described.items() if value or name == "security"}


def parameters(path: str) -> list[Schema]:
    """The parts of a path that differ."""
    return [
        {"name": name, "in": "path", "required": True, "schema": STRING | {"minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def request_body(about: Operation, *, is_azure: bool) -> Schema:
    """The body that an operation takes, with an example."""
    if not about.request:
        return {}
    example = {k: v for k, v in about.example.items() if not (is_azure and k == "model")}
    of = schema(f"Azure{about.request}" if is_azure else about.request)
    return {"required": True, "content": {"application/json": {"schema": of, "example": example}}}


def success(about: Operation) -> Schema:
    """The answer of an operation that went well."""
    content = {**about.content, **(stream_of(about.stream) if about.stream else {})}
    described = {
        "description": "Switching protocols" if about.status == "101" else "OK",
        "headers": headers(*(_OF_RUNS if about.request else [])),
    }
    return {**described, "content": content} if content else described
