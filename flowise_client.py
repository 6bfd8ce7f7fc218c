"""Flowise's prediction API as a client of one flow: `predict`, `stream`, `abort`. Upstream layer.

Usable alone::

    client = FlowiseClient(base_url="https://flows.example.com/api/v1", flow_id="5518949f-…", api_key="…")
    print(client.predict("What is the price for Apple?"))
"""

from __future__ import annotations

import base64
import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from urllib3 import encode_multipart_formdata

from flow_guards import RUN_THREAD
from flow_turn import FLOW_ID, FlowEvent, KeepAlive, TextDelta, Transcript, Turn, Upload
from flowise_events import EventDecoder, SseDecoder, answer_events, lenient_json, payloads
from flowise_failures import document_refused, failure, no_such_flow, not_the_api, refused
from flowise_health import Call, FlowiseHealth
from flowise_transport import (
    ConnectionBroken,
    FlowiseRequest,
    NotSent,
    Reply,
    ReplyHead,
    RequestsTransport,
    Transport,
    read_all,
)
from proxy_errors import FlowiseUnavailable, ModelNotFound, ProxyError, RateLimited, RunFailed
from proxy_settings import Settings, flowise_base_url

CLOSING_GRACE_SECONDS = 5.0
"""How long a run that has said everything may take for its ids and `end` (Flowise issue 5346: some 10 s)."""

PROBE_SECONDS = 10.0
DOCUMENT_SECONDS = 60.0
PROBE_TTL_SECONDS = 60.0
PROBE_RETRY_SECONDS = 5.0
PAGE_ROWS = 50
MOST_PAGES = 1000
MISSING_SECONDS = 10.0
"""How long a flow that Flowise does not know is not asked for again."""

ABORT_SECONDS = 5.0
ABORT_WAITS_SECONDS = (0.0, 0.2, 1.0)
"""Before each attempt to abort a run."""

MOST_CLIENTS = 1024
LARGEST_ANSWER_BYTES = 64 * 1024**2
"""Of a JSON answer, and of a single event of a stream: what is held in memory before it can be passed on."""

LONGEST_RETRY_WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a call may take and how often it is tried; seconds. Errors name the setting behind a limit."""

    request_timeout: float = 30
    stream_idle_timeout: float = 600
    run_timeout: float = 3600
    max_attempts: int = 3

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        """Take the limits out of the settings."""
        return cls(
            settings.flowise_request_timeout,
            settings.flowise_stream_idle_timeout,
            settings.flowise_run_timeout,
            settings.flowise_max_attempts,
        )


Batch = list[FlowEvent]
"""Events that arrived together."""


def never() -> float:
    """Ask not to be woken while Flowise is silent."""
    return math.inf


class FlowiseClient:
    """One flow of one Flowise. Thread-safe; all waits are limited; only what has not run is tried again."""

    def __init__(
        self,
        base_url: str,
        flow_id: str = "",
        api_key: str = "",
        *,
        transport: Transport | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Talk to the API at `base_url`; raises ValueError for an address that cannot be one."""
        self.base_url = flowise_base_url(base_url)
        self.flow_id = flow_id
        self._api_key = api_key
        self._transport = transport or RequestsTransport(self.base_url)
        self._limits = limits or Limits()
        self.health = FlowiseHealth()
        self._can_stream: tuple[float, bool] | None = None
        self._probe: Future[bool | None] | None = None
        self._lock = threading.Lock()
        self._missing_until = 0.0

    def predict(self, turn: Turn | str, headers: Mapping[str, str] | None = None) -> Transcript:
        """Run the flow and return its transcript, which prints as the answer. Raises ProxyError."""
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
        """Run the flow and give its events one by one, TurnEnded last; else as `batches`."""
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
    ) -> Generator[Batch, None, None]:
        """Run the flow and give its events as they arrive, all of one read together. Raises ProxyError.

        While Flowise is silent a batch of one KeepAlive comes as soon as `wake()` seconds have passed. A
        consumer that closes the iterator early aborts the run. `headers` go along to Flowise. `pump` is
        offered the text of tokens while the iterator waits for them; what it takes (true) is not given here.
        """
        turn = turn if turn.flow else replace(turn, flow=self.flow_id)
        if not FLOW_ID.fullmatch(turn.flow):
            raise ModelNotFound("A flow id must be a UUID.", param="model")
        if time.monotonic() < self._missing_until:
            raise no_such_flow()
        limits = self._limits
        if request_timeout:
            limits = replace(limits, request_timeout=request_timeout)
        run = _Run(turn, limits, wake, pump)
        try:
            if turn.stream and not self.can_stream(turn.flow):
                run.turn = replace(turn, stream=False)
            reply, head = yield from self._answered(run, headers or {})
            with contextlib.closing(reply):
                yield from run.streamed(reply) if _is_event_stream(head) else run.whole(reply)
        except ModelNotFound:
            self._missing_until = time.monotonic() + MISSING_SECONDS
            raise
        except ConnectionBroken:
            raise RunFailed(
                "The connection to Flowise broke before the answer was whole.", code="flowise_bad_answer"
            ) from None
        finally:
            if run.is_running:
                self.abort(turn.chat_id, turn.flow)

    def can_stream(self, flow_id: str = "") -> bool:
        """Whether the flow streams, asked once a minute, and soon again when no answer could be had.

        Many that want to know at once ask once, and fail together; if the one that asks leaves, another asks.
        Flowise never answers a call with `streaming: true` that fails before its stream begins, and so fails
        every run of a flow that cannot stream. Raises ModelNotFound for an unknown flow.
        """
        known = self._can_stream
        if known is not None and time.monotonic() <= known[0]:
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
            streams = self._probe_streaming(flow_id)
            seconds = PROBE_RETRY_SECONDS if streams is None else PROBE_TTL_SECONDS
            self._can_stream = (time.monotonic() + seconds, bool(streams))
            probe.set_result(bool(streams))
        except Exception as error:  # noqa: BLE001 - whoever waits must learn of any
            probe.set_exception(error)
        finally:
            self._probe = None
            if not probe.done():
                probe.set_result(None)

    def _probe_streaming(self, flow_id: str) -> bool | None:
        head, body = self.get(f"/chatflows-streaming/{flow_id}")
        answer = lenient_json(body)
        if head.status == 200:
            if not _is_json(head):
                raise not_the_api()
            return isinstance(answer, dict) and answer.get("isStreaming") is True
        self._check_probe(flow_id, head, body)
        return None

    @staticmethod
    def _check_probe(flow_id: str, head: ReplyHead, body: bytes) -> None:
        """Raise what a probe's failure tells of the flow, or of Flowise."""
        answer = lenient_json(body)
        if head.status == 500 and isinstance(answer, dict):
            error = failure(str(answer.get("message", "")), flow_id)
            if isinstance(error, ModelNotFound):
                raise error
        if head.status in (429, 503):
            raise refused(head, body)

    def flows(self) -> Iterator[dict[str, Any]]:
        """List the flows that the key may see, as Flowise describes them. Raises ProxyError.

        A row holds the flow's whole drawing, often 100 kB and more, so they come page by page; Flowise before
        3.0.4 knows no pages and gives all at once.
        """
        seen = 0
        for page in range(1, MOST_PAGES + 1):
            head, body = self.get(f"/chatflows?page={page}&limit={PAGE_ROWS}")
            if head.status != 200:
                raise refused(head, body)
            answer = lenient_json(body)
            rows = answer.get("data") if isinstance(answer, dict) else answer
            if not isinstance(rows, list):
                raise not_the_api()
            yield from (row for row in rows if isinstance(row, dict))
            seen += len(rows)
            total = answer.get("total") if isinstance(answer, dict) else None
            if not rows or not isinstance(total, int) or seen >= total:
                return

    def abilities(self, flow_id: str) -> tuple[bool | None, dict[str, Any]]:
        """Tell whether a flow streams (None: not told), and which uploads it takes. Raises ProxyError."""
        return self._probe_streaming(flow_id), self._probed("chatflows-uploads", flow_id)

    def public_config(self, flow_id: str) -> dict[str, Any]:
        """Tell what anybody may know of a flow, its drawing among it; needs no right. Raises ProxyError."""
        return self._probed("public-chatbotConfig", flow_id)

    def _probed(self, probe: str, flow_id: str) -> dict[str, Any]:
        """What a probe tells; nothing where it tells nothing of use."""
        head, body = self.get(f"/{probe}/{flow_id}")
        answer = lenient_json(body)
        if head.status != 200:
            self._check_probe(flow_id, head, body)
            return {}
        return answer if isinstance(answer, dict) else {}

    def version(self) -> str:
        """Flowise's version, empty where it does not tell. Raises ProxyError."""
        head, body = self.get("/version")
        answer = lenient_json(body)
        if head.status == 200 and not _is_json(head):
            raise not_the_api()
        return str(answer.get("version", "")) if isinstance(answer, dict) else ""

    def document_text(self, chat_id: str, upload: Upload) -> str:
        """The text of a document (its data a data URI), which Flowise reads. Raises ProxyError."""
        content = base64.b64decode(upload.data.partition(",")[2])
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

    def get(self, path: str, seconds: float = PROBE_SECONDS) -> tuple[ReplyHead, bytes]:
        """GET a path of the API, such as `/chatflows`. Raises FlowiseUnavailable when no answer came."""
        return self._call(FlowiseRequest("GET", path, {}), min(seconds, self._limits.request_timeout))

    def _call(self, request: FlowiseRequest, seconds: float) -> tuple[ReplyHead, bytes]:
        with self.health.call() as call:
            for attempt in self._attempts(call):
                with attempt:
                    return self._call_once(request, seconds)
        raise AssertionError("tenacity gives up by raising")

    def _call_once(self, request: FlowiseRequest, seconds: float) -> tuple[ReplyHead, bytes]:
        head, reply = self._opened(request, seconds)
        with contextlib.closing(reply):
            try:
                body = read_all(reply, seconds)
            except (NotSent, ConnectionBroken) as error:
                raise FlowiseUnavailable(_UNREACHABLE, retry_after_seconds=1) from error
        if body is None:
            raise FlowiseUnavailable(_TOO_LATE, retry_after_seconds=5)
        return head, body

    def opened(self, path: str, seconds: float = PROBE_SECONDS) -> tuple[ReplyHead, Reply]:
        """GET a path once; the body is for the caller to read and close. Raises FlowiseUnavailable."""
        return self._opened(FlowiseRequest("GET", path, {}), seconds)

    def _opened(self, request: FlowiseRequest, seconds: float) -> tuple[ReplyHead, Reply]:
        reply = self._send(request.method, request.url, request.headers, request.body)
        try:
            head = reply.head(seconds)
            if head is None:
                raise FlowiseUnavailable(_TOO_LATE, retry_after_seconds=5)
            self._note(head)
        except (NotSent, ConnectionBroken) as error:
            reply.close()
            raise FlowiseUnavailable(_UNREACHABLE, retry_after_seconds=1) from error
        except BaseException:
            reply.close()
            raise
        return head, reply

    def abort(self, chat_id: str, flow_id: str = "") -> threading.Thread:
        """Ask Flowise to stop a run, in the background. Chain and tool-agent flows run on all the same."""
        path = f"/chatmessage/abort/{flow_id or self.flow_id}/{chat_id}"
        thread = threading.Thread(target=self._abort, args=(path,), name=f"{RUN_THREAD} abort", daemon=True)
        thread.start()
        return thread

    def _abort(self, path: str) -> None:
        # Aborting twice does no harm; a run that goes on because a connection broke does.
        for wait in ABORT_WAITS_SECONDS:
            if wait:
                time.sleep(wait)
            with (
                contextlib.suppress(NotSent, ConnectionBroken),
                contextlib.closing(self._send("PUT", path, {})) as reply,
            ):
                if reply.head(ABORT_SECONDS):
                    read_all(reply, ABORT_SECONDS)
                return

    def _answered(
        self, run: _Run, headers: Mapping[str, str]
    ) -> Generator[Batch, None, tuple[Reply, ReplyHead]]:
        body = orjson.dumps(prediction_body(run.turn))
        with self.health.call() as call:
            for attempt in self._attempts(call):
                with attempt:
                    run.check_wanted()
                    return (yield from self._asked_once(run, headers, body))
        raise AssertionError("tenacity gives up by raising")

    def _asked_once(
        self, run: _Run, headers: Mapping[str, str], body: bytes
    ) -> Generator[Batch, None, tuple[Reply, ReplyHead]]:
        reply = self._send("POST", f"/prediction/{run.turn.flow}", headers, body)
        try:
            head = yield from run.awaited_head(reply)
            self._note(head)
            run.check_encoding(head)
            if head.status != HTTPStatus.OK or not (_is_event_stream(head) or _is_json(head)):
                run.is_running = False
                raise refused(head, read_all(reply, PROBE_SECONDS) or b"", run.turn.flow)
        except BaseException:
            reply.close()
            raise
        return reply, head

    def _attempts(self, call: Call) -> Iterator[AbstractContextManager[object]]:
        """Attempts for a loop: the first costs nothing, the others are few and wait."""
        first = _FirstAttempt()
        yield first
        if (error := first.error) is None:
            return
        try:
            if self._limits.max_attempts == 1 or not _has_not_run(error) or not call.may_retry():
                raise error
            time.sleep(_wait_after(error, _FIRST_BACKOFF_SECONDS))
            yield from self._further_attempts(call)
        except FlowiseUnavailable:
            self.health.not_reached()
            raise

    def _further_attempts(self, call: Call) -> Retrying:
        attempts_left = stop_after_attempt(self._limits.max_attempts - 1)

        def wait(state: RetryCallState) -> float:
            return _wait_after(state.outcome.exception() if state.outcome else None, _backoff(state))

        return Retrying(
            retry=retry_if_exception(_has_not_run),
            stop=lambda state: attempts_left(state) or not call.may_retry(),
            wait=wait,
            sleep=time.sleep,
            reraise=True,
        )

    def _note(self, head: ReplyHead | None) -> None:
        if head is not None and head.status != HTTPStatus.SERVICE_UNAVAILABLE:
            self.health.reached()

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
        own = {"Accept": "application/json, text/event-stream", **headers}
        if body is not None:
            own.setdefault("Content-Type", "application/json")
        if self._api_key:
            own["Authorization"] = f"Bearer {self._api_key}"
        return self._transport.send(FlowiseRequest(method, self.base_url + path, own, body))


_TOO_LATE = "Flowise did not answer in time."
_UNREACHABLE = "Flowise cannot be reached. Nothing has run; try again later."
_FIRST_BACKOFF_SECONDS = 0.1
_backoff = wait_exponential_jitter(multiplier=0.2, max=LONGEST_RETRY_WAIT_SECONDS, jitter=0.1)


class _FirstAttempt:
    """A call's only attempt nearly always; keeps the failure that another one may mend."""

    error: FlowiseUnavailable | RateLimited | None = None

    def __enter__(self) -> None:
        """Attempt."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> bool:
        """Keep a failure after which nothing has run."""
        if isinstance(error, (FlowiseUnavailable, RateLimited)):
            self.error = error
        return self.error is not None


def _has_not_run(error: BaseException) -> bool:
    """Whether a call may be sent again: not connected, or Flowise's own 429 or 503 with a short wait."""
    if not isinstance(error, (FlowiseUnavailable, RateLimited)):
        return False
    return (error.retry_after_seconds or 0) <= LONGEST_RETRY_WAIT_SECONDS


def _wait_after(error: BaseException | None, backoff: float) -> float:
    """What Flowise asked for, or ours if that is longer; one that was not reached asked for nothing."""
    if not isinstance(error, (FlowiseUnavailable, RateLimited)) or isinstance(error.__cause__, NotSent):
        return backoff
    return max(error.retry_after_seconds or 0.0, backoff)


class FlowiseClients:
    """A client for each flow, sharing one transport; the least used are forgotten past MOST_CLIENTS."""

    def __init__(self, settings: Settings, transport: Transport | None = None) -> None:
        """Make clients as the settings say."""
        self._settings = settings
        self._limits = Limits.from_settings(settings)
        self._transport = transport or RequestsTransport(
            settings.flowise_base_url, connect_timeout_seconds=settings.flowise_connect_timeout
        )
        self.health = FlowiseHealth()
        self._clients: OrderedDict[tuple[str, str], FlowiseClient] = OrderedDict()
        self._lock = threading.Lock()

    def client(self, flow_id: str = "", api_key: str = "") -> FlowiseClient:
        """The client of a flow with a caller's own key, else ours; without a flow, for calls on none."""
        with self._lock:
            client = self._clients.pop((flow_id, api_key), None) or FlowiseClient(
                self._settings.flowise_base_url,
                flow_id,
                api_key or self._settings.flowise_api_key,
                transport=self._transport,
                limits=self._limits,
            )
            client.health = self.health
            self._clients[flow_id, api_key] = client
            if len(self._clients) > MOST_CLIENTS:
                self._clients.popitem(last=False)
            return client


class _Run:
    """The waits of one run: for the head, for each piece, for the end, each within its limit."""

    def __init__(
        self, turn: Turn, limits: Limits, wake: Callable[[], float], pump: Callable[[str], bool] | None
    ) -> None:
        self.turn = turn
        self.is_running = False
        self._limits = limits
        self._wake = wake
        self._pump = pump
        self._pumped_at = 0.0
        self._run_deadline = time.monotonic() + limits.run_timeout

    def check_wanted(self) -> None:
        """Raise what the consumer's `wake` raises once it waits no more: nothing must be sent then."""
        self._wake()

    def awaited_head(self, reply: Reply) -> Generator[Batch, None, ReplyHead]:
        """Wait for the head of the answer, giving a KeepAlive whenever the consumer wants to be woken."""
        deadline = time.monotonic() + self._limits.request_timeout
        self.is_running = True
        try:
            while (head := reply.head(self._patience(deadline))) is None:
                self._check(deadline, "FLOWISE_REQUEST_TIMEOUT", self._limits.request_timeout)
                yield [KeepAlive()]
        except NotSent as error:
            self.is_running = False
            raise FlowiseUnavailable(_UNREACHABLE, retry_after_seconds=1) from error
        return head

    @staticmethod
    def check_encoding(head: ReplyHead) -> None:
        """Refuse an answer that was compressed although asked not to be: it could blow up when unpacked."""
        if head.headers.get("content-encoding", "identity") not in ("", "identity"):
            raise RunFailed(
                "Flowise, or a gateway before it, compressed its answer.", code="flowise_bad_answer"
            )

    def streamed(self, reply: Reply) -> Iterator[Batch]:
        """Give the events of an event stream; it is whole only with Flowise's `end` (or all but that)."""
        sse, decoder = SseDecoder(), EventDecoder(self.turn.flow)
        if self._pump is not None:
            reply.pump(partial(self._pumped, self._pump, sse, decoder))
        while not decoder.has_ended:
            piece = yield from self._piece(reply, decoder)
            if not piece:
                break
            batch: Batch = []
            try:
                self._decode(sse.feed(piece), decoder, batch)
            except ProxyError:
                self.is_running = False
                yield batch
                raise
            yield batch
            if sse.open_bytes > LARGEST_ANSWER_BYTES:
                raise _too_large("event")
        if not decoder.has_ended and not decoder.is_complete:
            raise RunFailed("Flowise's stream ended before the answer was whole.", code="flowise_bad_answer")
        self.is_running = False
        yield list(decoder.closing())

    def _pumped(
        self, pump: Callable[[str], bool], sse: SseDecoder, decoder: EventDecoder, arrived: bytearray
    ) -> bool:
        """Offer what has arrived to the pump, if it is whole tokens; whether the consumer may wait on."""
        if sse.open_bytes or not arrived.endswith(b"\n\n"):
            return False
        said = decoder.tokens(bytes(arrived))
        if not said or not pump(said):
            return False
        arrived.clear()
        self._pumped_at = time.monotonic()
        return self._wake() > 0

    def _decode(self, events: bytes, decoder: EventDecoder, batch: Batch) -> None:
        """Add the events to `batch`, tokens that came together as one: they are written together anyway."""
        if (said := decoder.tokens(events)) is not None:
            if said:
                batch.append(TextDelta(said))
            return
        texts: list[str] = []
        try:
            for payload in payloads(events):
                text = decoder.token(payload) if isinstance(payload, bytes) else None
                if text is not None:
                    texts.append(text)
                    continue
                _join(texts, batch)
                batch.extend(decoder.decode(payload) if isinstance(payload, bytes) else [KeepAlive()])
                if decoder.has_ended:
                    return
        finally:
            _join(texts, batch)

    def _piece(self, reply: Reply, decoder: EventDecoder) -> Generator[Batch, None, bytes]:
        limit = CLOSING_GRACE_SECONDS if decoder.is_complete else self._limits.stream_idle_timeout
        deadline = time.monotonic() + limit
        while (piece := reply.read_available(self._patience(deadline))) is None:
            deadline = max(deadline, self._pumped_at + limit)
            if decoder.is_complete and time.monotonic() >= deadline:
                return b""
            self._check(deadline, "FLOWISE_STREAM_IDLE_TIMEOUT", limit)
            yield [KeepAlive()]
        self._check(math.inf, "", 0)
        return piece

    def whole(self, reply: Reply) -> Iterator[Batch]:
        """Give the events of a JSON answer."""
        deadline = time.monotonic() + self._limits.request_timeout
        pieces: list[bytes] = []
        size = 0
        while (piece := reply.read_available(self._patience(deadline))) != b"":
            if piece is None:
                self._check(deadline, "FLOWISE_REQUEST_TIMEOUT", self._limits.request_timeout)
                yield [KeepAlive()]
            else:
                pieces.append(piece)
                size += len(piece)
                if size > LARGEST_ANSWER_BYTES:
                    raise _too_large("answer")
        self.is_running = False
        text = b"".join(pieces)
        answer = lenient_json(text)
        if answer is None and text.strip() not in (b"", b"null"):
            raise RunFailed("Flowise answered with broken JSON.", code="flowise_bad_answer")
        yield list(answer_events(answer))

    def _patience(self, deadline: float) -> float:
        now = time.monotonic()
        return max(0.0, min(deadline - now, self._run_deadline - now, self._wake()))

    def _check(self, deadline: float, setting: str, seconds: float) -> None:
        now = time.monotonic()
        if now >= self._run_deadline:
            setting, seconds, deadline = "FLOWISE_RUN_TIMEOUT", self._limits.run_timeout, self._run_deadline
        if now >= deadline:
            raise RunFailed(
                f"The flow gave no answer within {seconds:g} s ({setting}). It may still be running.",
                code="flowise_timeout",
            )


def _join(texts: list[str], batch: Batch) -> None:
    if text := "".join(texts):
        batch.append(TextDelta(text))
    texts.clear()


def _too_large(what: str) -> RunFailed:
    size = f"{LARGEST_ANSWER_BYTES // 1024**2} MiB"
    return RunFailed(f"Flowise sent an {what} larger than {size}.", code="flowise_bad_answer")


def prediction_body(turn: Turn) -> dict[str, Any]:
    """Flowise's request for a turn; the system text stands marked before the question."""
    body: dict[str, Any] = {
        "question": question_with_instructions(turn),
        "chatId": turn.chat_id,
        **turn.extra,
    }
    if turn.human_input or turn.extra.get("form"):
        del body["question"]  # Flowise takes one of the two
    if turn.stream:
        body["streaming"] = True
    if turn.history:
        body["history"] = [{"role": m.role, "content": m.content} for m in turn.history]
    if turn.uploads:
        body["uploads"] = [
            {"type": u.type, "name": u.name, "mime": u.mime, "data": u.data} for u in turn.uploads
        ]
    overrides = dict(turn.overrides)
    if turn.session_id:
        overrides["sessionId"] = turn.session_id
    if overrides:
        body["overrideConfig"] = overrides
    if turn.human_input:
        body["humanInput"] = dict(turn.human_input)
    return body


def question_with_instructions(turn: Turn) -> str:
    """The question, behind the system text if there is one: Flowise has no role for it."""
    if not turn.system_text:
        return turn.question
    return f"[System instructions]\n{turn.system_text}\n[End of system instructions]\n\n{turn.question}"


def _is_event_stream(head: ReplyHead) -> bool:
    return head.headers.get("content-type", "").lower().startswith("text/event-stream")


def _is_json(head: ReplyHead) -> bool:
    kind = head.headers.get("content-type", "").lower().split(";")[0].strip()
    return kind == "application/json" or kind.endswith("+json")
