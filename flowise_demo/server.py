"""A small Flowise of its own: the demo backend, the fake of the tests, the load of the benchmarks.

It answers on the wire as a recorded Flowise 3.1.4 does (`tests/wire/flowise-3.1.4/`) and shares no code with
the product: only the standard library and `h11`.

    flows        what the flows are, and how Flowise lists them
    model        what their model says (json_answers: when it is asked for JSON)
    scripts      the words that make the scripted flows fail
    steps        what a run consists of; chatflow, agentflow, approval: the runs, as generators of steps
    predictions  what a prediction's body asks for, what its answer holds
    memory       what is stored of the runs
    executor     the runs under way and their streams (load: those of the load profiles)
    http         connections: requests in, answers, streams and broken answers out
    controls     what tests ask of the demo
    this file    the routes of Flowise
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flowise_demo.controls import Controls
from flowise_demo.executor import BAD_BODY, Executor
from flowise_demo.flows import DEMO_FLOWS, Flow, Json, demo_flows, flow_graph, flow_row, uploads_body
from flowise_demo.http import Connection, HttpFailed, Request, Response, error_response, json_response
from flowise_demo.load import load_flow
from flowise_demo.memory import Memory
from flowise_demo.predictions import Run, transcribe
from flowise_demo.scripts import HTML_PAGE, script_for

__all__ = ["DEMO_FLOWS", "DemoFlowise", "DemoOptions", "serve"]

VERSION = "3.1.4"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How the demo serves; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 0
    key: str = ""  # what the listing asks for; empty: the listing is open
    record: bool = False  # keep what the predictions got, and open the control routes
    token_seconds: float = 0.015
    heartbeat_seconds: float = 30.0


class DemoFlowise:
    """Flows, their memory, the runs under way, and the routes to them; lives on one event loop."""

    def __init__(self, options: DemoOptions) -> None:
        """Begin with the demo's flows and nothing stored."""
        self.options = options
        self.connections: set[Connection] = set()
        self._controls = Controls({flow.id: flow for flow in demo_flows()})
        self._memory = Memory()
        self._executor = Executor(self._memory, self._controls.counts, options.token_seconds)
        self._routes = tuple(self._route_table())

    async def start(self) -> tuple[asyncio.Server, str]:
        """Listen; the server and its base URL."""
        options, loop = self.options, asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self.answer, self.connections), options.host, options.port, backlog=4096
        )
        self._executor.start_heartbeats(options.heartbeat_seconds)
        port = server.sockets[0].getsockname()[1]
        return server, f"http://{options.host}:{port}/api/v1"

    async def stop(self) -> None:
        """Drop every client and every run."""
        for connection in list(self.connections):
            connection.abort()
        await self._executor.stop()

    # --------------------------------------------------------------------------------------------- routing
    def answer(self, request: Request) -> None:
        """Answer one request, now or when its run ends; a scripted hang is never answered."""
        try:
            response = self._routed(request)
        except HttpFailed as failure:
            response = error_response(failure.status, str(failure))
        except BAD_BODY as error:
            response = error_response(500, f"{type(error).__name__}: {error}")
        if response is not None:
            request.connection.respond(response)

    def _routed(self, request: Request) -> Response | None:
        method = "GET" if request.method == "HEAD" else request.method
        for route in self._routes:
            found = route.pattern.fullmatch(request.path) if route.method == method else None
            if found and (self.options.record or not route.is_control):
                if route.is_protected and not self._has_key(request):
                    return _UNAUTHORIZED
                self._controls.counts[f"{route.group}s"] += 1
                if route.group in self._controls.scripted:
                    return self._scripted_answer(route, request, found)
                return route.answer(request, *map(urllib.parse.unquote, found.groups()))
        return self._unrouted(request)

    def _scripted_answer(self, route: Route, request: Request, found: re.Match[str]) -> Response | None:
        """What a test wants this route to do: a status, "hang", or one of a list for each call."""
        wanted = self._controls.scripted[route.group]
        outcome = (wanted.pop(0) if wanted else None) if isinstance(wanted, list) else wanted
        if outcome is None:
            return route.answer(request, *map(urllib.parse.unquote, found.groups()))
        return None if outcome == "hang" else error_response(outcome, f"scripted {route.group}")

    def _unrouted(self, request: Request) -> Response:
        path = request.path
        if request.method == "OPTIONS":
            return _cors_response(request)
        is_public = path.startswith(_PUBLIC_PREFIXES)
        if path.lower().startswith("/api/v1") and not is_public and not self._has_key(request):
            return _UNAUTHORIZED
        return _PAGE

    def _has_key(self, request: Request) -> bool:
        return not self.options.key or _bearer(request) == self.options.key

    # --------------------------------------------------------------------------------------- simple routes
    def ping(self, _request: Request) -> Response:
        """`pong`."""
        return Response(200, b"pong", "text/html; charset=utf-8")

    def version(self, _request: Request) -> Response:
        """The version that this server imitates."""
        return json_response({"version": VERSION})

    def list_flows(self, request: Request) -> Response:
        """All flows, newest first: a bare array, or one page with the total."""
        page, limit = (_number(request.query.get(name, "0")) for name in ("page", "limit"))
        if page < 0:
            raise HttpFailed(412, "Error: page cannot be negative!")
        kind = request.query.get("type")
        rows = [flow_row(flow) for flow in self._controls.flows.values()]
        rows = [row for row in rows if kind not in _TYPES or row["type"] == kind]
        rows.sort(key=lambda row: str(row["updatedDate"]), reverse=True)
        if page < 1 or limit < 1:
            return json_response(rows)
        return json_response({"data": rows[(page - 1) * limit : page * limit], "total": len(rows)})

    def get_flow(self, _request: Request, flow_id: str) -> Response:
        """One row of the listing."""
        return json_response(flow_row(self._flow(flow_id)))

    def can_stream(self, _request: Request, flow_id: str) -> Response:
        """Whether the flow streams."""
        flow = self._probed(flow_id, "checkIfChatflowIsValidForStreaming")
        return json_response({"isStreaming": flow.streams})

    def allowed_uploads(self, _request: Request, flow_id: str) -> Response:
        """What files the flow takes."""
        return json_response(uploads_body(self._probed(flow_id, "checkIfChatflowIsValidForUploads")))

    def public_config(self, _request: Request, flow_id: str) -> Response:
        """What an embedded chat window may know of the flow."""
        flow = self._probed(flow_id, "getSinglePublicChatbotConfig")
        config = json.loads(flow.row.get("chatbotConfig") or "{}")
        graph = flow.row.get("flowData") or flow_graph(flow)
        return json_response(
            config | {"uploads": uploads_body(flow), "flowData": graph, "isTTSEnabled": False}
        )

    def stored_messages(self, request: Request, flow_id: str) -> Response:
        """The stored messages of a flow, oldest first."""
        names: tuple[str, ...] = ("chatId", "sessionId")
        wanted = {name: request.query[name] for name in names if name in request.query}
        return json_response(self._memory.rows(flow_id, wanted))

    def read_attachments(self, request: Request, flow_id: str, _chat_id: str) -> Response:
        """The files' texts, if the flow takes whole files; what is no text is not really read."""
        config = json.loads(self._flow(flow_id).row.get("chatbotConfig") or "{}")
        if not (config.get("fullFileUpload") or {}).get("status"):
            service = "attachmentService.createAttachment"
            raise HttpFailed(500, f"Error: {service} - File upload is not enabled for this chatflow")
        rows = []
        for name, kind, content in request.files():
            text = content.decode(errors="replace") if kind.startswith("text/") else f"The text of {name}."
            rows.append({"name": name, "mimeType": kind, "size": len(content), "content": text})
        return json_response(rows)

    def stored_file(self, request: Request) -> Response:
        """A file that a run left in the storage, without a type of its own."""
        flow_id, chat_id, name = (request.query.get(key, "") for key in ("chatflowId", "chatId", "fileName"))
        if not (flow_id and chat_id and name):
            return Response(500, b"Invalid file path", "text/html; charset=utf-8")
        content = self._memory.file(flow_id, chat_id, name)
        if content is None:
            raise HttpFailed(500, f"ENOENT: no such file or directory, open '/root/.flowise/storage/{name}'")
        disposition = ("Content-Disposition", f'attachment; filename="{name}"')
        return Response(200, content, "application/octet-stream", (disposition,))

    def abort(self, _request: Request, flow_id: str, chat_id: str) -> Response:
        """Stop an agentflow's run; the answer is the same whether there is one or not."""
        self._executor.abort(flow_id, chat_id)
        return json_response({"status": 200, "message": "Chat message aborted"})

    def _flow(self, flow_id: str) -> Flow:
        if not _UUID.fullmatch(flow_id):
            raise HttpFailed(400, "Invalid Chatflow ID")
        flow = self._known(flow_id)
        if flow is None:
            raise HttpFailed(404, f"Chatflow {flow_id} not found in the database!")
        return flow

    def _probed(self, flow_id: str, service: str) -> Flow:
        flow = self._known(flow_id)
        if flow is None:
            raise HttpFailed(500, f"Error: chatflowsService.{service} - Chatflow {flow_id} not found")
        return flow

    def _known(self, flow_id: str) -> Flow | None:
        return load_flow(flow_id) or self._controls.flows.get(flow_id)

    # ------------------------------------------------------------------------------------------ prediction
    def predict(self, request: Request, flow_id: str) -> Response | None:
        """Start a run; it answers when it ends, or streams from now on."""
        body = request.body()
        try:
            flow = self._flow(flow_id)
        except HttpFailed:
            # The error middleware writes nothing once `streaming` is truthy: the caller waits for ever.
            if body.get("streaming") and body["streaming"] != "false":
                return None
            raise
        run = self._new_run(request, flow, body)
        if run.script.response:
            run.record["outcome"] = "refused"
            return run.script.response
        is_allowed = not flow.keyed or _bearer(request) == (self.options.key or "demo-key")
        self._executor.start(run, is_allowed=is_allowed)
        return None

    def refuse_without_id(self, _request: Request) -> Response:
        """The prediction route without a flow."""
        raise HttpFailed(412, "Error: predictionsController.createPrediction - id not provided!")

    def _new_run(self, request: Request, flow: Flow, body: Json) -> Run:
        overrides = body.get("overrideConfig")
        session_id = overrides.get("sessionId") if isinstance(overrides, dict) else None
        chat_id = body.get("chatId") or session_id or str(uuid.uuid4())
        record: Json = {
            "flow": flow.name,
            "flow_id": flow.id,
            "body": dict(body),
            "headers": request.headers,
            "messages": [],
            "chat_id": chat_id,
            "session_id": session_id or chat_id,
            "outcome": "running",
        }
        if self.options.record:
            self._controls.records.append(record)
        transcribe(flow, body)
        script = script_for(flow, str(body.get("question") or ""))
        asked_for = body.get("streaming")
        streams = flow.streams and (asked_for is True or asked_for == "true")
        return Run(flow, body, request.connection, script, streams, record, chat_id, session_id or chat_id)

    def _stats(self, _request: Request) -> Response:
        return self._controls.stats(len(self.connections))

    def _route_table(self) -> Iterator[Route]:
        one, controls = "/([^/]+)", self._controls
        for method, path, answer, group, is_protected in (
            ("POST", f"prediction{one}", self.predict, "prediction", False),
            ("POST", "prediction/", self.refuse_without_id, "prediction", False),
            ("GET", "chatflows", self.list_flows, "listing", True),
            ("GET", f"chatflows{one}", self.get_flow, "listing", True),
            ("GET", f"chatflows-streaming{one}", self.can_stream, "probe", False),
            ("GET", f"chatflows-uploads{one}", self.allowed_uploads, "probe", False),
            ("GET", f"public-chatbotConfig{one}", self.public_config, "probe", False),
            ("GET", "version", self.version, "version", False),
            ("GET", "ping", self.ping, "ping", False),
            ("POST", f"attachments{one}{one}", self.read_attachments, "attachments", False),
            ("PUT", f"chatmessage/abort{one}{one}", self.abort, "abort", False),
            ("GET", f"chatmessage{one}", self.stored_messages, "messages", True),
            ("GET", "get-upload-file", self.stored_file, "file", False),
        ):
            yield Route(method, re.compile(f"/api/v1/{path}/?"), answer, group, is_protected)
        for method, path, control in (
            ("GET", "records", controls.show_records),
            ("DELETE", "records", controls.clear_records),
            ("GET", "stats", self._stats),
            ("POST", "flows", controls.create_flow),
            ("PUT", f"flows{one}", controls.change_flow),
            ("DELETE", f"flows{one}", controls.remove_flow),
            ("POST", "script", controls.change_script),
        ):
            yield Route(method, re.compile(f"/__demo/{path}"), control, is_control=True)


# -------------------------------------------------------------------------------------------------- answers
_PAGE = Response(
    200,
    HTML_PAGE.encode(),
    "text/html; charset=UTF-8",
    (
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "public, max-age=0"),
        ("Last-Modified", "Sat, 21 Nov 2026 02:44:28 GMT"),
    ),
)
_UNAUTHORIZED = json_response({"error": "Unauthorized Access"}, 401)
_PUBLIC_PREFIXES = (
    "/api/v1/get-upload-file",
    "/api/v1/prediction/",
    "/api/v1/chatmessage/abort/",
    "/api/v1/attachments/",
)
_TYPES = ("CHATFLOW", "AGENTFLOW", "MULTIAGENT", "ASSISTANT")


def _bearer(request: Request) -> str:
    """What follows the last `Bearer `, as Flowise reads the header; a bare key is a key too."""
    return request.headers.get("authorization", "").rpartition("Bearer ")[2].strip()


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else 0


def _cors_response(request: Request) -> Response:
    origin = request.headers.get("origin", "*")
    methods = ("Access-Control-Allow-Methods", "GET,HEAD,PUT,PATCH,POST,DELETE")
    return Response(204, b"", "text/plain", (("Access-Control-Allow-Origin", origin), methods))


@dataclass(frozen=True, slots=True)
class Route:
    """A method and path, and what answers them; `group` is its name in a test's script."""

    method: str
    pattern: re.Pattern[str]
    answer: Callable[..., Response | None]
    group: str = ""
    is_protected: bool = False
    is_control: bool = False


async def serve(
    options: DemoOptions, stop: asyncio.Event, announce: Callable[[DemoFlowise, str], None]
) -> None:
    """Serve until `stop` is set; `announce` gets the demo and its base URL once it listens."""
    demo = DemoFlowise(options)
    server, base_url = await demo.start()
    try:
        announce(demo, base_url)
        await stop.wait()
    finally:
        server.close()
        await demo.stop()
