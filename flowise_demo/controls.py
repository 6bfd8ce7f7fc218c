"""The control routes of the demo, `/__demo/…`: what tests ask of it and make it do."""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from dataclasses import replace

from flowise_demo.flows import Flow, Json, flow_row
from flowise_demo.http import HttpFailed, Request, Response, json_response

MAX_RECORDS = 10_000
_FLOW_FIELDS = ("id", "name", "kind", "streams", "memory", "images", "keyed", "scripts")


class Controls:
    """What tests see and change: flows, records of the predictions, counts, scripted failures of routes."""

    def __init__(self, flows: dict[str, Flow]) -> None:
        """Begin with these flows and nothing recorded."""
        self.flows = flows
        self.records: deque[Json] = deque(maxlen=MAX_RECORDS)
        self.counts: Counter[str] = Counter()
        self.scripted: Json = {}

    def show_records(self, _request: Request) -> Response:
        """What the predictions got, oldest first."""
        return json_response({"records": list(self.records)})

    def clear_records(self, _request: Request) -> Response:
        """Forget what the predictions got."""
        self.records.clear()
        return json_response({})

    def stats(self, open_connections: int) -> Response:
        """Counts since the start, and what is under way now."""
        names = [
            "runs_started",
            "runs_finished",
            "runs_aborted",
            "predictions",
            "listings",
            "probes",
            "aborts",
        ]
        counts = {name: self.counts[name] for name in names}
        active = counts["runs_started"] - counts["runs_finished"] - counts["runs_aborted"]
        return json_response(counts | {"active_runs": active, "open_connections": open_connections})

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
            self.scripted[name.removesuffix("_status")] = outcome
        self.scripted = {name: outcome for name, outcome in self.scripted.items() if outcome is not None}
        return json_response(self.scripted)

    def _flow(self, flow_id: str) -> Flow:
        if flow_id not in self.flows:
            raise HttpFailed(404, f"Chatflow {flow_id} not found in the database!")
        return self.flows[flow_id]


def _dated(body: Json) -> Json:
    """The row fields of a flow that has just been saved."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    return {"createdDate": now, "updatedDate": now} | {n: v for n, v in body.items() if n not in _FLOW_FIELDS}
