"""Which session a request continues: against a Flowise that keeps sessions as the real one does."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowise_gateway.conversation.planner import history_mode, transcript_as_text
from flowise_gateway.conversation.sessions import (
    MAX_KEPT_BYTES,
    ContinuedTurn,
    ConversationRequest,
    Conversations,
    HistoryMode,
    Outcome,
)
from flowise_gateway.flow.events import HumanInputRequested
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.turn import Attachment, HistoryMessage, Turn, Upload
from flowise_gateway.storage.memory_store import MemoryStore
from flowise_gateway.storage.store import WatchedStore

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"
Message = tuple[str, str]
ROLES = {"userMessage": "user", "apiMessage": "assistant"}


@dataclass
class Flowise:
    """Sessions as Flowise keeps them: what was asked and answered; `history` is shown, but never stored."""

    sessions: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    seen: list[Message] = field(default_factory=list)

    def run(self, turn: Turn, answer: str) -> str:
        """Run a turn, and keep what its model saw."""
        assert turn.session_id
        memory = self.sessions[turn.session_id]
        sent = [(ROLES[message.role], message.content) for message in turn.history]
        question = f"[{turn.instructions}] {turn.question}" if turn.instructions else turn.question
        self.seen = [*sent, *memory, ("user", question)]
        memory += [("user", question), ("assistant", answer)]
        return answer


@dataclass
class Client:
    """Somebody who talks to a flow, in the way that `more` says."""

    conversations: Conversations
    flowise: Flowise
    way: HistoryMode = "session"
    more: dict[str, Any] = field(default_factory=lambda: {"is_single_user": True})
    system: str = ""

    def begin(self, transcript: Sequence[Message], said: str, **more: Any) -> ContinuedTurn:
        """Begin a request with this transcript before its question."""
        names = {role: name for name, role in ROLES.items()}
        history = tuple(HistoryMessage(names[role], text) for role, text in transcript)  # type: ignore[arg-type]
        turn = Turn(FLOW, said or "Go on.", history, self.system)
        asked = ConversationRequest("key", FLOW, self.way, (turn,), said)
        return self.conversations.join(replace(asked, **{**self.more, **more}))

    def end(self, exchange: ContinuedTurn, answer: str, action: HumanInputRequested | None = None) -> None:
        """Run a begun request to its normal end."""
        self.flowise.run(exchange.turns[0], answer)
        self.conversations.record(exchange, [Outcome(answer.strip(), action)])

    def ask(self, transcript: list[Message], said: str, answer: str, **more: Any) -> list[Message]:
        """Ask and be answered; the transcript after it."""
        exchange = self.begin(transcript, said, **more)
        self.end(exchange, answer)
        return [*transcript, ("user", said), ("assistant", answer.strip())]


def conversations(store: MemoryStore | None = None, secret: bytes = b"s" * 32) -> Conversations:
    """Conversations over a store of their own."""
    return Conversations(store or MemoryStore(), [secret], 3600)


@pytest.fixture
def client() -> Client:
    """The only user of a key."""
    return Client(conversations(), Flowise())


def test_a_conversation_continues_its_session_with_the_question_alone(client: Client) -> None:
    talk: list[Message] = []
    for number in range(6):
        talk = client.ask(talk, f"q{number}", f"a{number} ")
        seen = [(role, text.strip()) for role, text in client.flowise.seen]
        assert seen == talk[:-1]
    assert len(client.flowise.sessions) == 1


def test_an_edited_conversation_is_remembered_in_every_later_turn(client: Client) -> None:
    talk: list[Message] = []
    for number in range(3):
        talk = client.ask(talk, f"q{number}", f"a{number}")
    talk = talk[:2]
    for number in range(3):
        talk = client.ask(talk, f"edited {number}", f"new {number}")
        assert client.flowise.seen == talk[:-1]
    assert len(client.flowise.sessions) == 2


@pytest.mark.parametrize("seed", range(20))
def test_what_the_model_sees_is_the_clients_transcript_whatever_the_client_does(seed: int) -> None:
    """Fork, edit, regenerate, leave, send twice at once, two people at a time: 25 sequences a seed."""
    dice = random.Random(seed)  # noqa: S311 - a dice
    for _ in range(25):
        flowise, kept = Flowise(), conversations()
        client = Client(kept, flowise, dice.choice(["session", "messages"]))
        branches: list[list[Message]] = [[]]
        for step in range(dice.randrange(4, 14)):
            talk = dice.choice(branches)
            talk = talk[: 2 * dice.randrange(len(talk) // 2 + 1)] if dice.random() < 0.4 else talk
            said = dice.choice(["again", f"q{step}"])
            exchange = client.begin(talk, said)
            if dice.random() < 0.2:  # the client leaves: Flowise runs on, we keep nothing
                flowise.run(exchange.turns[0], "never seen")
                continue
            twin = client.begin(talk, said) if dice.random() < 0.2 else None
            for one in filter(None, (exchange, twin)):
                answer = dice.choice(["same", f"a{step}"])
                client.end(one, answer)
                assert flowise.seen == [*talk, ("user", said)]
                branches.append([*talk, ("user", said), ("assistant", answer)])


def test_a_run_that_did_not_begin_leaves_its_session_as_it_was(client: Client) -> None:
    talk = client.ask([], "q", "a")
    exchange = client.begin(talk, "again")
    client.conversations.rollback(exchange)
    assert client.begin(talk, "again").turns[0].session_id == exchange.turns[0].session_id
    client.conversations.rollback(client.begin([], "first"))  # it took nothing


def test_of_two_requests_at_once_the_second_brings_its_history(client: Client) -> None:
    talk = client.ask([], "q", "a")
    first, second = client.begin(talk, "x"), client.begin(talk, "x")
    assert first.turns[0].session_id != second.turns[0].session_id
    assert first.turns[0].history == ()
    assert [message.content for message in second.turns[0].history] == ["q", "a"]


def test_several_choices_each_begin_a_session_and_each_can_be_gone_on_with(client: Client) -> None:
    talk = client.ask([], "q", "a")
    begun = client.begin(talk, "x")
    turns = (begun.turns[0], replace(begun.turns[0], chat_id="other"))
    client.conversations.rollback(begun)
    exchange = client.begin(talk, "x", turns=tuple(replace(t, history=begun.history) for t in turns))
    sessions = [turn.session_id for turn in exchange.turns]
    assert len(set(sessions)) == 2
    client.conversations.record(exchange, [Outcome("one", None), Outcome("two", None)])
    goes_on = client.begin([*talk, ("user", "x"), ("assistant", "two")], "y")
    assert goes_on.turns[0].session_id == sessions[1]


def test_a_client_that_changes_spaces_around_texts_still_goes_on(client: Client) -> None:
    client.ask([], "line\r\nline ", " a \n")
    exchange = client.begin([("user", "line\nline"), ("assistant", "a")], "next")
    assert exchange.turns[0].history == ()


# Who is who


@pytest.mark.parametrize(
    "other",
    [
        {"caller": "other key"},
        {"flow": "another flow"},
        {"user": "bob"},
        {"conversation": "c2"},
        {"conversation": "", "user": ""},
    ],
)
def test_two_people_with_the_same_words_never_share_a_session(client: Client, other: dict[str, str]) -> None:
    client.more = {"user": "ann", "conversation": "c1", "resends": True}
    talk = client.ask([], "q", "a")
    stranger = client.begin(talk, "x", **other)
    owner = client.begin(talk, "x")
    assert stranger.turns[0].session_id != owner.turns[0].session_id
    assert len(stranger.turns[0].history) == 2
    assert owner.turns[0].history == ()


def test_a_key_of_many_without_any_id_never_continues(client: Client) -> None:
    client.more = {}
    talk = client.ask([], "q", "a")
    exchange = client.begin(talk, "x")
    assert len(exchange.turns[0].history) == 2
    assert exchange.turns[0].session_id not in client.flowise.sessions


def test_session_ids_can_be_neither_chosen_nor_derived_without_the_secret() -> None:
    ids = set()
    for secret in (b"a" * 32, b"b" * 32):
        client = Client(conversations(secret=secret), Flowise(), more={"conversation": "c1"})
        first = client.begin([], "q").turns[0].session_id
        other = client.begin([], "q", caller="another", conversation="c1").turns[0].session_id
        ids |= {first, other}
    assert len(ids) == 4
    assert "c1" not in ids


# Only the new message


@pytest.mark.parametrize("way", ["session", "messages"])
def test_a_client_that_sends_only_what_is_new_goes_on(client: Client, way: HistoryMode) -> None:
    client.way, client.more = way, {"conversation": "c1"}
    whole: list[Message] = []
    for number in range(6):
        client.ask([], f"q{number}", f"a{number}")
        whole += [("user", f"q{number}")]
        assert client.flowise.seen == whole
        whole += [("assistant", f"a{number}")]


def test_its_first_session_is_found_again_without_any_record() -> None:
    flowise = Flowise()
    for number in range(2):
        client = Client(conversations(MemoryStore()), flowise, more={"conversation": "c1"})
        client.ask([], f"q{number}", f"a{number}")
    assert flowise.seen == [("user", "q0"), ("assistant", "a0"), ("user", "q1")]


def test_after_a_run_that_broke_it_goes_on_with_what_it_was_answered(client: Client) -> None:
    client.more = {"conversation": "c1"}
    client.ask([], "q0", "a0")
    client.flowise.run(client.begin([], "lost").turns[0], "never seen")
    client.ask([], "q1", "a1")
    assert client.flowise.seen == [("user", "q0"), ("assistant", "a0"), ("user", "q1")]


def test_after_a_first_run_that_broke_it_begins_anew(client: Client) -> None:
    client.more = {"conversation": "c1"}
    client.flowise.run(client.begin([], "lost").turns[0], "never seen")
    client.ask([], "q1", "a1")
    assert client.flowise.seen == [("user", "q1")]


def test_it_may_send_all_at_any_time(client: Client) -> None:
    client.more = {"conversation": "c1"}
    talk = client.ask([], "q0", "a0")
    talk = client.ask(talk, "q1", "a1")
    client.ask([], "q2", "a2")
    assert client.flowise.seen == [*talk, ("user", "q2")]
    assert len(client.flowise.sessions) == 1


def test_ids_of_clients_that_resend_all_begin_a_new_branch(client: Client) -> None:
    client.more = {"conversation": "c1", "resends": True}
    client.ask([], "q", "a")
    client.ask([], "other", "b")
    assert client.flowise.seen == [("user", "other")]


def test_a_conversation_id_that_we_made_can_be_sent_back(client: Client) -> None:
    client.more = {}
    first = client.begin([], "q0")
    client.end(first, "a0")
    client.ask([], "q1", "a1", conversation=first.conversation)
    assert client.flowise.seen == [("user", "q0"), ("assistant", "a0"), ("user", "q1")]
    assert len(client.flowise.sessions) == 1
    client.ask([("user", "q0"), ("assistant", "a0"), ("user", "q1"), ("assistant", "a1")], "q2", "a2",
               conversation=first.conversation)  # fmt: skip
    assert len(client.flowise.sessions) == 1


def test_of_a_long_conversation_the_newest_turns_are_kept(client: Client) -> None:
    client.way, client.more = "messages", {"conversation": "c1"}
    long = "x" * (MAX_KEPT_BYTES // 2)
    for number in range(3):
        client.ask([], f"q{number}", long)
    client.ask([], "last", "a")
    assert [text for _, text in client.flowise.seen] == [long, "last"] or len(client.flowise.seen) < 6


def test_a_session_has_one_chat_for_its_whole_life(client: Client) -> None:
    talk: list[Message] = []
    chats = []
    for number in range(4):
        exchange = client.begin(talk, f"q{number}")
        client.end(exchange, f"a{number}")
        chats.append(exchange.turns[0].chat_id)
        talk = [*talk, ("user", f"q{number}"), ("assistant", f"a{number}")]
    assert len(set(chats)) == 1
    first = client.begin(talk, "now")  # taken, and nobody else can have it
    second, edited = client.begin(talk, "now"), client.begin(talk[:4], "edited")
    again = client.begin([], "q0")
    assert first.turns[0].chat_id == chats[0]
    assert len({chats[0], *(each.turns[0].chat_id for each in (second, edited, again))}) == 4


def test_a_run_that_did_not_end_leaves_its_chat_to_nobody(client: Client) -> None:
    talk = client.ask([], "q0", "a0")
    left = client.begin(talk, "left")  # Flowise runs on under this chat
    assert client.begin(talk, "left").turns[0].chat_id != left.turns[0].chat_id


def attached(name: str, position: int) -> Attachment:
    """A picture of a message."""
    return Attachment(Upload("file", name, "image/png", "data:"), "p", position, digest=name)


def test_the_same_words_under_another_picture_are_another_transcript(client: Client) -> None:
    def begin(picture: str) -> ContinuedTurn:
        history = (
            HistoryMessage("userMessage", "Look", (picture,)),
            HistoryMessage("apiMessage", "A cat."),
        )
        return client.begin(
            [], "And?", turns=(Turn(FLOW, "And?", history),), attachments=(attached(picture, 0),)
        )

    client.end(client.begin([], "Look", attachments=(attached("cat", 0),)), "A cat.")
    assert begin("dog").turns[0].history
    assert begin("cat").turns[0].history == ()


def test_a_kept_conversation_has_its_documents(client: Client) -> None:
    client.way, client.more = "messages", {"conversation": "c1"}
    exchange = client.begin([], "Read it", attachments=(attached("doc", 0),))
    client.end(replace(exchange, documents="<doc>words</doc>"), "Read.")
    [asked, _] = client.begin([], "And?").turns[0].history
    assert asked == HistoryMessage("userMessage", "Read it", ("doc",), "<doc>words</doc>")
    assert asked.text == "<doc>words</doc>\n\nRead it"


# System texts


def test_a_system_text_in_the_question_is_told_once_a_session_and_a_changed_one_begins_another(
    client: Client,
) -> None:
    client.system = "Be brief."
    talk = client.ask([], "q0", "a0")
    talk = client.ask(talk, "q1", "a1")
    assert client.flowise.seen == [("user", "[Be brief.] q0"), ("assistant", "a0"), ("user", "q1")]
    client.system = "Be long."
    client.ask(talk, "q2", "a2")
    assert client.flowise.seen == [*talk, ("user", "[Be long.] q2")]


def test_a_system_text_with_a_place_of_its_own_is_sent_on_every_turn(client: Client) -> None:
    client.system = "Be brief."
    talk = client.ask([], "q0", "a0", has_preamble=False)
    exchange = client.begin(talk, "q1", has_preamble=False)
    assert (exchange.turns[0].instructions, exchange.turns[0].history) == ("Be brief.", ())


def test_a_system_text_sent_once_goes_on_for_clients_that_send_only_what_is_new(client: Client) -> None:
    client.way, client.more, client.system = "messages", {"conversation": "c1"}, "Be brief."
    client.ask([], "q0", "a0")
    client.system = ""
    client.ask([], "q1", "a1")
    assert client.flowise.seen[-1] == ("user", "[Be brief.] q1")


# A named earlier answer


def test_an_answer_can_be_gone_on_from_by_its_id_and_forked(client: Client) -> None:
    client.more = {}
    first = client.begin([], "q0")
    client.flowise.run(first.turns[0], "a0")
    client.conversations.record(first, [Outcome("a0", None)], "resp_1")
    talk = [("user", "q0"), ("assistant", "a0")]
    second = client.begin(talk, "q1", previous="resp_1")
    assert (second.turns[0].history, second.conversation) == ((), first.conversation)
    client.flowise.run(second.turns[0], "a1")
    client.conversations.record(second, [Outcome("a1", None)], "resp_2")
    fork = client.begin(talk, "other", previous="resp_1")
    client.end(fork, "b")
    assert client.flowise.seen == [*talk, ("user", "other")]
    talk += [("user", "q1"), ("assistant", "a1")]
    client.ask(talk, "q2", "a2", previous="resp_2")
    assert [text for _, text in client.flowise.seen] == ["q0", "a0", "q1", "a1", "q2"]
    assert len(client.flowise.sessions) == 2


@pytest.mark.parametrize("changed", ["transcript", "system", "flow", "caller", "id"])
def test_an_answers_session_is_only_for_what_it_holds(client: Client, changed: str) -> None:
    client.more = {}
    first = client.begin([], "q0")
    client.conversations.record(first, [Outcome("a0", None)], "resp_1")
    client.system = "Be brief." if changed == "system" else ""
    answer = "edited" if changed == "transcript" else "a0"
    others = {"flow": "another flow", "caller": "another key"}
    more = {changed: others[changed]} if changed in others else {}
    previous = "resp_2" if changed == "id" else "resp_1"
    second = client.begin([("user", "q0"), ("assistant", answer)], "q1", previous=previous, **more)
    assert second.turns[0].session_id != first.turns[0].session_id
    assert len(second.turns[0].history) == 2


def test_what_is_not_to_be_kept_leaves_no_text_in_the_store() -> None:
    store = MemoryStore()
    client = Client(conversations(store), Flowise(), more={"stores_texts": False}, system="Be brief.")
    exchange = client.begin([], "q0")
    client.conversations.record(exchange, [Outcome("a0", None)], "resp_1")
    assert kinds(store) == ["link", "answer"]
    kept = next(value for key, (value, *_) in store._values.items() if key.startswith("answer:"))
    assert kept.startswith(b"{")  # as it is, so that the next line means something
    assert b"brief" not in kept
    client.system = ""
    more = {"conversation": exchange.conversation, "previous": ""}
    assert client.begin([], "q1", **more).history == ()


def kinds(store: MemoryStore) -> list[str]:
    """What kinds of entries there are."""
    return [key.partition(":")[0] for key in store._values]


def answered(client: Client, number: int, **more: Any) -> ContinuedTurn:
    """The exchange that goes on from the one before it, named `resp_<number>`."""
    talk: list[Message] = []
    for earlier in range(number):
        talk += [("user", f"q{earlier}"), ("assistant", f"a{earlier}")]
    previous = f"resp_{number - 1}" if number else ""
    exchange = client.begin(talk, f"q{number}", previous=previous, **more)
    client.conversations.record(exchange, [Outcome(f"a{number}", None)], f"resp_{number}")
    return exchange


def test_with_an_answer_go_the_texts_that_end_with_it() -> None:
    store = MemoryStore()
    client = Client(conversations(store), Flowise())
    first = answered(client, 0)
    client.conversations.forget("key", "resp_0")
    assert kinds(store) == ["link"]
    assert client.begin([], "q1", conversation=first.conversation).history == ()


def test_texts_stay_as_long_as_a_later_answer_ends_them() -> None:
    store = MemoryStore()
    client = Client(conversations(store), Flowise())
    answered(client, 0)
    answered(client, 1)
    client.conversations.forget("key", "resp_0")
    assert kinds(store).count("talk") == 1
    client.conversations.forget("key", "resp_1")
    assert set(kinds(store)) == {"link"}


def test_an_answers_other_name_goes_on_from_it_and_takes_no_text_along() -> None:
    store = MemoryStore()
    client = Client(conversations(store), Flowise())
    first = answered(client, 0)
    client.conversations.also_name("key", "resp_0", "ahead")
    client.conversations.also_name("key", "unknown", "other")
    client.conversations.also_name("another key", "resp_0", "stolen")
    assert kinds(store).count("answer") == 2
    client.conversations.forget("key", "ahead")
    assert kinds(store).count("talk") == 1
    client.conversations.also_name("key", "resp_0", "again")
    talk = [("user", "q0"), ("assistant", "a0")]
    second = client.begin(talk, "q1", previous="again")
    assert second.turns[0].session_id == first.turns[0].session_id


def test_a_conversation_that_the_client_named_outlives_its_answers() -> None:
    store = MemoryStore()
    client = Client(conversations(store), Flowise())
    answered(client, 0, conversation="mine")
    client.conversations.forget("key", "resp_0")
    assert [message.content for message in client.begin([], "q1", conversation="mine").history] == [
        "q0",
        "a0",
    ]


@pytest.mark.parametrize(("caller", "name"), [("another key", "resp_0"), ("key", "resp_1")])
def test_nobody_forgets_what_is_not_theirs(caller: str, name: str) -> None:
    store = MemoryStore()
    client = Client(conversations(store), Flowise())
    answered(client, 0)
    before = kinds(store)
    client.conversations.forget(caller, name)
    assert kinds(store) == before


# Decisions


ACTION = HumanInputRequested({"id": "a1"}, ("Proceed", "Reject"))
ASKS = "Shall I?\n\n(Waiting for your decision: Proceed / Reject)"


@pytest.mark.parametrize("way", ["session", "messages", "question"])
def test_a_decision_is_found_again_and_only_once(client: Client, way: HistoryMode) -> None:
    client.way = way
    exchange = client.begin([], "do it")
    client.end(exchange, ASKS, ACTION)
    talk = [("user", "do it"), ("assistant", ASKS)]
    answered = client.begin(talk, "approve")
    assert answered.pending == ACTION
    assert answered.turns[0].session_id == exchange.turns[0].session_id
    again = client.begin(talk, "approve")
    assert (again.pending, again.is_late) == (None, True)


def test_for_a_key_of_many_a_reference_in_the_answer_finds_the_decision(client: Client) -> None:
    client.more = {}
    exchange = client.begin([], "do it")
    assert len(exchange.reference) == 16
    asks = ASKS.replace(")", f" · {exchange.reference})")
    client.end(exchange, asks, ACTION)
    talk = [("user", "do it"), ("assistant", asks)]
    forged = [("user", "do it"), ("assistant", ASKS.replace(")", f" · {'0' * 16})"))]
    assert client.begin(forged, "approve").pending is None
    assert client.begin([("user", "do it"), ("assistant", ASKS)], "approve").pending is None
    assert client.begin(talk, "approve").pending == ACTION


# Which way


@pytest.mark.parametrize(
    ("choice", "kind", "has_memory", "way"),
    [
        ("auto", "CHATFLOW", True, "session"),
        ("auto", "AGENTFLOW", True, "session"),
        ("auto", "AGENTFLOW", False, "messages"),
        ("auto", "AGENTFLOW", None, "messages"),
        ("auto", "CHATFLOW", None, "messages"),
        ("auto", "CHATFLOW", False, "question"),
        ("auto", "MULTIAGENT", False, "messages"),
        ("messages", "CHATFLOW", True, "messages"),
        ("question", "AGENTFLOW", True, "question"),
        ("session", "AGENTFLOW", False, "session"),
    ],
)
def test_a_flow_is_told_of_earlier_turns_in_the_way_it_heeds(
    choice: str, kind: str, has_memory: bool | None, way: HistoryMode
) -> None:
    model = Model("m", FLOW, "m", type=kind, history=choice, has_memory=has_memory)
    assert history_mode(model) == way


def test_a_flow_of_several_models_without_memory_gets_all_in_the_question() -> None:
    model = Model("m", FLOW, "m", type="AGENTFLOW", has_memory=False, chains_models=True)
    assert (history_mode(model), history_mode(replace(model, history="messages"))) == ("question", "messages")


def test_a_flow_of_several_models_keeps_earlier_turns_that_began_a_session_in_its_memory(
    client: Client,
) -> None:
    """Its later models see no `history`, but its memory, which keeps the question."""
    client.more = {"is_single_user": True, "chains_models": True}
    edited = [("user", "e"), ("assistant", "b")]
    exchange = client.begin(edited, "q1")
    assert exchange.history_in_question
    question = transcript_as_text(exchange.turns[0].history, "q1")
    client.flowise.run(replace(exchange.turns[0], history=(), question=question), "a1")
    client.conversations.record(exchange, [Outcome("a1", None)])
    talk = [*edited, ("user", "q1"), ("assistant", "a1")]
    for number in range(2):
        later = client.begin(talk, f"q{number}")
        assert (later.history_in_question, later.turns[0].history) == (False, ())
        assert later.turns[0].session_id == exchange.turns[0].session_id
        client.end(later, "x")
        talk = [*talk, ("user", f"q{number}"), ("assistant", "x")]
    assert client.flowise.seen[0] == ("user", question)


def test_earlier_turns_are_folded_into_the_question_in_their_order(client: Client) -> None:
    client.way = "question"
    talk = client.ask(client.ask([], "q0", "a0"), "q1", "a1")
    exchange = client.begin(talk, "now?")
    assert exchange.history_in_question
    question = transcript_as_text(exchange.turns[0].history, exchange.turns[0].question)
    places = [question.find(text) for text in ("User: q0", "Assistant: a0", "User: q1", "a1", "now?")]
    assert places == sorted(places)
    assert min(places) >= 0
    assert transcript_as_text((), "now?") == "now?"


def test_a_flow_that_drops_a_prefix_is_never_continued_with_one(client: Client) -> None:
    talk = client.ask([], "q0", "a0", holds_prefix=False)
    edited = client.ask([("user", "e"), ("assistant", "b")], "q1", "a1", holds_prefix=False)
    assert len(client.begin(edited, "q2", holds_prefix=False).turns[0].history) == 4
    assert client.begin(talk, "q1", holds_prefix=False).turns[0].history == ()


@given(st.lists(st.text().filter(str.strip), min_size=1, max_size=6), st.text())
def test_any_texts_go_on(texts: list[str], answer: str) -> None:
    client = Client(conversations(), Flowise())
    talk: list[Message] = []
    for text in texts:
        exchange = client.begin(talk, text)
        client.end(exchange, answer)
        talk.append(("user", text))
        talk += [("assistant", answer.strip())] if answer.strip() else []
    assert len(client.flowise.sessions) == 1


OLD, NEW = b"o" * 32, b"n" * 32


def rotated(flowise: Flowise, **more: Any) -> tuple[Client, Client]:
    """The same client before and after a rotation of the secret, over one store."""
    store, more = MemoryStore(), more or {"is_single_user": True}
    before = Client(Conversations(WatchedStore(store, secret=OLD), [OLD], 3600), flowise, more=more)
    after = WatchedStore(store, secret=NEW, old_secrets=[OLD])
    return before, Client(Conversations(after, [NEW, OLD], 3600), flowise, more=more)


def test_a_conversation_continues_its_session_after_a_rotation_of_the_secret() -> None:
    flowise = Flowise()
    before, after = rotated(flowise)
    talk = before.ask([], "q0", "a0")
    talk = after.ask(talk, "q1", "a1")
    after.ask(talk, "q2", "a2")
    assert len(flowise.sessions) == 1
    assert flowise.seen == [*talk, ("user", "q2")]


def test_a_client_that_sends_only_new_messages_goes_on_after_a_rotation() -> None:
    flowise = Flowise()
    before, after = rotated(flowise, conversation="c1")
    before.ask([], "q0", "a0")
    failed = after.begin([], "q1")  # its run never began
    after.conversations.rollback(failed)
    after.ask([], "q1", "a1")
    after.ask([], "q2", "a2")
    assert len(flowise.sessions) == 1
    assert [text for _, text in flowise.seen] == ["q0", "a0", "q1", "a1", "q2"]
    assert not after.begin([], "q0", conversation="c2").history, "a new one begins as ever"


def test_an_answer_of_before_a_rotation_is_continued_by_its_name_until_it_is_deleted() -> None:
    flowise = Flowise()
    before, after = rotated(flowise)
    exchange = before.begin([], "q0")
    flowise.run(exchange.turns[0], "a0")
    before.conversations.record(exchange, [Outcome("a0", None)], "resp_1")
    talk = [("user", "q0"), ("assistant", "a0")]
    continued = after.begin(talk, "q1", previous="resp_1")
    assert continued.session_length == 2
    after.conversations.rollback(continued)
    after.conversations.forget("key", "resp_1")
    assert (
        after.conversations._older[0]._stored_transcript(replace(exchange.request, previous="resp_1")) is None
    )
