"""The HTTP side of the host: Flowise's routes for the pipelines. No component runs here to block it."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from flask import Flask, Response, request

from flowise_gateway.pipelines import listing
from flowise_gateway.pipelines.process import PipelineProcess, Run
from flowise_gateway.pipelines.run_output import frame
from flowise_gateway.pipelines.supervisor import NotRun, Pipeline, TooManyRuns

HEARTBEAT_SECONDS = 15.0
MAX_BODY_BYTES = 64 * 1024**2
_HEARTBEAT = b":heartbeat\n\n"
_PREFIX = "Error: predictionsServices.buildChatflow - "

Pipelines = Callable[[], dict[str, Pipeline]]
"""Returns the current pipelines by flow id."""


class Host:
    """Flowise's API for the pipelines; `key` is required from callers, unless empty."""

    def __init__(self, pipelines: Pipelines, key: str) -> None:
        """Use the given source of pipelines."""
        self._pipelines = pipelines
        self._key = key.encode()
        self._runs: dict[tuple[str, str], tuple[PipelineProcess, Run]] = {}

    def app(self) -> Flask:
        """The WSGI application."""
        app = Flask(__name__, static_folder=None)
        app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
        app.before_request(self._refuse_stranger)
        api: tuple[tuple[str, str, Callable[..., Any]], ...] = (
            ("GET", "ping", lambda: Response("pong", mimetype="text/html")),
            ("GET", "version", lambda: {"version": listing.VERSION}),
            ("GET", "chatflows", self._list),
            ("GET", "chatflows/<flow>", self._row),
            ("GET", "chatflows-streaming/<flow>", self._streaming),
            ("GET", "chatflows-uploads/<flow>", self._uploads),
            ("GET", "public-chatbotConfig/<flow>", self._public_config),
            ("GET", "chatmessage/<flow>", lambda flow: _json([])),  # noqa: ARG005 - nothing is stored
            ("POST", "attachments/<flow>/<chat>", self._attachments),
            ("POST", "prediction/<flow>", self._predict),
            ("PUT", "chatmessage/abort/<flow>/<chat>", self._abort),
        )
        for method, path, view in api:
            app.add_url_rule(f"/api/v1/{path}", f"{method} {path}", view, methods=[method])
        return app

    def _refuse_stranger(self) -> Response | None:
        given = request.headers.get("Authorization", "").rpartition("Bearer ")[2].strip()
        is_open = not self._key or request.path in ("/api/v1/ping", "/api/v1/version")
        if is_open or hmac.compare_digest(given.encode(), self._key):
            return None
        return _json({"error": "Unauthorized Access"}, 401)

    # ---------------------------------------------------------------------------------------------- listing
    def _list(self) -> Response:
        rows = [listing.flow_row(pipeline) for pipeline in self._pipelines().values()]
        page, limit = (request.args.get(name, 0, int) for name in ("page", "limit"))
        if page < 1 or limit < 1:
            return _json(rows)
        return _json({"data": rows[(page - 1) * limit : page * limit], "total": len(rows)})

    def _row(self, flow: str) -> Response:
        pipeline = self._pipelines().get(flow)
        return _json(listing.flow_row(pipeline)) if pipeline else _unknown(flow, 404)

    def _streaming(self, flow: str) -> Response:
        return _json({"isStreaming": True}) if flow in self._pipelines() else _unknown(flow, 500)

    def _uploads(self, flow: str) -> Response:
        pipeline = self._pipelines().get(flow)
        return _json(listing.uploads(pipeline)) if pipeline else _unknown(flow, 500)

    def _public_config(self, flow: str) -> Response:
        pipeline = self._pipelines().get(flow)
        if pipeline is None:
            return _unknown(flow, 404)
        return _json(
            {"uploads": listing.uploads(pipeline), "flowData": listing.flow_row(pipeline)["flowData"]}
        )

    def _attachments(self, flow: str, chat: str) -> Response:  # noqa: ARG002 - the route's
        service = "attachmentService.createAttachment"
        return _failed(f"Error: {service} - File upload is not enabled for this chatflow", 500)

    # ------------------------------------------------------------------------------------------------- runs
    def _predict(self, flow: str) -> Response:
        pipeline = self._pipelines().get(flow)
        if pipeline is None:
            return _unknown(flow, 404)
        content = request.get_data()
        body = _object(content) if request.is_json else None
        if body is None:
            return _failed(f"{_PREFIX}the body must be a JSON object", 500)
        try:
            process, run = pipeline.start(content)
        except NotRun as failure:
            return _failed(f"{_PREFIX}{failure}", 500)
        except TooManyRuns:
            return Response("Too many runs of this pipeline", 429, {"Retry-After": "1"}, mimetype="text/html")
        key = (flow, str(body.get("chatId") or run.number))
        self._runs[key] = (process, run)
        if body.get("streaming") in (True, "true"):
            head = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return Response(self._stream(key, process, run), headers=head, mimetype="text/event-stream")
        return self._whole(key, process, run)

    def _stream(self, key: tuple[str, str], process: PipelineProcess, run: Run) -> Iterator[bytes]:
        try:
            while True:
                pieces = run.take(HEARTBEAT_SECONDS)
                if pieces or not run.has_ended:
                    yield pieces or _HEARTBEAT
                elif run.error is None:
                    return
                else:
                    yield frame("error", _PREFIX + run.error) + frame("end", "[DONE]")
                    return
        finally:
            self._forget(key, process, run)

    def _whole(self, key: tuple[str, str], process: PipelineProcess, run: Run) -> Response:
        try:
            while not run.has_ended:
                run.take(HEARTBEAT_SECONDS)
        finally:
            self._forget(key, process, run)
        if run.error is not None:
            return _failed(_PREFIX + run.error, 500)
        return Response(run.answer or b"", mimetype="application/json")

    def _forget(self, key: tuple[str, str], process: PipelineProcess, run: Run) -> None:
        if self._runs.get(key) == (process, run):
            del self._runs[key]
        process.cancel(run)

    def _abort(self, flow: str, chat: str) -> Response:
        process, run = self._runs.get((flow, chat), (None, None))
        if process is not None and run is not None:
            run.end(None, "This operation was aborted")
            process.cancel(run)
        return _json({"status": 200, "message": "Chat message aborted"})


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, mimetype="application/json")


def _failed(message: str, status: int) -> Response:
    return _json({"statusCode": status, "success": False, "message": message, "stack": {}}, status)


def _unknown(flow: str, status: int) -> Response:
    return _failed(f"Error: Chatflow {flow[:64]} not found", status)
