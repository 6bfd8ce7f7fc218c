"""What the model behind a flow gets to see: the system text, the question, the earlier turns, each once."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.live.real_flowise import RealFlowise
from tests.live.wire import Json, Wire

pytestmark = pytest.mark.live

WITH_MEMORY = ["conv", "toolagent", "rag", "af_llm", "af_agent"]
WITHOUT_MEMORY = ["llmchain", "af_llm_nomem"]
Turn = tuple[str, str]


@pytest.mark.parametrize("flow", [*WITH_MEMORY, *WITHOUT_MEMORY, "conv_nostream"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_question_is_the_last_user_message_and_there_once(
    flow: str, stream: bool, flowise: RealFlowise, wire: Wire
) -> None:
    question = f"What is {uuid4().hex}?"
    (wire.stream if stream else wire.ask)(flowise.flows[flow], question)
    seen = seen_by_model(flowise, question)
    assert question in [text for role, text in seen if role == "user"][-1]
    assert everything(seen).count(question) == 1


@pytest.mark.parametrize(
    "flow", ["conv", "toolagent", "llmchain", "rag", "af_llm", "af_agent", "af_llm_nomem"]
)
def test_a_system_text_reaches_the_model(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    system, question = f'Answer as {{"{uuid4().hex}": {{{{x}}}}}}', f"What is {uuid4().hex}?"
    wire.ask(flowise.flows[flow], [system_message(system), user(question)])
    seen = seen_by_model(flowise, question)
    assert everything(seen).count(system) == 1
    assert everything(seen).count(question) == 1


@pytest.mark.parametrize("flow", ["conv_override", "toolagent_override", "af_override"])
def test_a_system_text_is_a_system_message_where_the_flow_allows_it(
    flow: str, flowise: RealFlowise, wire: Wire
) -> None:
    system, question = f'Answer as {{"{uuid4().hex}": {{x}}}}', f"What is {uuid4().hex}?"
    wire.ask(flowise.flows[flow], [system_message(system), user(question)])
    seen = seen_by_model(flowise, question)
    assert [role for role, text in seen if system in text] == ["system"]
    assert [text for role, text in seen if role == "user"] == [question]


@pytest.mark.parametrize("flow", ["conv", "af_llm", "conv_nostream"])
def test_all_text_parts_of_a_message_reach_the_model(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    one, two = uuid4().hex, uuid4().hex
    parts = [{"type": "text", "text": f"First {one}."}, {"type": "text", "text": f"Second {two}."}]
    answer = wire.ask(flowise.flows[flow], [{"role": "user", "content": parts}])
    assert f"First {one}." in answer
    assert f"Second {two}." in answer
    seen = seen_by_model(flowise, one)
    assert everything(seen).count(one) == everything(seen).count(two) == 1


@pytest.mark.parametrize("flow", ["af_llm", "af_llm_nomem"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_earlier_turns_reach_the_model_in_order_each_once(
    flow: str, stream: bool, flowise: RealFlowise, wire: Wire
) -> None:
    talk = Conversation(wire, flowise.flows[flow], stream=stream)
    for _ in range(3):
        talk.ask()
    assert said(seen_by_model(flowise, talk.last_question)) == said(talk.turns[:-1])


@pytest.mark.parametrize("flow", ["conv", "toolagent", "af_agent"])
def test_memory_holds_earlier_turns_in_order_each_once(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    talk = Conversation(wire, flowise.flows[flow])
    for _ in range(3):
        talk.ask()
    assert said(seen_by_model(flowise, talk.last_question)) == said(talk.turns[:-1])


def test_a_flow_without_memory_sees_earlier_turns_in_its_question(flowise: RealFlowise, wire: Wire) -> None:
    talk = Conversation(wire, flowise.flows["llmchain"])
    talk.ask()
    first = talk.last_question
    talk.ask()
    text = everything(seen_by_model(flowise, talk.last_question))
    assert 0 <= text.find(first) < text.find("Reply to [") < text.find(talk.last_question)
    assert text.count(talk.last_question) == 1


@pytest.mark.parametrize("flow", ["conv", "af_llm", "af_llm_nomem"])
def test_an_edited_question_replaces_what_followed(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    talk = Conversation(wire, flowise.flows[flow])
    for _ in range(3):
        talk.ask()
    talk.forget_after(1)
    for _ in range(2):
        talk.ask()
        assert said(seen_by_model(flowise, talk.last_question)) == said(talk.turns[:-1])


def test_a_regenerated_answer_does_not_ask_twice(flowise: RealFlowise, wire: Wire) -> None:
    talk = Conversation(wire, flowise.flows["af_llm"])
    talk.ask()
    talk.ask()
    question = talk.last_question
    wire.ask(flowise.flows["af_llm"], talk.messages[:-1])
    assert said(seen_by_model(flowise, question)) == said(talk.turns[:-1])


def test_two_people_with_the_same_opening_do_not_share_a_conversation(
    flowise: RealFlowise, wire: Wire
) -> None:
    opening = f"Good morning {uuid4().hex}"
    answers = {wire.ask(flowise.flows["af_llm"], opening, user=name) for name in ("ann", "bob")}
    assert len(answers) == 1
    assert said(seen_by_model(flowise, opening)) == [("user", opening)]


class Conversation:
    """A client that resends the whole conversation, as chat programs do."""

    def __init__(self, wire: Wire, model: str, *, stream: bool = False) -> None:
        self._send = wire.stream if stream else wire.ask
        self._model = model
        self.messages: list[Json] = []

    def ask(self) -> None:
        """Asks something new, and keeps the answer."""
        self.messages.append(user(f"What is {uuid4().hex}?"))
        answer = self._send(self._model, self.messages)
        self.messages.append({"role": "assistant", "content": answer})

    def forget_after(self, turns: int) -> None:
        """Goes back to an earlier point, as an edited question does."""
        del self.messages[2 * turns :]

    @property
    def last_question(self) -> str:
        """The text of the newest user message."""
        return str(self.messages[-2]["content"])

    @property
    def turns(self) -> list[Turn]:
        """Role and text of each message."""
        return [(message["role"], message["content"]) for message in self.messages]


def user(text: Any) -> Json:
    """A user's message."""
    return {"role": "user", "content": text}


def system_message(text: str) -> Json:
    """A system message."""
    return {"role": "system", "content": text}


def seen_by_model(flowise: RealFlowise, text: str) -> list[Turn]:
    """Role and text of each message of the newest model request that holds this text."""
    asked = [entry["body"]["messages"] for entry in flowise.llm_log() if "messages" in entry.get("body", {})]
    newest = next(messages for messages in reversed(asked) if text in everything(turns_of(messages)))
    return turns_of(newest)


def turns_of(messages: list[Json]) -> list[Turn]:
    """Role and text of each message."""
    return [(message["role"], plain(message["content"])) for message in messages]


def plain(content: object) -> str:
    """A message's text, whatever its form."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content if isinstance(content, str) else json.dumps(content)


def said(turns: list[Turn]) -> list[Turn]:
    """What the user and the model said, without the spaces around it."""
    return [(role, text.strip()) for role, text in turns if role != "system"]


def everything(turns: list[Turn]) -> str:
    """All texts one after the other."""
    return "\n".join(text for _, text in turns)
