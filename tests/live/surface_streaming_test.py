"""Tokens arrive as the model says them, and a client that leaves ends the run."""

from __future__ import annotations

import time
from itertools import pairwise
from uuid import uuid4

import pytest
import requests
from openai import OpenAI

from tests.live.real_flowise import RealFlowise
from tests.live.wire import Wire, chat_body
from tests.support.openai_check import valid_chunks
from tests.support.processes import wait_for

pytestmark = pytest.mark.live


def test_tokens_arrive_one_by_one(flowise: RealFlowise, openai: OpenAI) -> None:
    chunks, arrivals = [], []
    with openai.chat.completions.create(
        model=flowise.flows["af_llm"], messages=[{"role": "user", "content": "slow please"}], stream=True
    ) as stream:
        for chunk in stream:
            chunks.append(chunk)
            if chunk.choices and chunk.choices[0].delta.content:
                arrivals.append(time.monotonic())
    valid_chunks("chat.stream", [chunk.to_dict() for chunk in chunks])
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert sum(gap > 0.05 for gap in gaps) >= 10
    assert arrivals[-1] - arrivals[0] >= 5


def test_a_client_that_leaves_a_stream_frees_the_model(flowise: RealFlowise, wire: Wire) -> None:
    question = f"slow {uuid4().hex}"
    with wire.post(
        "/v1/chat/completions", chat_body(flowise.flows["af_llm"], question, stream=True)
    ) as reply:
        lines = reply.iter_lines()
        while b"word2" not in next(lines):
            pass
        assert not was_left(flowise, question)
    assert wait_for(lambda: was_left(flowise, question), 2)


def test_a_client_that_leaves_before_a_whole_answer_frees_the_model(flowise: RealFlowise, wire: Wire) -> None:
    question = f"slow {uuid4().hex}"
    body = chat_body(flowise.flows["af_llm"], question)
    with pytest.raises(requests.ReadTimeout):
        wire.post("/v1/chat/completions", body, seconds=2)
    assert wait_for(lambda: was_left(flowise, question), 2)


def was_left(flowise: RealFlowise, question: str) -> bool:
    """Whether the model's answer to this question was given up by Flowise."""
    log = flowise.llm_log()
    asked = {entry["id"] for entry in log if "body" in entry and question in str(entry["body"])}
    assert asked, "the model was not asked"
    return any(entry["id"] in asked and entry.get("event") == "client closed early" for entry in log)
