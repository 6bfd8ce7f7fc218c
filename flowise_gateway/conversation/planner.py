"""Plans the runs for a parsed request: session, overrides, uploads, decisions.

Independent of Flask and of the API of the request; `web/answering.py` requests a plan and records its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from flowise_gateway.access.keys import Caller
from flowise_gateway.conversation.attachments import (
    Attachments,
    Takes,
    UploadClient,
    left_out_warning,
    refuse,
    takes_of,
)
from flowise_gateway.conversation.records import History
from flowise_gateway.conversation.sessions import (
    ContinuedTurn,
    ConversationRequest,
    Conversations,
    HistoryMode,
    Outcome,
)
from flowise_gateway.flow.cooperative import yield_before
from flowise_gateway.flow.errors import BadRequest, ProxyError
from flowise_gateway.flow.events import FlowEvent, HumanInputRequested, TextDelta, TurnEnded
from flowise_gateway.flow.model import DEFAULT_FLOWISE, Model
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn, with_attached
from flowise_gateway.flowise.human_input import decision, resume_turn
from flowise_gateway.flowise.overrides import takes_system_text, with_overrides
from flowise_gateway.openai.answer_text import whole_text, without_decision
from flowise_gateway.openai.conversation_builder import answer_in_history
from flowise_gateway.openai.request import ParsedRequest

CONVERSATION_HEADERS = ("X-Conversation-Id", "X-Session-Id", "X-OpenWebUI-Chat-Id")
USER_HEADERS = ("X-User-Id", "X-OpenWebUI-User-Id")
LATE_ANSWER = (
    "This question has been answered already, or it is too old to be answered. Nothing was run. "
    "Ask again to start over."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan for a request: the `turns` to run, or the `canned_events` of an answer without a run.

    `ignored` names parameters that the flow does not support, `warning` lists omitted parts of messages.
    """

    turns: tuple[Turn, ...]
    ignored: tuple[str, ...] = ()
    continued: ContinuedTurn | None = None
    canned_events: tuple[FlowEvent, ...] = ()
    is_recorded: bool = field(default=True)
    warning: str = ""


class Planner:
    """Assigns requests to conversations and adapts them to their flows."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations
        self._attachments = Attachments()

    def plan(
        self,
        parsed: ParsedRequest,
        model: Model,
        caller: Caller,
        header: Callable[[str], str | None],
        client: UploadClient,
    ) -> Plan:
        """Plan a request. Raises BadRequest for unsupported content, ProxyError for failures of Flowise."""
        parsed, ignored = _allowed(parsed, caller)
        if model.system == "drop" and parsed.turns[0].instructions:
            ignored = (*ignored, "system")
            parsed = replace(parsed, turns=tuple(replace(turn, instructions="") for turn in parsed.turns))
        takes = takes_of(parsed.attachments, model, client)
        refuse(parsed.attachments, takes)
        continued = self._conversations.join(_conversation_request(parsed, model, caller, header))
        try:
            return self._planned(continued, parsed, model, ignored, takes)
        except ProxyError:
            self._conversations.rollback(continued)
            raise

    def plan_standalone(self, parsed: ParsedRequest, model: Model, caller: Caller) -> Plan:
        """Plan a request that is not part of a conversation."""
        parsed, ignored = _allowed(parsed, caller)
        turns, more = _fitted(parsed.turns, parsed, model, parsed.user)
        return Plan(turns, (*ignored, *more))

    def prepare(self, parsed: ParsedRequest, model: Model, caller: Caller) -> Plan:
        """Plan no run; a request that continues this answer continues the one before it."""
        if parsed.previous_response_id and parsed.response_id:
            scope = caller.scope or caller.name
            self._conversations.also_name(scope, parsed.previous_response_id, parsed.response_id)
        return replace(self.plan_standalone(parsed, model, caller), canned_events=(TurnEnded(),))

    def replan_for_fallback(
        self, plan: Plan, turn: Turn, model: Model, parsed: ParsedRequest, client: UploadClient
    ) -> tuple[Turn, str]:
        """The turn for the fallback, with the whole conversation, and a warning about omitted parts."""
        if plan.continued is None:
            return turn, ""
        request, history = plan.continued.request, plan.continued.history
        standing_in = replace(request.turns[0], chat_id=turn.chat_id, history=history, stream=turn.stream)
        older = tuple(replace(attachment, is_newest=False) for attachment in request.attachments)
        continued = replace(
            plan.continued,
            request=replace(request, attachments=older),
            turns=(standing_in,),
            history_in_question=history_mode(model) == "question" or model.chains_models,
        )
        takes = takes_of(older, model, client)
        continued, warning = self._with_attachments(continued, parsed, takes)
        return _fitted(continued.turns, parsed, model, request.user)[0][0], warning

    def record(
        self, plan: Plan, transcripts: Sequence[Transcript], *also_under: str, stood_in: bool = False
    ) -> None:
        """Store the state for the conversation's next request, if all runs have ended."""
        continued = plan.continued
        has_ended = all(transcript.finish_reason is not None for transcript in transcripts)
        if continued is None or not plan.is_recorded or not has_ended:
            return
        if stood_in or any(transcript.is_cut for transcript in transcripts):
            # Only the texts are stored: the session contains more or less than they do, or the run of the
            # failed model may still be active in it.
            continued = replace(continued, request=replace(continued.request, mode="messages"))
        yield_before(sum(len(text) for t in transcripts for text in t.texts))
        outcomes = [Outcome(answer_in_history(whole_text(t), t.calls), t.action) for t in transcripts]
        self._conversations.record(continued, outcomes, *also_under)

    def forget(self, caller: Caller, answer: str) -> None:
        """Delete the stored data of an answer that its caller has deleted."""
        self._conversations.forget(caller.scope or caller.name, answer)

    def rollback(self, plan: Plan) -> None:
        """Restore the conversation to its state before a run that did not start."""
        if plan.continued is not None:
            self._conversations.rollback(plan.continued)

    def _planned(
        self,
        continued: ContinuedTurn,
        parsed: ParsedRequest,
        model: Model,
        ignored: tuple[str, ...],
        takes: Takes,
    ) -> Plan:
        turns, warning = continued.turns, ""
        if continued.pending is not None:
            if (answers := decision(parsed.user_text, continued.pending)) is None:
                question = TextDelta(without_decision(continued.history[-1].content))
                again = replace(continued.pending, reference=continued.reference)
                return Plan(turns, ignored, continued, (question, again, TurnEnded()))
            turns = (resume_turn(turns[0], answers, continued.pending),)
        elif continued.is_late and decision(parsed.user_text, _ANY_QUESTION) is not None:
            late = (TextDelta(LATE_ANSWER), TurnEnded())
            return Plan(turns, ignored, continued, late, is_recorded=False)
        else:
            continued, warning = self._with_attachments(continued, parsed, takes)
            turns = continued.turns
        turns, more = _fitted(turns, parsed, model, continued.request.user)
        return Plan(turns, (*ignored, *more), continued, warning=warning)

    def _with_attachments(
        self, continued: ContinuedTurn, parsed: ParsedRequest, takes: Takes
    ) -> tuple[ContinuedTurn, str]:
        """The turn with its attachments, and a warning about omitted parts."""
        first, length = continued.turns[0], len(continued.history)
        fit = self._attachments.fitted(
            continued.request.attachments, first.history, length, takes, first.chat_id
        )
        turns = []
        for turn in continued.turns:
            question, history = with_attached(fit.documents, turn.question), fit.history
            if continued.history_in_question:
                question, history = transcript_as_text(history, question), ()
            turns.append(replace(turn, question=question, history=history, uploads=fit.uploads))
        warning = left_out_warning((*parsed.left_out, *fit.left_out))
        return replace(continued, turns=tuple(turns), documents=fit.documents), warning


def at_server(plan: Plan, server_of_session: Callable[..., str]) -> Plan:
    """The plan with a server for its session, unless the conversation already has one."""
    continued = plan.continued
    if continued is None or plan.turns[0].server:
        return plan
    server = server_of_session(is_new=continued.taken is None)
    if not server:
        return plan
    turns, placed = (
        tuple(replace(turn, server=server) for turn in turns) for turns in (plan.turns, continued.turns)
    )
    return replace(plan, turns=turns, continued=replace(continued, turns=placed))


def transcript_as_text(history: History, question: str) -> str:
    """Earlier turns and the question as one text, for flows without history and memory."""
    if not history:
        return question
    names = {"userMessage": "User", "apiMessage": "Assistant"}
    texts = "\n\n".join(f"{names[message.role]}: {message.text}" for message in history)
    return f"[Earlier conversation]\n{texts}\n[End of earlier conversation]\n\n{question}"


def history_mode(model: Model) -> HistoryMode:
    """How a flow receives earlier turns: as configured in `proxy.yaml`, otherwise according to its type."""
    if model.history in ("session", "messages", "question"):
        return model.history  # type: ignore[return-value]
    if model.has_memory:
        return "session"
    sees_none = model.type in ("CHATFLOW", "ASSISTANT") or model.chains_models
    return "question" if model.has_memory is False and sees_none else "messages"


_ANY_QUESTION = HumanInputRequested({}, ())


def _fitted(
    turns: Sequence[Turn], parsed: ParsedRequest, model: Model, user: str
) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    fits = [with_overrides(turn, model, parsed.parameters, user, parsed.passed) for turn in turns]
    # Flowise accepts a form or a question, so with a form the messages are ignored.
    unread = ("messages",) if parsed.passed.get("form") and parsed.user_text else ()
    return tuple(fit.turn for fit in fits), (*unread, *fits[0].ignored)


def _allowed(parsed: ParsedRequest, caller: Caller) -> tuple[ParsedRequest, tuple[str, ...]]:
    """The request without Flowise's own fields if the caller may not set them, and their names."""
    if caller.overrides or not parsed.passed:
        return parsed, ()
    # Every caller may identify its conversation by a session id.
    names = [n for n, value in parsed.passed.items() if n != "overrideConfig" or set(value) - {"sessionId"}]
    if "form" in names and not (parsed.user_text or parsed.turns[0].history):
        raise BadRequest("This key may not send a form, and the messages contain no text.", param="messages")
    return replace(parsed, passed={}), tuple(names)


def _conversation_request(
    parsed: ParsedRequest, model: Model, caller: Caller, header: Callable[[str], str | None]
) -> ConversationRequest:
    conversation = parsed.conversation or _first(header, CONVERSATION_HEADERS)
    text = parsed.turns[0].system_text
    return ConversationRequest(
        caller.scope or caller.name,
        # Two Flowises may have the same flow, but not each other's sessions.
        model.flow if model.flowise == DEFAULT_FLOWISE else f"{model.flowise}/{model.flow}",
        history_mode(model),
        parsed.turns,
        parsed.user_text,
        parsed.attachments,
        conversation,
        user_of(parsed, header),
        resends=parsed.resends or not parsed.conversation,
        is_single_user=caller.single_user,
        previous=parsed.previous_response_id,
        # No text is stored for a response with `store: false`, unless it is in a named conversation.
        stores_texts=parsed.store or bool(parsed.conversation or not parsed.echo),
        has_preamble=not takes_system_text(model, text, parsed.passed),
        # Sequential agents drop a history whose length differs from that of their memory
        # (docs/reference/flowise.md, Memory).
        holds_prefix=model.type != "MULTIAGENT",
        chains_models=model.chains_models,
    )


def user_of(parsed: ParsedRequest, header: Callable[[str], str | None]) -> str:
    """The user id of a request, from its body or from a chat UI's header."""
    return parsed.user or _first(header, USER_HEADERS)


def _first(header: Callable[[str], str | None], names: Sequence[str]) -> str:
    """The first header with a value: LibreChat sends empty ones, and old versions send unfilled templates."""
    values = ((header(name) or "").strip() for name in names)
    return next((value for value in values if value and "{{" not in value), "")
