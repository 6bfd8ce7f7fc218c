"""The API of one Flowise, called with one key: single requests, and information about flows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from flowise_gateway.flow.errors import FlowiseUnavailable, ModelNotFound, ProxyError
from flowise_gateway.flow.lenient_json import lenient_json
from flowise_gateway.flow.model import DEFAULT_FLOWISE
from flowise_gateway.flowise.failures import (
    failure,
    listing_refused,
    naming_settings_of,
    not_the_api,
    refused,
    unreachable,
)
from flowise_gateway.flowise.retries import attempts
from flowise_gateway.flowise.run import Limits
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

PROBE_SECONDS = 10.0
MAX_VERSION_CHARACTERS = 64
PAGE_ROWS = 50
MAX_PAGES = 1000


class FlowiseApi:
    """Calls Flowise's API, each call with a timeout. Thread-safe."""

    def __init__(self, base_url: str, api_key: str, transport: Transport, limits: Limits) -> None:
        """Call the API at `base_url`; `servers` is shared by all calls to the same Flowise."""
        self.base_url = base_url
        self.name = DEFAULT_FLOWISE
        self.servers = Servers([Server(base_url, transport)])
        self._api_key = api_key
        self._limits = limits

    def get(self, path: str, seconds: float = PROBE_SECONDS) -> tuple[ReplyHead, bytes]:
        """GET a path of the API, such as `/chatflows`. Raises FlowiseUnavailable if there was no response."""
        return self._call(FlowiseRequest("GET", path, {}), min(seconds, self._limits.request_timeout))

    def get_streaming(self, path: str, seconds: float = PROBE_SECONDS) -> tuple[ReplyHead, Reply]:
        """GET a path once; the caller reads and closes the body. Raises FlowiseUnavailable.

        Several servers are tried in turn, since a file may be on the disk of only one.
        """
        *others, last = self.servers.for_call()
        for server in others:
            with contextlib.suppress(FlowiseUnavailable):
                head, reply = self._open(server, FlowiseRequest("GET", path, {}), seconds)
                if head.status == HTTPStatus.OK:
                    return head, reply
                reply.close()
        return self._open(last, FlowiseRequest("GET", path, {}), seconds)

    @contextlib.contextmanager
    def naming_settings(self) -> Iterator[None]:
        """Make errors raised in this block name the settings of this Flowise."""
        try:
            yield
        except ProxyError as error:
            error.message = naming_settings_of(self.name, error.message)
            raise

    def flows(self) -> Iterator[dict[str, Any]]:
        """List the flows that the key may see, as Flowise describes them. Raises ProxyError.

        A row contains the whole flow definition, often 100 kB or more, so pages are requested; Flowise before
        3.0.4 has no pages and returns all flows at once.
        """
        with self.naming_settings():
            yield from self._flows()

    def _flows(self) -> Iterator[dict[str, Any]]:
        seen = 0
        for page in range(1, MAX_PAGES + 1):
            head, body = self.get(f"/chatflows?page={page}&limit={PAGE_ROWS}")
            if head.status != 200:
                raise listing_refused(head, has_key=bool(self._api_key))
            answer = lenient_json(body)
            rows = answer.get("data") if isinstance(answer, dict) else answer
            if not isinstance(rows, list):
                raise not_the_api()
            yield from (row for row in rows if isinstance(row, dict))
            seen += len(rows)
            total = answer.get("total") if isinstance(answer, dict) else None
            if not rows or not isinstance(total, int) or seen >= total:
                return

    def capabilities(self, flow_id: str) -> tuple[bool | None, dict[str, Any]]:
        """Whether a flow streams (None: unknown), and which uploads it accepts. Raises ProxyError."""
        return self.probe_streaming(flow_id), self._probed("chatflows-uploads", flow_id)

    def public_config(self, flow_id: str) -> dict[str, Any]:
        """The public information about a flow, with its definition; needs no key. Raises ProxyError."""
        return self._probed("public-chatbotConfig", flow_id)

    def version(self) -> str:
        """Flowise's version, safe to show; empty if unknown. Raises ProxyError."""
        with self.naming_settings():
            head, body = self.get("/version")
            answer = lenient_json(body)
            if head.status == 200 and not is_json(head):
                raise not_the_api()
        version = str(answer.get("version", "")) if isinstance(answer, dict) else ""
        return "".join(filter(str.isprintable, version[:MAX_VERSION_CHARACTERS]))

    def probe_streaming(self, flow_id: str) -> bool | None:
        head, body = self.get(f"/chatflows-streaming/{flow_id}")
        answer = lenient_json(body)
        if head.status == 200:
            if not is_json(head):
                raise not_the_api()
            return isinstance(answer, dict) and answer.get("isStreaming") is True
        self._check_probe(flow_id, head, body)
        return None

    def _probed(self, probe: str, flow_id: str) -> dict[str, Any]:
        """The result of a probe; empty if it is not usable."""
        head, body = self.get(f"/{probe}/{flow_id}")
        answer = lenient_json(body)
        if head.status != 200:
            self._check_probe(flow_id, head, body)
            return {}
        return answer if isinstance(answer, dict) else {}

    @staticmethod
    def _check_probe(flow_id: str, head: ReplyHead, body: bytes) -> None:
        """Raise the error that a failed probe indicates for the flow or for Flowise."""
        answer = lenient_json(body)
        if head.status == 500 and isinstance(answer, dict):
            error = failure(str(answer.get("message", "")), flow_id)
            if isinstance(error, ModelNotFound):
                raise error
        if head.status in (429, 503):
            raise refused(head, body)

    def _call(self, request: FlowiseRequest, seconds: float) -> tuple[ReplyHead, bytes]:
        *others, last = self.servers.for_call()
        for server in others:
            with contextlib.suppress(FlowiseUnavailable):
                return self._call_at(server, request, seconds, 1)
        return self._call_at(last, request, seconds, self._limits.max_attempts)

    def _call_at(
        self, server: Server, request: FlowiseRequest, seconds: float, most: int
    ) -> tuple[ReplyHead, bytes]:
        with self.calling(server), server.health.call() as call:
            for attempt in attempts(call, most, server.health.not_reached):
                with attempt:
                    return self._call_once(server, request, seconds)
        raise AssertionError("tenacity gives up by raising")

    @contextlib.contextmanager
    def calling(self, server: Server) -> Iterator[None]:
        """Start probing a server that could not be reached."""
        try:
            yield
        except FlowiseUnavailable:
            self.servers.note_failure(server)
            raise

    def _call_once(self, server: Server, request: FlowiseRequest, seconds: float) -> tuple[ReplyHead, bytes]:
        head, reply = self._open(server, request, seconds)
        with contextlib.closing(reply):
            try:
                body = read_all(reply, seconds)
            except (NotSent, ConnectionBroken) as error:
                raise unreachable(error) from error
        if body is None:
            raise _timed_out()
        return head, body

    def _open(self, server: Server, request: FlowiseRequest, seconds: float) -> tuple[ReplyHead, Reply]:
        reply = self.send(server, request)
        try:
            head = reply.head(seconds)
            if head is None:
                raise _timed_out()
            self.note(server, head)
        except (NotSent, ConnectionBroken) as error:
            reply.close()
            raise unreachable(error) from error
        except BaseException:
            reply.close()
            raise
        return head, reply

    @staticmethod
    def note(server: Server, head: ReplyHead | None) -> None:
        if head is not None and head.status != HTTPStatus.SERVICE_UNAVAILABLE:
            server.health.reached()

    def send(self, server: Server, request: FlowiseRequest) -> Reply:
        """Send a request, whose URL is a path, to a server, with the key."""
        own = {"Accept": "application/json, text/event-stream", **request.headers}
        if request.body is not None:
            own.setdefault("Content-Type", "application/json")
        if self._api_key:
            own["Authorization"] = f"Bearer {self._api_key}"
        url = server.base_url + request.url
        return server.transport.send(FlowiseRequest(request.method, url, own, request.body))


def is_event_stream(head: ReplyHead) -> bool:
    """Whether a response is an event stream."""
    return head.headers.get("content-type", "").lower().startswith("text/event-stream")


def is_json(head: ReplyHead) -> bool:
    """Whether a response is declared as JSON."""
    kind = head.headers.get("content-type", "").lower().split(";")[0].strip()
    return kind == "application/json" or kind.endswith("+json")


def _timed_out() -> FlowiseUnavailable:
    return FlowiseUnavailable("Flowise did not answer in time.", retry_after_seconds=5)
