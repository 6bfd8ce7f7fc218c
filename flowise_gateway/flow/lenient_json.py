"""Reads JSON from Flowise even if it is malformed, and writes any JSON value."""

from __future__ import annotations

import json
from typing import Any

import orjson


def json_text(value: Any) -> str:
    """A JSON value as text, whatever it contains; strings unchanged."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # nested deeper, or with larger numbers, than orjson can write
        try:
            return json.dumps(value, default=str)
        except (ValueError, RecursionError):
            return "…"


def lenient_json(text: str | bytes) -> Any:
    """A JSON value as Flowise writes it; None if it is not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _mended(_halved_json(text))


def read_message(payload: bytes) -> Any:
    """The message of an event; text may end in half a character, whose other half is in the next one."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        message = _halved_json(payload)
        is_text = isinstance(message, dict) and message.get("event") in ("token", "thinking")
        return message if is_text else _mended(message)


def join_halves(half: str, text: str) -> tuple[str, str]:
    """The text, prefixed with the half character from before, and the half character at its own end."""
    text = half + text
    end = len(text) - ("\ud800" <= text[-1] <= "\udbff")
    return _without_lone_surrogates(text[:end]), text[end:]


def _halved_json(text: str | bytes) -> Any:
    # JavaScript writes half of a surrogate pair as an escape, which orjson refuses and UTF-8 cannot hold.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mended(value: Any) -> Any:
    try:
        return _without_lone_surrogates(value)
    except RecursionError:
        return None


def _without_lone_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_lone_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_lone_surrogates(k): _without_lone_surrogates(v) for k, v in value.items()}
    return value
