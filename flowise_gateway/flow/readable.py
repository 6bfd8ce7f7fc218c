"""Values of the store that may not be what this version of ours writes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def readable(decode: Callable[[bytes], _T], raw: bytes | None) -> _T | None:
    """What `decode` reads from a stored value; None where there is none, or another version wrote it."""
    if raw is None:
        return None
    try:
        return decode(raw)
    except (zlib.error, ValueError, TypeError, KeyError):
        return None
