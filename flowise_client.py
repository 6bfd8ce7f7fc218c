"""Client of Flowise's prediction API for one flow: `predict`, `stream`, `abort`.

It can be used without the gateway::

    client = FlowiseClient(base_url="https://flows.example.com/api/v1", flow_id="5518949f-…", api_key="…")
    print(client.predict("What is the price for Apple?"))
"""

from __future__ import annotations

import base64
import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from urllib3 import encode_multipart_formdata

from flowise_gateway.config.flowises import Upstream
from flowise_gateway.config.setting_values import flowise_base_url
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.cooperative import slices
from flowise_gateway.flow.errors import FlowiseUnavailable, ModelNotFound, ProxyError, RunFailed
from flowise_gateway.flow.events import Batch, FlowEvent
from flowise_gateway.flow.lenient_json import lenient_json
from flowise_gateway.flow.lru import LRU
from flowise_gateway.flow.model import FLOW_ID
from flowise_gateway.flow.parallel import RUN_THREAD
from flowise_gateway.flow.spans import AttemptHeaders
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn, Upload
from flowise_gateway.flowise.api import PROBE_SECONDS, FlowiseApi, is_event_stream, is_json
from flowise_gateway.flowise.failures import (
    document_refused,
    no_such_flow,
    refused,
)
from flowise_gateway.flowise.prediction import prediction_json
from flowise_gateway.flowise.queue_mode import QueueMode
from flowise_gateway.flowise.retries import attempts
from flowise_gateway.flowise.run import Limits, Run, RunState
from flowise_gateway.flowise.servers import Server, Servers
from flowise_gateway.flowise.transport.base import (
    ConnectionBroken,
    FlowiseRequest,
    NotSent,
    Reply,
    ReplyHead,
    Transport,
    read_all,
)
from flowise_gateway.flowise.transport.requests_transport import RequestsTransport

DOCUMENT_SECONDS = 60.0
PROBE_TTL_SECONDS = 60.0
PROBE_RETRY_SECONDS = 5.0
MISSING_SECONDS = 10.0
"""How long an unknown flow is refused without asking Flowise again."""

ABORT_SECONDS = 5.0
ABORT_WAITS_SECONDS = (0.0, 0.2, 1.0)
"""Pauses before the attempts to abort a run."""

MAX_CLIENTS = 1024


def never() -> float:
    """A `wake` for callers that need no heartbeats while Flowise is silent."""
    return math.inf


class FlowiseClient(FlowiseApi):
    """One flow of one Flowise. Thread-safe. All waits have timeouts; only what has not run is retried."""

    def __init__(
        self,
        base_url: str,
        flow_id: str = "",
        api_key: str = "",
        *,
        transport: Transport | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Use the API at `base_url`. Raises ValueError for an invalid URL."""
        base_url = flowise_base_url(base_url)
        super().__init__(base_url, api_key, transport or RequestsTransport(base_url), limits or Limits())
        self.flow_id = flow_id
        self.mode = QueueMode()
        self._can_stream: tuple[float, bool, bool] | None = None
        self._probe: Future[bool | None] | None = None
        self._lock = threading.Lock()
        self._missing_until = 0.0

    def predict(self, turn: Turn | str, headers: Mapping[str, str] | None = None) -> Transcript:
        """Run the flow and return its transcript, whose `str()` is the answer. Raises ProxyError."""
        if isinstance(turn, str):
            turn = Turn(self.flow_id, turn)
        transcript = Transcript(turn.chat_id)
        for event in self.stream(turn, headers=headers):
            transcript.add(event)
        return transcript

    def stream(
        self,
        turn: Turn,
        *,
        wake: Callable[[], float] = never,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[FlowEvent]:
        """Run the flow and yield its events one by one, TurnEnded last; otherwise like `batches`."""
        with contextlib.closing(self.batches(turn, wake=wake, headers=headers)) as batches:
            for batch in batches:
                yield from batch

    def batches(
        self,
        turn: Turn,
        *,
        wake: Callable[[], float] = never,
        headers: Mapping[str, str] | None = None,
        request_timeout: float | None = None,
        pump: Callable[[str], bool] | None = None,
        state: RunState | None = None,
    ) -> Generator[Batch, None, None]:
        """Run the flow and yield its events as they arrive, those of one read together. Raises ProxyError.

        While Flowise is silent, a batch with a KeepAlive is yielded after `wake()` seconds. Closing the
        iterator early aborts the run. `headers` are sent to Flowise. `pump` is offered the text of tokens
        while the iterator waits; text that it accepts (true) is not yielded. `state` tells the caller, even
        after it closed the iterator, whether the flow may have begun to run.
        """
        with self.naming_settings():
            yield from self._batches(turn, wake, headers or {}, request_timeout, pump, state or RunState())

    def _batches(
        self,
        turn: Turn,
        wake: Callable[[], float],
        headers: Mapping[str, str],
        request_timeout: float | None,
        pump: Callable[[str], bool] | None,
        state: RunState,
    ) -> Generator[Batch, None, None]:
        turn = turn if turn.flow else replace(turn, flow=self.flow_id)
        if not FLOW_ID.fullmatch(turn.flow):
            raise ModelNotFound("A flow id must be a UUID.", param="model")
        if time.monotonic() < self._missing_until:
            raise no_such_flow()
        limits = self._limits
        if request_timeout:
            limits = replace(limits, request_timeout=request_timeout)
        run = Run(turn, limits, wake, pump)
        run.state = state
        try:
            if turn.stream and not self.can_stream(turn.flow):
                run.turn = replace(turn, stream=False)
            yield from self._run(run, headers)
        except ModelNotFound:
            self._missing_until = time.monotonic() + MISSING_SECONDS
            raise
        except ConnectionBroken:
            raise RunFailed(
                "The connection to Flowise broke before the answer was complete.", code="flowise_bad_answer"
            ) from None
        finally:
            if run.is_running:
                self.abort(turn.chat_id, turn.flow, run.server)

    def _run(self, run: Run, headers: Mapping[str, str]) -> Generator[Batch, None, None]:
        """Try the servers in turn, as long as the flow has certainly not run."""
        *others, last = self.servers.for_run(run.turn.server)
        for server in others:
            try:
                return (yield from self._run_at(server, run, headers, 1))
            except FlowiseUnavailable:
                if run.state.may_have_begun:
                    raise
        return (yield from self._run_at(last, run, headers, self._limits.max_attempts))

    def _run_at(
        self, server: Server, run: Run, headers: Mapping[str, str], most: int
    ) -> Generator[Batch, None, None]:
        run.server = server
        with server.run(), self.calling(server):
            reply, head = yield from self._open_answer(server, run, headers, most)
            with contextlib.closing(reply):
                stored = partial(self._stored_message, run.turn.flow)
                is_stream = is_event_stream(head)
                yield from run.streamed(reply, self.mode, stored) if is_stream else run.whole(reply)

    def can_stream(self, flow_id: str = "") -> bool:
        """Whether the flow can stream; cached for a minute, and for a few seconds if Flowise gave no answer.

        Concurrent callers share one request and its failure; if the caller that sent it goes away, another
        one sends it. This must be known before a run: Flowise never answers a call with `streaming: true`
        that fails before its stream begins, and every such call to a flow that cannot stream fails. In queue
        mode, where a stream may be truncated but a JSON answer is complete, the flow is streamed only if a
        truncated answer can be completed. Raises ModelNotFound for an unknown flow.
        """
        known = self._can_stream
        if known is not None and time.monotonic() <= known[0] and known[2] is self.mode.is_on:
            return known[1]
        while True:
            with self._lock:
                probe, is_ours = self._probe or Future(), self._probe is None
                self._probe = probe
            if is_ours:
                self._run_probe(probe, flow_id or self.flow_id)
            streams = probe.result()
            if streams is not None:
                return streams

    def _run_probe(self, probe: Future[bool | None], flow_id: str) -> None:
        try:
            is_queued = self.mode.is_on
            streams = self.probe_streaming(flow_id)
            if streams and is_queued:
                streams = self._stored_messages(flow_id, str(uuid4())) is not None
            seconds = PROBE_RETRY_SECONDS if streams is None else PROBE_TTL_SECONDS
            self._can_stream = (time.monotonic() + seconds, bool(streams), is_queued)
            probe.set_result(bool(streams))
        except Exception as error:  # noqa: BLE001 - the waiting callers need it
            probe.set_exception(error)
        finally:
            self._probe = None
            if not probe.done():
                probe.set_result(None)

    def document_text(self, chat_id: str, upload: Upload) -> str:
        """The text that Flowise extracts from a document, given as a data URI. Raises ProxyError."""
        content = b"".join(map(base64.b64decode, slices(upload.data.partition(",")[2])))
        body, kind = encode_multipart_formdata({"files": (upload.name, content, upload.mime)})
        path = f"/attachments/{self.flow_id}/{chat_id}"
        head, answer = self._call(
            FlowiseRequest("POST", path, {"Content-Type": kind}, body), DOCUMENT_SECONDS
        )
        files = lenient_json(answer)
        if head.status == 200 and isinstance(files, list) and files and isinstance(files[0], dict):
            return str(files[0].get("content") or "")
        if head.status in (429, 503):
            raise refused(head, answer)
        raise document_refused(answer)

    def _stored_message(self, flow_id: str, message_id: str) -> dict[str, Any] | None:
        """The message that Flowise stored for an answer; None if the key may not read it."""
        # The id comes from Flowise's stream and becomes part of a URL, so it is validated.
        rows = self._stored_messages(flow_id, message_id) if FLOW_ID.fullmatch(message_id) else None
        found = (row for row in rows or () if isinstance(row, dict) and row.get("id") == message_id)
        return next(found, None)

    def _stored_messages(self, flow_id: str, message_id: str) -> list[Any] | None:
        """The flow's messages with that id (one or none); None if the key may not read them."""
        try:
            head, body = self.get(f"/chatmessage/{flow_id}?messageId={message_id}")
        except ProxyError:
            return None
        rows = lenient_json(body)
        return rows if head.status == HTTPStatus.OK and isinstance(rows, list) else None

    def abort(self, chat_id: str, flow_id: str = "", server: Server | None = None) -> threading.Thread:
        """Ask Flowise to stop a run, in the background. Chain and tool-agent flows do not stop.

        All servers are asked, unless the server of the run is given.
        """
        path = f"/chatmessage/abort/{flow_id or self.flow_id}/{chat_id}"
        asked = [server] if server else list(self.servers)
        thread = threading.Thread(
            target=self._abort, args=(path, asked), name=f"{RUN_THREAD} abort", daemon=True
        )
        thread.start()
        return thread

    def _abort(self, path: str, servers: Sequence[Server]) -> None:
        for server in servers:
            self._abort_at(server, path)

    def _abort_at(self, server: Server, path: str) -> None:
        # Retried: aborting twice is harmless, a run that continues after a broken connection is not.
        for wait in ABORT_WAITS_SECONDS:
            if wait:
                time.sleep(wait)
            with (
                contextlib.suppress(NotSent, ConnectionBroken),
                contextlib.closing(self.send(server, FlowiseRequest("PUT", path))) as reply,
            ):
                if reply.head(ABORT_SECONDS):
                    read_all(reply, ABORT_SECONDS)
                return

    def _open_answer(
        self, server: Server, run: Run, headers: Mapping[str, str], most: int
    ) -> Generator[Batch, None, tuple[Reply, ReplyHead]]:
        body = prediction_json(run.turn)
        with server.health.call() as call:
            for attempt in attempts(call, most, server.health.not_reached):
                with attempt:
                    run.check_cancelled()
                    run.state.may_have_begun = True
                    try:
                        return (yield from self._send_prediction(server, run, headers, body))
                    except ProxyError as error:
                        run.state.may_have_begun = not error.nothing_ran
                        raise
        raise AssertionError("tenacity gives up by raising")

    def _send_prediction(
        self, server: Server, run: Run, headers: Mapping[str, str], body: bytes
    ) -> Generator[Batch, None, tuple[Reply, ReplyHead]]:
        if not isinstance(headers, AttemptHeaders):
            return (yield from self._send_once(server, run, headers, body))
        span = headers.begin()
        try:
            reply, head = yield from self._send_once(server, run, {**headers, **span.headers}, body)
        except BaseException as error:
            is_failure = isinstance(error, Exception)  # otherwise the client is gone, or the server stops
            span.ended(0, getattr(error, "code", None) or type(error).__name__ if is_failure else "aborted")
            raise
        span.ended(head.status, "")
        return reply, head

    def _send_once(
        self, server: Server, run: Run, headers: Mapping[str, str], body: bytes
    ) -> Generator[Batch, None, tuple[Reply, ReplyHead]]:
        request = FlowiseRequest("POST", f"/prediction/{run.turn.flow}", headers, body)
        reply = self.send(server, request)
        try:
            head = yield from run.wait_for_head(reply)
            self.note(server, head)
            run.check_encoding(head)
            if head.status != HTTPStatus.OK or not (is_event_stream(head) or is_json(head)):
                run.is_running = False
                raise refused(head, read_all(reply, PROBE_SECONDS) or b"", run.turn.flow)
        except BaseException:
            reply.close()
            raise
        return reply, head


def limits_of(settings: Settings) -> Limits:
    """The limits of calls in the settings."""
    return Limits(
        settings.flowise_request_timeout,
        settings.flowise_stream_idle_timeout,
        settings.flowise_run_timeout,
        settings.flowise_max_attempts,
    )


def requests_transport(settings: Settings) -> RequestsTransport:
    """A transport to the Flowise of the settings that sends each call in the thread of its caller."""
    return RequestsTransport(
        settings.flowise_base_url,
        connect_timeout_seconds=settings.flowise_connect_timeout,
        ca_file=settings.flowise_ca_file,
    )


class FlowiseClients:
    """The clients of one Flowise, one per flow, sharing its servers; up to MAX_CLIENTS are cached."""

    def __init__(
        self, upstream: Upstream, transport_of: Callable[[Settings], Transport] = requests_transport
    ) -> None:
        """Create clients for a Flowise; `transport_of` creates the transport to one of its servers."""
        self._upstream = upstream
        self._limits = limits_of(upstream.settings)
        servers = [Server(each.flowise_base_url, transport_of(each)) for each in upstream.server_settings]
        self.servers = Servers(servers, is_sticky=upstream.is_sticky)
        self.mode = QueueMode()
        self._clients: LRU[tuple[str, str], FlowiseClient] = LRU(MAX_CLIENTS)
        self._lock = threading.Lock()

    def client(self, flow_id: str = "", api_key: str = "") -> FlowiseClient:
        """The client of a flow, with the given key or the configured one; without a flow, for other calls."""
        with self._lock:
            client = self._clients.get((flow_id, api_key)) or self._new_client(flow_id, api_key)
            self._clients[flow_id, api_key] = client
            return client

    def _new_client(self, flow_id: str, api_key: str) -> FlowiseClient:
        settings, transport = self._upstream.settings, next(iter(self.servers)).transport
        key = api_key or settings.flowise_api_key
        client = FlowiseClient(
            settings.flowise_base_url, flow_id, key, transport=transport, limits=self._limits
        )
        client.name, client.servers, client.mode = self._upstream.name, self.servers, self.mode
        return client

    def close(self) -> None:
        """Close idle connections; active calls continue."""
        self.servers.close()
