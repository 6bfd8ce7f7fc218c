"""Which Flowise session a request continues, and what must go along. Policy.

The client's transcript is the truth. Flowise keeps a conversation by session; the store keeps, for each
session, the fingerprint of the transcript which that session holds. A request whose earlier turns fingerprint
to exactly that takes the record (nobody else can then) and continues the session with its question alone; any
other begins a new session and brings the earlier turns along. Only a run that ended normally leaves a record.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID, uuid4

import orjson

from flowise_gateway.flow.cooperative import slices, yield_between
from flowise_gateway.flow.events import HumanInputRequested
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.turn import Attachment, HistoryMessage, Turn
from flowise_gateway.openai.answer_text import DECISION

History = tuple[HistoryMessage, ...]
HistoryMode = Literal["session", "messages", "question"]

_FORM = "3"
"""Goes into every key: records that a version of ours wrote in another form are not found."""

_SHORT_BYTES = 1024
MAX_KEPT_BYTES = 256 * 1024
"""Of a conversation kept for a client that sends only what is new, the newest messages of this size."""

_REFERENCE_CHARACTERS = len(" · 0123456789abcdef)")
_REFERENCE = re.compile(r" · ([0-9a-f]{16})\)")


class RecordStore(Protocol):
    """What is asked of a store; nothing raises."""

    def get(self, key: str) -> bytes | None:
        """Return a value."""

    def take(self, key: str) -> bytes | None:
        """Return a value and delete it; of several that ask at once one alone gets it."""

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Put a value where there is none."""

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Put values."""


@dataclass(frozen=True, slots=True)
class ConversationRequest:
    """A request as far as its conversation goes.

    `said` is the question as the client has it, empty if none. `conversation` and `user` are the client's
    ids; `resends` tells that a client with such an id sends the whole conversation each time,
    `is_single_user` that one person alone has the key. `previous` is an answer that the request goes on
    from, whose whole conversation the request holds. `keeps_texts` tells that the store may hold what was
    said. `has_preamble` tells that a system text travels in the question, `holds_prefix` that the flow still
    heeds earlier turns sent along when its session holds some, `folds` that not all of its models see those:
    its new sessions get them in the question, which their memory keeps.
    """

    caller: str
    flow: str
    way: HistoryMode
    turns: tuple[Turn, ...]
    said: str
    attachments: tuple[Attachment, ...] = ()
    conversation: str = ""
    user: str = ""
    resends: bool = False
    is_single_user: bool = False
    previous: str = ""
    keeps_texts: bool = True
    has_preamble: bool = True
    holds_prefix: bool = True
    folds: bool = False

    @property
    def sends_all(self) -> bool:
        """Whether the request holds answers, and so the conversation."""
        return any(message.role == "apiMessage" for message in self.turns[0].history)

    @property
    def is_known(self) -> bool:
        """Whether it can be told from other people's requests with the same words."""
        return bool(self.conversation or self.user or self.is_single_user)


class Outcome(NamedTuple):
    """What a run that ended normally left: the answer as the client will send it back, and its question."""

    answer: str
    action: HumanInputRequested | None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session and its chat, how many of the transcript's messages it holds, the decision it waits for."""

    session: str
    chat: str
    conversation: str
    held: int
    action: Mapping[str, Any] | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TranscriptRecord:
    """A conversation as it is kept for clients that send only what is new, and the link of its session.

    `mark` and `system` stand for all texts and for the system text. Under an answer that may be gone on from
    they are all there is of these: the request brings the texts along. There `flow` is the answer's, and
    `talk` the key of its conversation, empty if the client has a name for that.
    """

    conversation: str
    history: History = ()
    instructions: str = ""
    link: str = ""
    mark: str = ""
    system: str = ""
    flow: str = ""
    talk: str = ""

    def of_answer(self, asked: ConversationRequest, talk: str) -> TranscriptRecord:
        """What is kept under the name of the answer: no text."""
        talk = "" if asked.conversation else talk
        return replace(self, history=(), instructions="", flow=asked.flow, talk=talk)

    def written(self) -> bytes:
        raw = orjson.dumps(self)
        return zlib.compress(raw, 1) if len(raw) > _SHORT_BYTES else raw

    @classmethod
    def read(cls, raw: bytes) -> TranscriptRecord:
        value = orjson.loads(raw if raw.startswith(b"{") else zlib.decompress(raw))
        messages = (HistoryMessage(**{**m, "files": tuple(m["files"])}) for m in value["history"])
        return cls(**{**value, "history": tuple(messages)})


@dataclass(frozen=True, slots=True)
class ContinuedTurn:
    """A request joined with its conversation.

    `turns` have their session and the history to send, but nothing that was attached yet; `is_folded` tells
    that their flow is to be told of it in the question, `documents` what was attached to that, as text.
    `history` is the whole transcript before the question. `pending` is a decision
    that the question may be the answer to; `is_late` tells that one was asked for, but is taken or forgotten.
    `reference` is to be shown with a decision that this exchange asks for.
    """

    asked: ConversationRequest
    turns: tuple[Turn, ...]
    history: History
    conversation: str
    reference: str
    pending: HumanInputRequested | None = None
    is_late: bool = False
    held: int = 0
    taken: tuple[str, bytes] | None = None
    is_folded: bool = False
    documents: str = ""


class Conversations:
    """The sessions of all conversations, over a store that all workers share."""

    def __init__(
        self,
        links: RecordStore,
        secret: bytes,
        ttl_seconds: float,
        make_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        """Derive keys and session ids with `secret`, which is the same for all workers."""
        self._links = links
        self._secret = secret
        self._ttl_seconds = ttl_seconds
        self._make_id = make_id

    def join(self, asked: ConversationRequest) -> ContinuedTurn:
        """Join a request with its conversation: which session to send it to, and what goes along."""
        kept = self._kept(asked)
        if kept is not None and not asked.previous and not asked.sends_all:
            asked = _with_kept_turns(asked, kept)
        history = asked.turns[0].history
        key = self._key_of(asked, history, kept)
        taken = self._links.take(key) if key else None
        link = SessionRecord(**orjson.loads(taken)) if taken else None
        is_folded = link is None and (asked.way == "question" or (asked.way == "session" and asked.folds))
        conversation = (
            asked.conversation or (kept or link or TranscriptRecord("")).conversation or self._make_id()
        )
        exchange = ContinuedTurn(
            asked,
            asked.turns,
            history,
            conversation,
            "" if asked.is_known else self._mac("reference", conversation).hex()[:16],
            HumanInputRequested(link.action, tuple(link.choices)) if link and link.action else None,
            is_late=link is None and _reference(history) is not None,
            held=min(link.held, len(history)) if link else 0,
            taken=(key, taken) if key and taken else None,
            is_folded=is_folded,
        )
        return replace(exchange, turns=self._placed(exchange, link, is_first=kept is None))

    def record(self, exchange: ContinuedTurn, outcomes: Sequence[Outcome], *also_under: str) -> None:
        """Keep what the next request needs, after all runs ended normally.

        `also_under` are the names of the answer that later requests may give as `previous`.
        """
        asked, entries = exchange.asked, dict[str, bytes]()
        first: TranscriptRecord | None = None
        for turn, outcome in zip(exchange.turns, outcomes, strict=True):
            history = _with_turn(exchange, outcome.answer)
            key = ""
            if outcome.action or (asked.way == "session" and (asked.holds_prefix or not turn.history)):
                key = self._link_key(self._scope(asked, exchange.reference), history, asked)
                entries[key] = self._written_link(exchange, turn, len(history), outcome.action)
            first = first or _transcript_record(exchange, history, key)
        talk = self._talk_key(asked, exchange.conversation)
        if first and asked.keeps_texts and not (asked.resends and asked.conversation):
            entries[talk] = replace(first, history=_newest(first.history)).written()
        if first and also_under:
            named = first.of_answer(asked, talk).written()
            entries.update((self._answer_key(asked.caller, name), named) for name in also_under)
        self._links.put(entries, self._ttl_seconds, asked.caller)

    def also_name(self, caller: str, name: str, other: str) -> None:
        """Let an answer be gone on from by another name too; deleting that one deletes no text."""
        raw = self._links.get(self._answer_key(caller, name))
        if raw is not None:
            answer = replace(TranscriptRecord.read(raw), talk="")
            self._links.put({self._answer_key(caller, other): answer.written()}, self._ttl_seconds)

    def forget(self, caller: str, name: str) -> None:
        """Delete what is kept under an answer's name, and its conversation's texts if they end with it."""
        raw = self._links.take(self._answer_key(caller, name))
        answer = TranscriptRecord.read(raw) if raw else None
        talk = self._links.get(answer.talk) if answer and answer.talk else None
        if answer and talk and TranscriptRecord.read(talk).mark == answer.mark:
            self._links.take(answer.talk)

    def rollback(self, exchange: ContinuedTurn) -> None:
        """Put back what was taken, after a run that certainly did not begin: the session is as it was."""
        if exchange.taken:
            self._links.put(dict([exchange.taken]), self._ttl_seconds, exchange.asked.caller)

    def _written_link(
        self, exchange: ContinuedTurn, turn: Turn, length: int, action: HumanInputRequested | None
    ) -> bytes:
        held = length if exchange.is_folded else exchange.held + length - len(exchange.history)
        asks = (action.action, action.choices) if action else (None, ())
        link = SessionRecord(turn.session_id or "", turn.chat_id, exchange.conversation, held, *asks)
        return orjson.dumps(link)

    def _kept(self, asked: ConversationRequest) -> TranscriptRecord | None:
        """The kept conversation that a request names in a way that lets it send only what is new."""
        if asked.previous:
            raw = self._links.get(self._answer_key(asked.caller, asked.previous))
            kept = TranscriptRecord.read(raw) if raw else None
            return kept if kept and kept.flow == asked.flow else None
        if not asked.conversation or asked.resends:
            return None
        key = self._talk_key(asked, asked.conversation)
        raw = self._links.get(key)
        if raw is None and not asked.sends_all:
            # The mark tells a second request, or one after a failure, that the first session is begun.
            mark = TranscriptRecord(asked.conversation)
            is_first = self._links.add(key, mark.written(), self._ttl_seconds, asked.caller)
            return None if is_first else mark
        return TranscriptRecord.read(raw) if raw else None

    def _key_of(self, asked: ConversationRequest, history: History, kept: TranscriptRecord | None) -> str:
        """The key of the link that this request may take; empty if it must begin a new session."""
        reference = _reference(history)
        if not history or len(asked.turns) > 1 or (asked.way != "session" and reference is None):
            return ""
        if kept and kept.link and self._is_of(kept, asked, history):
            return kept.link
        if asked.is_known:
            return self._link_key(self._scope(asked), history, asked)
        return self._link_key(self._scope(asked, reference), history, asked) if reference else ""

    @staticmethod
    def _is_of(kept: TranscriptRecord, asked: ConversationRequest, history: History) -> bool:
        """Whether the session of a kept conversation holds just what the request goes on from."""
        told = _fingerprint(history) == (kept.mark if asked.previous else _fingerprint(kept.history))
        return told and _system(asked) == kept.system

    def _placed(
        self, exchange: ContinuedTurn, link: SessionRecord | None, *, is_first: bool
    ) -> tuple[Turn, ...]:
        """Give every turn its session, with the chat that this has for life, and the history to send."""
        asked, history = exchange.asked, exchange.history
        before = history[: len(history) - exchange.held]
        named = asked.conversation and not asked.resends and not asked.previous
        placed = []
        for number, turn in enumerate(asked.turns):
            session = link.session if link else self._make_id()
            if named and is_first and not history and number == 0:
                session = self._derived(asked)
            placed.append(
                replace(
                    turn,
                    session_id=session,
                    chat_id=link.chat if link else turn.chat_id,
                    history=before,
                    instructions="" if link and asked.has_preamble else turn.instructions,
                    rules="" if link and asked.has_preamble else turn.rules,
                )
            )
        return tuple(placed)

    def _derived(self, asked: ConversationRequest) -> str:
        """The first session of a conversation that the client names: found again without any record."""
        return str(UUID(bytes=self._mac("session", self._scope(asked))[:16], version=4))

    def _scope(self, asked: ConversationRequest, reference: str = "") -> str:
        """Whose conversation it is; no two callers, flows, users or conversations share one."""
        conversation = asked.conversation or reference
        return self._mac("scope", asked.caller, asked.flow, conversation, asked.user).hex()

    def _link_key(self, scope: str, history: History, asked: ConversationRequest) -> str:
        return "link:" + self._mac("link", scope, _system(asked), _fingerprint(history)).hex()

    def _talk_key(self, asked: ConversationRequest, conversation: str) -> str:
        return "talk:" + self._mac("talk", asked.caller, asked.flow, conversation, asked.user).hex()

    def _answer_key(self, caller: str, name: str) -> str:
        return "answer:" + self._mac("answer", caller, name).hex()

    def _mac(self, *parts: str) -> bytes:
        return hmac.digest(self._secret, orjson.dumps((_FORM, *parts)), "sha256")


def transcript_as_text(history: History, question: str) -> str:
    """Earlier turns and the question in one text, for flows that know neither history nor memory."""
    if not history:
        return question
    names = {"userMessage": "User", "apiMessage": "Assistant"}
    told = "\n\n".join(f"{names[message.role]}: {message.text}" for message in history)
    return f"[Earlier conversation]\n{told}\n[End of earlier conversation]\n\n{question}"


def history_mode(model: Model) -> HistoryMode:
    """How a flow is told of earlier turns: as `proxy.yaml` says, else as its kind needs it."""
    if model.history in ("session", "messages", "question"):
        return model.history  # type: ignore[return-value]
    if model.has_memory:
        return "session"
    sees_none = model.type in ("CHATFLOW", "ASSISTANT") or model.chains_models
    return "question" if model.has_memory is False and sees_none else "messages"


def _with_kept_turns(asked: ConversationRequest, kept: TranscriptRecord) -> ConversationRequest:
    """The request with what was said before it; a system text goes on until another one is sent."""
    before = len(kept.history)
    turns = tuple(
        replace(
            turn, history=kept.history + turn.history, instructions=turn.instructions or kept.instructions
        )
        for turn in asked.turns
    )
    moved = tuple(replace(a, position=a.position + before) for a in asked.attachments)
    return replace(asked, turns=turns, attachments=moved)


def _transcript_record(exchange: ContinuedTurn, history: History, link: str) -> TranscriptRecord:
    """The conversation after an exchange, with the key of its session's link."""
    asked = exchange.asked
    instructions, system = asked.turns[0].instructions, _system(asked)
    return TranscriptRecord(exchange.conversation, history, instructions, link, _fingerprint(history), system)


def _with_turn(exchange: ContinuedTurn, answer: str) -> History:
    """The transcript as the client will send it back."""
    asked, length = exchange.asked, len(exchange.history)
    files = tuple(a.digest for a in asked.attachments if a.position >= length)
    new = (
        HistoryMessage("userMessage", asked.said, files, exchange.documents),
        HistoryMessage("apiMessage", answer),
    )
    return exchange.history + tuple(message for message in new if message.content)


def _newest(history: History) -> History:
    size = 0
    for number, message in enumerate(reversed(history)):
        size += len(message.content) + len(message.attached)
        if size > MAX_KEPT_BYTES:
            return history[len(history) - number :]
    return history


def _reference(history: History) -> str | None:
    """The reference in a question for a decision that ends the history, if any; None for no question."""
    if not history or history[-1].role != "apiMessage":
        return None
    line = history[-1].content.rstrip().rpartition("\n")[2]
    if DECISION not in line or not line.endswith(")"):
        return None
    found = _REFERENCE.fullmatch(line[-_REFERENCE_CHARACTERS:])
    return found[1] if found else ""


def _fingerprint(history: History) -> str:
    """What stands for all that was said, and attached."""
    digest = hashlib.sha256()
    for message in yield_between(history):
        text = _trimmed(message.content)
        digest.update(orjson.dumps([message.role, len(text), *message.files]))
        _add(digest, text)
    return digest.hexdigest()


def _system(asked: ConversationRequest) -> str:
    """What stands for the system text."""
    digest = hashlib.sha256()
    _add(digest, _trimmed(asked.turns[0].system_text) if asked.has_preamble else "")
    return digest.hexdigest()


def _add(digest: hashlib._Hash, text: str) -> None:
    for part in slices(text):
        digest.update(part.encode())


def _trimmed(text: str) -> str:
    """A text as all clients send it back: LibreChat trims answers, others change line ends."""
    return text.replace("\r\n", "\n").strip()
