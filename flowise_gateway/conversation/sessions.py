"""Decides which Flowise session a request continues, and which earlier turns must be sent.

The client's transcript is authoritative. Flowise keeps conversations in sessions; for each session, the store
has a record under the fingerprint of its transcript. A request whose earlier turns have that fingerprint
takes the record (so no other request can) and sends only its question to the session. Any other request
starts a new session and sends its earlier turns. Only a run that ends normally stores a new record.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol
from uuid import UUID, uuid4

import orjson

from flowise_gateway.conversation.records import History, SessionRecord, TranscriptRecord
from flowise_gateway.flow.cooperative import slices, yield_between
from flowise_gateway.flow.events import HumanInputRequested
from flowise_gateway.flow.readable import readable
from flowise_gateway.flow.turn import Attachment, HistoryMessage, Turn
from flowise_gateway.openai.answer_text import DECISION

HistoryMode = Literal["session", "messages", "question"]

_FORM = "3"
"""Part of every key, so that records in the format of another version are not found."""

MAX_KEPT_BYTES = 256 * 1024
"""For clients that only send new messages, the newest messages up to this size are stored."""

_REFERENCE_CHARACTERS = len(" · 0123456789abcdef)")
_REFERENCE = re.compile(r" · ([0-9a-f]{16})\)")


class RecordStore(Protocol):
    """The part of a store that sessions need; nothing raises."""

    def get(self, key: str) -> bytes | None: ...

    def take(self, key: str) -> bytes | None:
        """Return a value and delete it; only one of several concurrent callers gets it."""

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Store a value unless there is one; returns whether it was stored."""

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None: ...


@dataclass(frozen=True, slots=True)
class ConversationRequest:
    """The part of a request that concerns its conversation.

    `user_text` is the question as the client sent it, empty if there is none. `conversation` and `user` are
    the client's ids; `resends`: clients with such an id always send the whole conversation;
    `is_single_user`: one person has the key. `previous` is the answer that the request continues, whose
    conversation is in `turns`. `stores_texts`: the texts of the conversation may be stored. `has_preamble`:
    the question contains the system text. `holds_prefix`: the flow uses the history of a request even if the
    session has memory. `chains_models`: not all of the flow's models see that history, so a new session gets
    it in the question, which the flow's memory keeps.
    """

    caller: str
    flow: str
    mode: HistoryMode
    turns: tuple[Turn, ...]
    user_text: str
    attachments: tuple[Attachment, ...] = ()
    conversation: str = ""
    user: str = ""
    resends: bool = False
    is_single_user: bool = False
    previous: str = ""
    stores_texts: bool = True
    has_preamble: bool = True
    holds_prefix: bool = True
    chains_models: bool = False

    @property
    def sends_all(self) -> bool:
        """Whether the request contains answers, and so the whole conversation."""
        return any(message.role == "apiMessage" for message in self.turns[0].history)

    @property
    def is_known(self) -> bool:
        """Whether it can be distinguished from other people's requests with the same text."""
        return bool(self.conversation or self.user or self.is_single_user)

    @property
    def system(self) -> str:
        """The fingerprint of the system text."""
        digest = hashlib.sha256()
        _add(digest, _trimmed(self.turns[0].system_text) if self.has_preamble else "")
        return digest.hexdigest()


class Outcome(NamedTuple):
    """The result of a run that ended normally: the answer as the client will resend it, and its question."""

    answer: str
    action: HumanInputRequested | None


@dataclass(frozen=True, slots=True)
class ContinuedTurn:
    """A request together with its conversation.

    `turns` have their session and the history to send, but no attachments yet. `history` is the whole
    transcript before the question, of which the session has the first `session_length` messages.
    `history_in_question`: the flow is to get the history as text, before the question; `documents` is the
    text of what was attached to the question. `pending` is the open question that the user may be answering;
    `is_late`: there was one, but its record is taken or expired. `reference` is shown with a question that
    this turn's run asks. `taken` is the session's record, with its key.
    """

    request: ConversationRequest
    turns: tuple[Turn, ...]
    history: History
    conversation: str
    reference: str
    pending: HumanInputRequested | None = None
    is_late: bool = False
    session_length: int = 0
    taken: tuple[str, bytes] | None = None
    history_in_question: bool = False
    documents: str = ""


class _Found(NamedTuple):
    """What the store has of a request's conversation; `taken` is its session's record, with its key."""

    request: ConversationRequest
    stored: TranscriptRecord | None
    taken: tuple[str, bytes] | None


class Conversations:
    """The sessions of all conversations, in a store that all workers share."""

    def __init__(
        self,
        store: RecordStore,
        secrets: Sequence[bytes],
        ttl_seconds: float,
        make_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        """Derive keys and session ids with the first of the secrets, which all workers have.

        What was stored with another one, before a rotation, is found, too.
        """
        self._store = store
        self._secret, *older = secrets
        self._older = [Conversations(store, [secret], ttl_seconds, make_id) for secret in older]
        self._ttl_seconds = ttl_seconds
        self._make_id = make_id

    def join(self, request: ConversationRequest) -> ContinuedTurn:
        """Find the conversation of a request: which session to use, and which history to send."""
        request, stored, taken = self._found(request)
        history = request.turns[0].history
        session = readable(SessionRecord.from_bytes, taken[1] if taken else None)
        known = stored or session or TranscriptRecord("")
        conversation = request.conversation or known.conversation or self._make_id()
        action = session.action if session else None
        pending = HumanInputRequested(action, tuple(session.choices)) if session and action else None
        in_text = request.mode == "question" or (request.mode == "session" and request.chains_models)
        continued = ContinuedTurn(
            request,
            request.turns,
            history,
            conversation,
            "" if request.is_known else self._mac("reference", conversation).hex()[:16],
            pending,
            is_late=session is None and _reference(history) is not None,
            session_length=min(session.held, len(history)) if session else 0,
            taken=taken,
            history_in_question=session is None and in_text,
        )
        return replace(continued, turns=self._placed(continued, session, is_first=stored is None))

    def _found(self, request: ConversationRequest) -> _Found:
        """The request with the turns that it leaves out, and what is stored of its conversation."""
        found = self._looked_up(request)
        for older in self._older:
            if found.stored is not None or found.taken is not None:
                break
            found = older._looked_up(request)
        if found.stored is None and found.taken is None and _names_conversation(request):
            return found._replace(stored=self._begun(request))
        return found

    def _looked_up(self, request: ConversationRequest) -> _Found:
        stored = self._stored_transcript(request)
        if stored is not None and not request.previous and not request.sends_all:
            request = _with_stored_turns(request, stored)
        key = self._key_of(request, stored)
        taken = self._store.take(key) if key else None
        return _Found(request, stored, (key, taken) if taken is not None else None)

    def _begun(self, request: ConversationRequest) -> TranscriptRecord | None:
        """Note that a conversation has begun; gives an empty record if it had before.

        It tells a second request, or one after a failure, that there is a first session.
        """
        if request.sends_all:
            return None
        empty = TranscriptRecord(request.conversation)
        key = self._texts_key(request, request.conversation)
        is_first = self._store.add(key, empty.to_bytes(), self._ttl_seconds, request.caller)
        return None if is_first else empty

    def record(self, continued: ContinuedTurn, outcomes: Sequence[Outcome], *names: str) -> None:
        """Store the state for the next request after all runs; its `previous` may be one of the names."""
        request, entries = continued.request, dict[str, bytes]()
        first: TranscriptRecord | None = None
        for turn, outcome in zip(continued.turns, outcomes, strict=True):
            history = _with_answer(continued, outcome.answer)
            key = ""
            if outcome.action or (request.mode == "session" and (request.holds_prefix or not turn.history)):
                key = self._session_key(self._scope(request, continued.reference), history, request)
                length = len(history)
                if not continued.history_in_question:
                    length += continued.session_length - len(continued.history)
                ids = turn.session_id or "", turn.chat_id, continued.conversation
                asked = outcome.action or HumanInputRequested({}, ())
                session = SessionRecord(*ids, length, asked.action or None, asked.choices, turn.server)
                entries[key] = orjson.dumps(session)
            if first is None:
                fingerprints = key, _fingerprint(history), request.system
                instructions = request.turns[0].instructions
                first = TranscriptRecord(continued.conversation, history, instructions, *fingerprints)
        texts_key = self._texts_key(request, continued.conversation)
        if first and request.stores_texts and not (request.resends and request.conversation):
            entries[texts_key] = replace(first, history=_newest(first.history)).to_bytes()
        if first and names:
            talk = "" if request.conversation else texts_key
            named = replace(first, history=(), instructions="", flow=request.flow, talk=talk).to_bytes()
            entries.update((self._answer_key(request.caller, name), named) for name in names)
        self._store.put(entries, self._ttl_seconds, request.caller)

    def also_name(self, caller: str, name: str, other: str) -> None:
        """Let an answer also be continued by another name; deleting that name deletes no texts."""
        answer = readable(TranscriptRecord.from_bytes, self._store.get(self._answer_key(caller, name)))
        if answer is not None:
            named = replace(answer, talk="").to_bytes()
            self._store.put({self._answer_key(caller, other): named}, self._ttl_seconds)

    def forget(self, caller: str, name: str) -> None:
        """Delete the record of an answer, and the texts of its conversation if they end with it."""
        answer = readable(TranscriptRecord.from_bytes, self._store.take(self._answer_key(caller, name)))
        for older in self._older:
            older.forget(caller, name)
        if answer is None or not answer.talk:
            return
        texts = readable(TranscriptRecord.from_bytes, self._store.get(answer.talk))
        if texts and texts.mark == answer.mark:
            self._store.take(answer.talk)

    def rollback(self, continued: ContinuedTurn) -> None:
        """Put the session's record back after a run that certainly did not start."""
        if continued.taken:
            self._store.put(dict([continued.taken]), self._ttl_seconds, continued.request.caller)

    def _stored_transcript(self, request: ConversationRequest) -> TranscriptRecord | None:
        """The stored conversation, if the request identifies it so that it may send only new messages."""
        if request.previous:
            raw = self._store.get(self._answer_key(request.caller, request.previous))
            stored = readable(TranscriptRecord.from_bytes, raw)
            return stored if stored and stored.flow == request.flow else None
        if not _names_conversation(request):
            return None
        raw = self._store.get(self._texts_key(request, request.conversation))
        return readable(TranscriptRecord.from_bytes, raw)

    def _key_of(self, request: ConversationRequest, stored: TranscriptRecord | None) -> str:
        """The key of the session record that this request may take; empty if it must start a new session."""
        history = request.turns[0].history
        reference = _reference(history)
        if not history or len(request.turns) > 1 or (request.mode != "session" and reference is None):
            return ""
        if stored and stored.link and stored.system == request.system:
            mark = stored.mark if request.previous else _fingerprint(stored.history)
            if mark == _fingerprint(history):  # the session has just what the request continues
                return stored.link
        if request.is_known:
            return self._session_key(self._scope(request), history, request)
        return self._session_key(self._scope(request, reference), history, request) if reference else ""

    def _placed(
        self, continued: ContinuedTurn, session: SessionRecord | None, *, is_first: bool
    ) -> tuple[Turn, ...]:
        """Give every turn its session, with the session's permanent chat id, and the history to send."""
        request, history = continued.request, continued.history
        sent_along = history[: len(history) - continued.session_length]
        is_named = _names_conversation(request)
        placed = []
        for number, turn in enumerate(request.turns):
            session_id = session.session if session else self._make_id()
            if is_named and is_first and not history and number == 0:
                # The first session of a conversation with an id of the client's is found without a record.
                mac = self._mac("session", self._scope(request))
                session_id = str(UUID(bytes=mac[:16], version=4))
            in_session = replace(turn, session_id=session_id, history=sent_along)
            if session:
                in_session = replace(in_session, chat_id=session.chat, server=session.server)
                if request.has_preamble:
                    in_session = replace(in_session, instructions="", rules="")
            placed.append(in_session)
        return tuple(placed)

    def _scope(self, request: ConversationRequest, reference: str = "") -> str:
        """The scope of a conversation, unique for caller, flow, user and conversation id."""
        conversation = request.conversation or reference
        return self._mac("scope", request.caller, request.flow, conversation, request.user).hex()

    def _session_key(self, scope: str, history: History, request: ConversationRequest) -> str:
        return "link:" + self._mac("link", scope, request.system, _fingerprint(history)).hex()

    def _texts_key(self, request: ConversationRequest, conversation: str) -> str:
        return "talk:" + self._mac("talk", request.caller, request.flow, conversation, request.user).hex()

    def _answer_key(self, caller: str, name: str) -> str:
        return "answer:" + self._mac("answer", caller, name).hex()

    def _mac(self, *parts: str) -> bytes:
        return hmac.digest(self._secret, orjson.dumps((_FORM, *parts)), "sha256")


def _names_conversation(request: ConversationRequest) -> bool:
    """Whether it names a conversation in a way that lets it send only new messages."""
    return bool(request.conversation) and not request.resends and not request.previous


def _with_stored_turns(request: ConversationRequest, stored: TranscriptRecord) -> ConversationRequest:
    """The request with the earlier turns; a system text applies until another one is sent."""
    before = len(stored.history)
    turns = tuple(
        replace(t, history=stored.history + t.history, instructions=t.instructions or stored.instructions)
        for t in request.turns
    )
    moved = tuple(replace(a, position=a.position + before) for a in request.attachments)
    return replace(request, turns=turns, attachments=moved)


def _with_answer(continued: ContinuedTurn, answer: str) -> History:
    """The transcript as the client will resend it."""
    request, length = continued.request, len(continued.history)
    files = tuple(a.digest for a in request.attachments if a.position >= length)
    question = HistoryMessage("userMessage", request.user_text, files, continued.documents)
    new = (question, HistoryMessage("apiMessage", answer))
    return continued.history + tuple(message for message in new if message.content)


def _newest(history: History) -> History:
    size = 0
    for number, message in enumerate(reversed(history)):
        size += len(message.content) + len(message.attached)
        if size > MAX_KEPT_BYTES:
            return history[len(history) - number :]
    return history


def _reference(history: History) -> str | None:
    """The reference in the open question at the end of the history, may be empty; None if there is none."""
    if not history or history[-1].role != "apiMessage":
        return None
    line = history[-1].content.rstrip().rpartition("\n")[2]
    if DECISION not in line or not line.endswith(")"):
        return None
    found = _REFERENCE.fullmatch(line[-_REFERENCE_CHARACTERS:])
    return found[1] if found else ""


def _fingerprint(history: History) -> str:
    """A digest that is equal only for equal texts and attachments."""
    digest = hashlib.sha256()
    for message in yield_between(history):
        text = _trimmed(message.content)
        digest.update(orjson.dumps([message.role, len(text), *message.files]))
        _add(digest, text)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, text: str) -> None:
    for part in slices(text):
        digest.update(part.encode())


def _trimmed(text: str) -> str:
    """A text as all clients resend it: LibreChat trims answers, others change line breaks."""
    return text.replace("\r\n", "\n").strip()
