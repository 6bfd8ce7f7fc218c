"""The runs of one request: the batches of each choice, and the fallback for a run that did not start."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from uuid import uuid4

from flowise_gateway.access.keys import Caller
from flowise_gateway.access.models import Models
from flowise_gateway.conversation.planner import Plan
from flowise_gateway.flow.errors import (
    FlowiseUnavailable,
    ModelNotFound,
    ProxyError,
    QuotaExhausted,
    RateLimited,
)
from flowise_gateway.flow.events import (
    ArtifactMade,
    Batches,
    FlowEvent,
    HumanInputRequested,
    KeepAlive,
    Warned,
)
from flowise_gateway.flow.filters import complete_events
from flowise_gateway.flow.model import FLOW_ID, Model
from flowise_gateway.flow.parallel import ChoiceBatches, cancellable_wait, only_choice, run_concurrently
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.flow.spans import AttemptHeaders, RunWatch
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.run import RunState
from flowise_gateway.openai.output_rules import enforce_output_rules
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.web.heartbeat import Heartbeat
from flowise_gateway.web.pump import Pump
from flowise_gateway.web.services import Services

LinkResolver = Callable[[Model, str], Callable[[HumanInputRequested | ArtifactMade], FlowEvent]]
"""Returns the function that completes the events of a run, for its model and chat id."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs the turns of a request.

    `pump`, if set, is offered the tokens of the only turn.
    """

    parsed: ParsedRequest
    plan: Plan
    services: Services
    models: Models
    caller: Caller
    headers: Mapping[str, str]
    summary: RequestSummary
    link_resolver: LinkResolver
    pump: Pump | None = None

    def batches(self, model: Model, heartbeat: Heartbeat) -> ChoiceBatches:
        """The batches of all choices as they arrive; nothing runs until they are read."""
        turns = self.plan.turns
        if self.plan.canned_events:
            return only_choice(batch for batch in [list(self.plan.canned_events)])
        if len(turns) == 1:
            return only_choice(self._choice(turns[0], model, heartbeat.remaining))
        left = threading.Event()
        wake = cancellable_wait(left, heartbeat.remaining)
        numbered = run_concurrently([self._choice(turn, model, wake) for turn in turns], left)
        return ChoiceBatches(numbered, numbered.close)

    def _choice(self, turn: Turn, model: Model, wake: Callable[[], float]) -> Batches:
        return enforce_output_rules(self._run(turn, model, wake), self.parsed)

    def _run(self, turn: Turn, model: Model, wake: Callable[[], float]) -> Batches:
        """The batches of a choice, observed and completed.

        If certainly nothing has run, the fallback answers, or the conversation is rolled back.
        """
        has_begun, state = False, RunState()
        try:
            while True:
                result = "aborted"
                watch = self._watch(turn, model)
                complete = self.link_resolver(model, turn.chat_id)
                batches = self._batches(turn, model, wake, watch, state)
                try:
                    for batch in batches:
                        watch.add(batch)
                        complete_events(batch, complete)
                        has_begun = has_begun or not all(isinstance(event, _NOT_BEGUN) for event in batch)
                        yield batch
                    result = "ok"
                    return
                except ProxyError as error:
                    result = self.summary.outcome = error.code or error.type
                    can_move = self._can_move(turn, error)
                    if has_begun or not error.nothing_ran or not (model.fallback or can_move):
                        raise
                    failure = error
                finally:
                    try:
                        batches.close()
                    finally:  # the greenlet may be killed during the abort that closing starts
                        self._name(model)
                        watch.ended(result)
                try:
                    # A conversation whose server is down continues on another one, with its whole history.
                    turn, model, warning = self._stand_in(turn, model, None if can_move else model.fallback)
                except (ModelNotFound, RateLimited, QuotaExhausted):  # not shown to the caller
                    raise failure from None
                if warning:
                    yield [Warned(warning)]
        except BaseException as error:  # A run is ended by a BaseException if its client disconnects.
            is_refused = isinstance(error, ProxyError) and error.nothing_ran
            # With several runs, another one may have started.
            is_unsent = not state.may_have_begun and len(self.plan.turns) == 1
            if (is_refused or is_unsent) and not has_begun and self.plan.continued:
                self.services.planner.rollback(self.plan)
            raise

    def _name(self, model: Model) -> None:
        """Set the model name of a flow that was requested by its id before it was listed."""
        if not model.type and FLOW_ID.fullmatch(model.id):
            with contextlib.suppress(ProxyError):
                known = self.models.resolve(model.id)
                if known.type:
                    self.services.metrics.rename(model.id, known)
                    self.summary.model = known.id

    def _watch(self, turn: Turn, model: Model) -> RunWatch:
        """The observer of the run: metrics, and tracing if it is on."""
        count = self.services.metrics.run(model.id, self.summary, streams=turn.stream)
        return count if self.summary.span is None else self.summary.span.run(count, model, turn)

    def _batches(
        self, turn: Turn, model: Model, wake: Callable[[], float], watch: RunWatch, state: RunState
    ) -> Batches:
        begin = watch.begin_attempt
        return self.services.client(model, self.caller).batches(
            replace(turn, flow=model.flow),
            wake=wake,
            headers=self.headers if begin is None else AttemptHeaders(self.headers, begin),
            request_timeout=model.request_timeout,
            pump=self.pump.take if self.pump else None,
            state=state,
        )

    def _can_move(self, turn: Turn, error: ProxyError) -> bool:
        """Whether a turn may go to another server than its session's, which has no open question."""
        if not turn.server or not isinstance(error, FlowiseUnavailable):
            return False
        return self.plan.continued is not None and self.plan.continued.pending is None

    def _stand_in(self, turn: Turn, model: Model, fallback: str | None) -> tuple[Turn, Model, str]:
        """The turn for the fallback model, that model, and a warning about omitted parts.

        Without a fallback, the model itself is used, on any reachable server.
        """
        if fallback:
            model = self.models.resolve(fallback)
            self.services.admit_fallback(model, self.summary)
        self.summary.fallback, self.summary.outcome = model.id if fallback is None else fallback, ""
        client = self.services.client(model, self.caller)
        turn = replace(turn, chat_id=str(uuid4()), server="")
        turn, warning = self.services.planner.replan_for_fallback(self.plan, turn, model, self.parsed, client)
        return turn, model, warning


_NOT_BEGUN = (KeepAlive, Warned)
"""Events that may arrive before a flow has started to run."""
