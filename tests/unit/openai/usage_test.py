"""Tokens: reported by Flowise, or counted here."""

from __future__ import annotations

import pytest

from flowise_gateway.flow.events import (
    ReasoningDelta,
    StepStarted,
    UsageReported,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.usage import MAX_COUNTED, count_tokens, usage_of
from openai_adapter import parse_chat
from tests.support.chat_cases import (
    CHAT,
)


def test_usage_is_reported_where_it_can_be_and_counted_where_not() -> None:
    turns = parse_chat({**CHAT, "n": 2}).turns
    reported = Transcript(texts=["a b c"], usage=UsageReported(10, 20, 3, 4))
    counted = Transcript(texts=["a ", "b c"])
    usage = usage_of(turns, [reported, counted], lambda text: len(text.split()))
    assert usage == {
        "prompt_tokens": 15,
        "completion_tokens": 23,
        "total_tokens": 38,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


def test_thoughts_are_counted_as_tokens_of_the_answer_and_steps_are_not() -> None:
    thinking = Transcript(
        texts=["a b"], trail=[ReasoningDelta("c "), StepStarted("Agent of mine"), ReasoningDelta("d e")]
    )
    usage = usage_of(parse_chat(CHAT).turns, [thinking], lambda text: len(text.split()))
    assert usage["completion_tokens"] == 5
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_the_counted_prompt_holds_system_text_history_and_question() -> None:
    seen: list[str] = []
    chat = parse_chat(
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "sys"},
                {"role": "user", "content": "old"},
                {"role": "assistant", "content": "answer"},
                {"role": "user", "content": "new"},
            ],
        }
    )

    def count(text: str) -> int:
        seen.append(text)
        return 1

    usage_of(chat.turns, [Transcript(texts=["text"])], count)
    assert seen == ["sys\nold\nanswer\nnew", "text"]


def test_usage_needs_a_transcript_for_each_turn() -> None:
    with pytest.raises(ValueError, match="zip"):
        usage_of((Turn("f", "q"),), [], len)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("hello world", 2), ("<|endoftext|>", 7), ("日本語", 3), ("\ud800", 1)]
)
def test_tokens_are_counted_from_a_vocabulary_on_disk(text: str, tokens: int) -> None:
    assert (count_tokens(text) > 0) is (tokens > 0)
    if text.isascii():
        assert count_tokens(text) == tokens


def test_very_long_texts_are_estimated_by_their_beginning() -> None:
    text = "the quick brown fox " * (MAX_COUNTED // 20)
    counted = count_tokens(text)
    assert len(text) == MAX_COUNTED
    assert count_tokens(text * 20) == counted * 20
    assert count_tokens(text + "x") == counted
