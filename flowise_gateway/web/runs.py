"""The runs of one request: a choice's batches, what stands in for them, what completes them. Composition.

Knows neither Flask nor the wire.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from flowise_gateway.access.models import Models
from flowise_gateway.conversation.planner import Plan
from flowise_gateway.flow.events import ArtifactMade, Batches, FlowEvent, HumanInputRequested, Warned
from flowise_gateway.flow.filters import tag_choice, with_fallback, with_file_links, with_undo
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.parallel import cancellable_wait, run_concurrently
from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.output_rules import enforce_output_rules
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.web.pump import Pump
from flowise_gateway.web.services import Services
from flowise_gateway.web.streaming import Heartbeat, NumberedBatches

LinkResolver = Callable[[str, str], Callable[[HumanInputRequested | ArtifactMade], FlowEvent]]
"""Gives what completes the events of a run, by its flow and its chat id."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What it takes to run a request; `key` is the caller's own for Flowise, `line` the one to be logged.

    `pump`, if there is one, is offered the tokens of the only turn.
    """

    parsed: ParsedRequest
    plan: Plan
    services: Services
    models: Models
    key: str
    headers: Mapping[str, str]
    line: dict[str, Any]
    link_resolver: LinkResolver
    pump: Pump | None = None

    def batches(self, model: Model, pace: Heartbeat) -> NumberedBatches:
        """The batches of all choices, as they come; nothing runs before they are read."""
        turns = self.plan.turns
        if self.plan.canned_events:
            return tag_choice(batch for batch in [list(self.plan.canned_events)])
        if len(turns) == 1:
            return tag_choice(self._run(turns[0], model, pace.remaining))
        left = threading.Event()
        wake = cancellable_wait(left, pace.remaining)
        return run_concurrently([self._run(turn, model, wake) for turn in turns], left)

    def _run(self, turn: Turn, model: Model, wake: Callable[[], float]) -> Batches:
        batches = self._of_model(turn, model, wake)
        if self.plan.continued and self.plan.continued.taken:
            batches = with_undo(batches, lambda: self.services.planner.rollback(self.plan))
        return enforce_output_rules(batches, self.parsed)

    def _of_model(self, turn: Turn, model: Model, wake: Callable[[], float]) -> Batches:
        batches = self.services.clients.client(model.flow, self.key).batches(
            replace(turn, flow=model.flow),
            wake=wake,
            headers=self.headers,
            request_timeout=model.request_timeout,
            pump=self.pump.take if self.pump else None,
        )
        batches = self.services.metrics.run(batches, model.id, self.line, streams=turn.stream)
        batches = with_file_links(batches, self.link_resolver(model.flow, turn.chat_id))
        if not model.fallback:
            return batches
        return with_fallback(batches, lambda: self._instead_of(turn, model, wake))

    def _instead_of(self, turn: Turn, model: Model, wake: Callable[[], float]) -> Batches:
        self.line["fallback"] = model.fallback
        self.line.pop("outcome", None)
        other = self.models.resolve(model.fallback or "")
        client = self.services.clients.client(other.flow, self.key)
        turn = replace(turn, chat_id=str(uuid4()))
        anew, warning = self.services.planner.replan_for_fallback(self.plan, turn, other, self.parsed, client)
        if warning:
            yield [Warned(warning)]
        yield from self._of_model(anew, other, wake)
