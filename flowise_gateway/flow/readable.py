"""Reads stored values that may have been written by another version."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def readable(decode: Callable[[bytes], _T], raw: bytes | None) -> _T | None:
    """Decode a stored value; None if there is none or it cannot be decoded."""
    if raw is None:
        return None
    try:
        return decode(raw)
    except (zlib.error, ValueError, TypeError, KeyError):
        return None
