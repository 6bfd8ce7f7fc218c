"""A small Flowise of its own: the demo backend, the fake of the tests, the load of the benchmarks.

It answers on the wire as a recorded Flowise 3.1.4 does (`tests/wire/flowise-3.1.4/`) and shares no code with
the product: only the standard library and `h11`. `python3 flowise_demo.py` prints its base URL as one line of
JSON and serves until SIGTERM.

    flowise_demo_json         what their model says when it is asked for JSON
    flowise_demo_scripts      the flows, what their model says, the words that make the scripted flows fail
    flowise_demo_runs         how a flow runs: the events of a run, in their order
    flowise_demo_predictions  what a prediction's body asks for, what its answer holds
    flowise_demo_http         connections: requests in, answers, streams and broken answers out
    this file                 routes, memory, runs, streams by chatId, records, the command line

A flow id `be7c5f10-TTTT-DDDD-FFFF-SSSSAAAAAAAA` is a load profile: T tokens, D ms apart, the first after F
ms, S bytes each, and A bytes of a JSON answer (0: the joined tokens).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import sys
import threading
import time
import urllib.parse
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from flowise_demo.http import Connection, HttpFailed, Request, encoded, error_response, json_response
from flowise_demo.predictions import (
    Run,
    answer_body,
    caller_history,
    check_body,
    message_rows,
    metadata_body,
    question_text,
    system_override,
    transcribe,
)
from flowise_demo.runs import (
    STORED_FILES,
    Answer,
    Event,
    Execution,
    Fault,
    Pause,
    Raw,
    RunFailed,
    Step,
    Steps,
    Turn,
    steps_of,
)
from flowise_demo.scripts import (
    ABORTED,
    DEMO_FLOWS,
    HTML_PAGE,
    UNAUTHORIZED_PROVIDER,
    Flow,
    Json,
    Message,
    Response,
    Wait,
    demo_flows,
    flow_graph,
    flow_row,
    script_for,
    uploads_body,
)

__all__ = ["DEMO_FLOWS", "DemoFlowise", "DemoOptions", "main", "serve"]

VERSION = "3.1.4"
MAX_SESSIONS, MAX_SESSION_MESSAGES, MAX_RECORDS = 1_000, 200, 10_000
_PREFIX = "Error: predictionsServices.buildChatflow - "
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_PROFILE = re.compile(r"be7c5f10-(\d{4})-(\d{4})-(\d{4})-(\d{4})(\d{8})")
_FILLER = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor "
_BURST = 16  # tokens of a load profile without pauses that share one write
_FAIR = 64  # events of a run without pauses after which other runs get their turn
_HEARTBEAT = b":heartbeat\n\n"
_BAD_BODY = (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)  # a field of an unexpected type: a 500, as in Flowise


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
        self.flows = {flow.id: flow for flow in demo_flows()}
        self.records: deque[Json] = deque(maxlen=MAX_RECORDS)
        self.counts: Counter[str] = Counter()
        self._slots: dict[str, Connection] = {}
        self._runs: dict[tuple[str, str], Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions: OrderedDict[tuple[str, str], deque[Json]] = OrderedDict()
        self._executions: dict[tuple[str, str], Execution] = {}
        self._chats_with_files: deque[tuple[str, str]] = deque(maxlen=MAX_SESSIONS)
        self._scripted: Json = {}

    async def start(self) -> tuple[asyncio.Server, str]:
        """Listen; the server and its base URL."""
        options, loop = self.options, asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self.answer, self.connections), options.host, options.port, backlog=4096
        )
        self._spawn(self._beat())
        port = server.sockets[0].getsockname()[1]
        return server, f"http://{options.host}:{port}/api/v1"

    async def stop(self) -> None:
        """Drop every client and every run."""
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _beat(self) -> None:
        """One timer for all streams, as in Flowise: the first heartbeat comes anywhere within the period."""
        while True:
            await asyncio.sleep(self.options.heartbeat_seconds)
            for slot, connection in list(self._slots.items()):
                connection.send(_HEARTBEAT)
                if connection.is_closed:
                    del self._slots[slot]

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --------------------------------------------------------------------------------------------- routing
    def answer(self, request: Request) -> None:
        """Answer one request, now or when its run ends; a scripted hang is never answered."""
        try:
            response = self._routed(request)
        except HttpFailed as failure:
            response = error_response(failure.status, str(failure))
        except _BAD_BODY as error:
            response = error_response(500, f"{type(error).__name__}: {error}")
        if response is not None:
            request.connection.respond(response)

    def _routed(self, request: Request) -> Response | None:
        method = "GET" if request.method == "HEAD" else request.method
        for route in _ROUTES:
            found = route.pattern.fullmatch(request.path) if route.method == method else None
            if found and (self.options.record or not route.is_control):
                if route.is_protected and not self._has_key(request):
                    return _UNAUTHORIZED
                self.counts[f"{route.group}s"] += 1
                if route.group in self._scripted:
                    return self._scripted_answer(route, request, found)
                return route.answer(self, request, *map(urllib.parse.unquote, found.groups()))
        return self._unrouted(request)

    def _scripted_answer(self, route: Route, request: Request, found: re.Match[str]) -> Response | None:
        """What a test wants this route to do: a status, "hang", or one of a list for each call."""
        wanted = self._scripted[route.group]
        outcome = (wanted.pop(0) if wanted else None) if isinstance(wanted, list) else wanted
        if outcome is None:
            return route.answer(self, request, *map(urllib.parse.unquote, found.groups()))
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
        rows = [flow_row(flow) for flow in self.flows.values()]
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
        wanted = [(name, request.query[name]) for name in ("chatId", "sessionId") if name in request.query]
        rows = [row for key, kept in self._sessions.items() if key[0] == flow_id for row in kept]
        rows = [row for row in rows if all(str(row[name]) == value for name, value in wanted)]
        return json_response(sorted(rows, key=lambda row: str(row["createdDate"])))

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
        if (flow_id, chat_id) not in self._chats_with_files or name not in STORED_FILES:
            raise HttpFailed(500, f"ENOENT: no such file or directory, open '/root/.flowise/storage/{name}'")
        disposition = ("Content-Disposition", f'attachment; filename="{name}"')
        return Response(200, STORED_FILES[name], "application/octet-stream", (disposition,))

    def abort(self, _request: Request, flow_id: str, chat_id: str) -> Response:
        """Stop an agentflow's run; the answer is the same whether there is one or not."""
        run = self._runs.get((flow_id, chat_id))
        if run and run.flow.type == "AGENTFLOW" and not run.abort_wanted:
            run.abort_wanted = True
            if run.task and run.is_driven:
                run.task.cancel()
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
        if _PROFILE.fullmatch(flow_id):
            return Flow(flow_id, "load profile", "load", memory=False)
        return self.flows.get(flow_id)

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
        if run.is_streaming and not run.script.is_headless:
            request.connection.begin_stream(is_chunked=run.script.fault != "nolength")
            request.connection.old_framing = run.script.has_old_framing
            if not run.script.waits:
                self._slots[run.slot] = request.connection
        is_allowed = not flow.keyed or _bearer(request) == (self.options.key or "demo-key")
        run.task = self._spawn(self._run(run, is_allowed=is_allowed))
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
            self.records.append(record)
        transcribe(flow, body)
        script = script_for(flow, str(body.get("question") or ""))
        asked_for = body.get("streaming")
        streams = flow.streams and (asked_for is True or asked_for == "true")
        return Run(flow, body, request.connection, script, streams, record, chat_id, session_id or chat_id)

    async def _run(self, run: Run, *, is_allowed: bool) -> None:
        """One run from its start to its end, whether its client stays or not."""
        key = (run.flow.id, run.slot)
        self._runs[key] = run
        self.counts["runs_started"] += 1
        outcome = "finished"
        try:
            if run.flow.kind == "load":
                await self._run_load(run)
            else:
                await self._run_flow(run, is_allowed=is_allowed)
        except RunFailed as failure:
            outcome = "aborted" if ABORTED in str(failure) else "failed"
            self._fail(run, failure)
        except _BAD_BODY as error:
            outcome = "failed"
            self._fail(run, RunFailed(f"{type(error).__name__}: {error}"))
        finally:
            self.counts["runs_aborted" if outcome == "aborted" else "runs_finished"] += 1
            run.record["outcome"] = outcome
            if self._runs.get(key) is run:
                del self._runs[key]

    async def _run_flow(self, run: Run, *, is_allowed: bool) -> None:
        if not is_allowed:
            raise RunFailed("Unauthorized")
        turn = self._turn(run)
        answer = await self._drive(run, steps_of(turn))
        message_id = self._store(run, answer)
        if run.is_streaming:
            self._send_ending(run, answer, message_id)
        elif not run.is_muted:
            run.connection.respond(json_response(answer_body(run, answer, message_id)))
        elif run.script.fault != "mute":
            broken = json_response(answer_body(run, answer, message_id))
            run.connection.break_answer(broken, run.script.fault)

    async def _drive(self, run: Run, steps: Steps) -> Answer:
        """Take the steps one by one; an abort becomes a failure inside the run, where the nodes see it."""
        run.is_driven = True
        failure = RunFailed(ABORTED) if run.abort_wanted else None
        while True:
            step = steps.throw(failure) if failure else next(steps)  # type: ignore[attr-defined] # generators
            failure = None
            if isinstance(step, Answer):
                run.is_driven = False
                return step
            try:
                await self._take(run, step)
            except asyncio.CancelledError:
                if not run.abort_wanted:
                    raise
                failure = RunFailed(ABORTED)
                if run.task:
                    run.task.uncancel()

    async def _take(self, run: Run, step: Step) -> None:
        match step:
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Wait(heartbeat_seconds):
                await self._wait_for_leave(run, heartbeat_seconds)
            case Fault(name):
                run.is_muted = True
                if run.is_streaming:
                    run.connection.break_stream(name)
            case Event() | Raw() if not run.is_muted:
                await self._send(run, step)
            case _:
                pass

    async def _send(self, run: Run, step: Event | Raw) -> None:
        """Send to the stream that holds the chatId's slot, be it this run's own or another's."""
        connection = self._slots.get(run.slot)
        if connection:
            connection.send(step.frame if isinstance(step, Raw) else _frame(step, connection))
            await connection.drained()
        run.events += 1
        if run.events % _FAIR == 0:
            await asyncio.sleep(0)

    async def _wait_for_leave(self, run: Run, heartbeat_seconds: float) -> None:
        while not await run.connection.is_gone_within(heartbeat_seconds or None):
            if run.is_streaming:
                run.connection.send(_HEARTBEAT)
        raise RunFailed("terminated")

    def _send_ending(self, run: Run, answer: Answer, message_id: str) -> None:
        self._end(run, Event("metadata", metadata_body(run, answer, message_id)))

    def _end(self, run: Run, last: Event) -> None:
        """Close the stream in the slot; a stream that lost its slot stays open and silent."""
        if run.is_muted:
            return
        connection = self._slots.pop(run.slot, None)
        if connection:
            connection.send(_frame(last, connection))
            connection.send(_frame(Event("end", "[DONE]"), connection))
            connection.end_stream()

    def _fail(self, run: Run, failure: RunFailed) -> None:
        text = str(failure)
        message = UNAUTHORIZED_PROVIDER if "401 Incorrect API key" in text else _PREFIX + text
        if run.is_streaming:
            self._end(run, Event("error", message))
        elif run.body.get("streaming") in (None, False, "", 0, "false"):
            run.connection.respond(error_response(500, message))

    # ---------------------------------------------------------------------------------------------- memory
    def _turn(self, run: Run) -> Turn:
        """What the flow's nodes get: the checked body, and the messages that the model sees."""
        body, is_agent = run.body, run.flow.type == "AGENTFLOW"
        check_body(run.flow, body)
        # A chatflow without a memory node takes no history either; an agentflow's first node always takes it.
        past = caller_history(body) if is_agent or run.flow.memory else []
        past += self._remembered(run) if run.flow.memory else []
        asked = question_text(body, is_agent=is_agent)
        system = system_override(run.flow, body)
        messages = [*system, *past, *([{"role": "user", "content": asked}] if asked else [])]
        run.record["messages"] = messages
        human = body.get("humanInput") or None
        execution = self._resumed(run) if human else None
        pace = self.options.token_seconds
        return Turn(run.flow, body.get("question"), messages, run.script, pace, human, execution)

    def _remembered(self, run: Run) -> list[Message]:
        roles = {"userMessage": "user", "apiMessage": "assistant"}
        stored = self._sessions.get(run.session, ())
        return [{"role": roles[row["role"]], "content": row["content"]} for row in stored]

    def _resumed(self, run: Run) -> Execution:
        execution = self._executions.get(run.session)
        if execution is None:
            raise RunFailed(f"No previous execution found for session {run.session_id}")
        run.execution_id = execution.id
        state = execution.entries[-1]["status"]
        if state != "STOPPED":
            raise RunFailed(
                f"Cannot resume execution {execution.id} because it is in '{state}' state. Only executions "
                "in 'STOPPED' state (or 'ERROR' after 'STOPPED') can be resumed."
            )
        return execution

    def _store(self, run: Run, answer: Answer) -> str:
        """Keep both messages, and an agentflow's execution; the id of the answer's message."""
        message_id = str(uuid.uuid4())
        if run.flow.kind == "files":
            self._chats_with_files.append((run.flow.id, str(run.chat_id)))
        if run.flow.type == "AGENTFLOW":
            self._executions[run.session] = Execution(run.execution_id, answer.entries)
        kept = self._sessions.setdefault(run.session, deque(maxlen=MAX_SESSION_MESSAGES))
        self._sessions.move_to_end(run.session)
        kept.extend(message_rows(run, answer, message_id))
        while len(self._sessions) > MAX_SESSIONS:
            oldest, _ = self._sessions.popitem(last=False)
            self._executions.pop(oldest, None)
        return message_id

    # ---------------------------------------------------------------------------------------- load profiles
    async def _run_load(self, run: Run) -> None:
        """Tokens at the profile's pace; ends with its client, so that a benchmark leaves nothing behind."""
        found = _PROFILE.fullmatch(run.flow.id)
        count, gap, first, size, answer_bytes = map(int, found.groups()) if found else (0, 0, 0, 0, 0)
        if not run.is_streaming:
            await asyncio.sleep((first + count * gap) / 1000)
            text = _filler(answer_bytes) if answer_bytes else "".join(_stamped(size) for _ in range(count))
            run.connection.respond(json_response(answer_body(run, Answer(text), str(uuid.uuid4()))))
            return
        await asyncio.sleep(first / 1000)
        run.connection.send(_frame(Event("start", ""), run.connection))
        due, loop = time.monotonic(), asyncio.get_running_loop()
        at_once = 1 if gap else _BURST
        for sent in range(0, count, at_once):
            if run.connection.is_closed:
                return
            run.connection.send(*(_token_frame(size) for _ in range(min(at_once, count - sent))))
            await run.connection.drained()
            due += gap / 1000
            await asyncio.sleep(max(0.0, due - loop.time()) if gap else 0)
        self._send_ending(run, Answer(""), str(uuid.uuid4()))

    # --------------------------------------------------------------------------------------- control routes
    def show_records(self, _request: Request) -> Response:
        """What the predictions got, oldest first."""
        return json_response({"records": list(self.records)})

    def clear_records(self, _request: Request) -> Response:
        """Forget what the predictions got."""
        self.records.clear()
        return json_response({})

    def show_stats(self, _request: Request) -> Response:
        """Counts since the start, and what is under way now."""
        names = (
            "runs_started",
            "runs_finished",
            "runs_aborted",
            "predictions",
            "listings",
            "probes",
            "aborts",
        )
        counts = {name: self.counts[name] for name in names}
        active = counts["runs_started"] - counts["runs_finished"] - counts["runs_aborted"]
        return json_response(counts | {"active_runs": active, "open_connections": len(self.connections)})

    def create_flow(self, request: Request) -> Response:
        """Add a flow; the body takes the fields of `Flow` and of the listing's rows."""
        body = request.body()
        kind = "llm_agent" if body.get("type") == "AGENTFLOW" else "conversation"
        options = {name: body[name] for name in _FLOW_FIELDS if name in body}
        flow = Flow(
            **({"id": str(uuid.uuid4()), "name": "New flow", "kind": kind} | options), row=_dated(body)
        )
        self.flows[flow.id] = flow
        return json_response(flow_row(flow))

    def change_flow(self, request: Request, flow_id: str) -> Response:
        """Change a flow's name or other fields."""
        flow, body = self._flow(flow_id), request.body()
        options = {name: body[name] for name in _FLOW_FIELDS if name in body}
        self.flows[flow_id] = replace(flow, **options, row=dict(flow.row) | _dated(body))
        return json_response(flow_row(self.flows[flow_id]))

    def remove_flow(self, _request: Request, flow_id: str) -> Response:
        """Remove a flow."""
        del self.flows[self._flow(flow_id).id]
        return json_response({"raw": [], "affected": 1})

    def change_script(self, request: Request) -> Response:
        """Make route groups fail, as {"listing_status": 500}; also "hang", null, or a list, one a call."""
        for name, outcome in request.body().items():
            self._scripted[name.removesuffix("_status")] = outcome
        self._scripted = {name: outcome for name, outcome in self._scripted.items() if outcome is not None}
        return json_response(self._scripted)


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
_FLOW_FIELDS = ("id", "name", "kind", "streams", "memory", "images", "keyed", "scripts")


def _bearer(request: Request) -> str:
    """What follows the last `Bearer `, as Flowise reads the header; a bare key is a key too."""
    return request.headers.get("authorization", "").rpartition("Bearer ")[2].strip()


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else 0


def _frame(event: Event, connection: Connection) -> bytes:
    """One SSE message; up to 3.1.1 three of them began with a line that lacks its colon."""
    body = {"event": event.name, "data": event.data}
    if event.duration is not None:
        body["duration"] = event.duration
    colon = "" if connection.old_framing and event.name in ("end", "error", "abort") else ":"
    return b"message%b\ndata:%b\n\n" % (colon.encode(), encoded(body))


def _token_frame(size: int) -> bytes:
    return b'message:\ndata:{"event":"token","data":"%b"}\n\n' % _stamped(size).encode()


def _stamped(size: int) -> str:
    """A token of this size; 18 bytes or more carry the monotonic clock in microseconds behind an `@`."""
    stamp = f"@{time.monotonic_ns() // 1000:016d} " if size >= 18 else ""
    return stamp + _filler(min(max(size, 1), 8192) - len(stamp))


def _filler(size: int) -> str:
    return (_FILLER * (size // len(_FILLER) + 1))[:size]


def _dated(body: Json) -> Json:
    """The row fields of a flow that has just been saved."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    return {"createdDate": now, "updatedDate": now} | {n: v for n, v in body.items() if n not in _FLOW_FIELDS}


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


def _routes() -> Iterator[Route]:
    demo, one = DemoFlowise, "/([^/]+)"
    for method, path, answer, group, is_protected in (
        ("POST", f"prediction{one}", demo.predict, "prediction", False),
        ("POST", "prediction/", demo.refuse_without_id, "prediction", False),
        ("GET", "chatflows", demo.list_flows, "listing", True),
        ("GET", f"chatflows{one}", demo.get_flow, "listing", True),
        ("GET", f"chatflows-streaming{one}", demo.can_stream, "probe", False),
        ("GET", f"chatflows-uploads{one}", demo.allowed_uploads, "probe", False),
        ("GET", f"public-chatbotConfig{one}", demo.public_config, "probe", False),
        ("GET", "version", demo.version, "version", False),
        ("GET", "ping", demo.ping, "ping", False),
        ("POST", f"attachments{one}{one}", demo.read_attachments, "attachments", False),
        ("PUT", f"chatmessage/abort{one}{one}", demo.abort, "abort", False),
        ("GET", f"chatmessage{one}", demo.stored_messages, "messages", True),
        ("GET", "get-upload-file", demo.stored_file, "file", False),
    ):
        yield Route(method, re.compile(f"/api/v1/{path}/?"), answer, group, is_protected)
    for method, path, control in (
        ("GET", "records", demo.show_records),
        ("DELETE", "records", demo.clear_records),
        ("GET", "stats", demo.show_stats),
        ("POST", "flows", demo.create_flow),
        ("PUT", f"flows{one}", demo.change_flow),
        ("DELETE", f"flows{one}", demo.remove_flow),
        ("POST", "script", demo.change_script),
    ):
        yield Route(method, re.compile(f"/__demo/{path}"), control, is_control=True)


_ROUTES = tuple(_routes())


# ---------------------------------------------------------------------------------------------- command line
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


def _print_base_url(_demo: DemoFlowise, base_url: str) -> None:
    sys.stdout.write(json.dumps({"base_url": base_url}) + "\n")
    sys.stdout.flush()


async def _serve_until_told(options: DemoOptions, *, exit_with_stdin: bool) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def wait_for_parent() -> None:
        while os.read(0, 65536):
            pass
        with contextlib.suppress(RuntimeError):  # the loop may have ended already
            loop.call_soon_threadsafe(stop.set)

    if exit_with_stdin:
        threading.Thread(target=wait_for_parent, daemon=True).start()
    await serve(options, stop, _print_base_url)


def main(arguments: list[str] | None = None) -> int:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(description="A small Flowise for demos, tests and benchmarks.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--key", default="", help="the API key that the listing asks for")
    parser.add_argument("--record", action="store_true", help="keep the predictions, open /__demo/")
    parser.add_argument("--token-seconds", type=float, default=0.015)
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin ends")
    given = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options = DemoOptions(given.host, given.port, given.key, given.record, given.token_seconds)
    asyncio.run(_serve_until_told(options, exit_with_stdin=given.exit_with_stdin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
