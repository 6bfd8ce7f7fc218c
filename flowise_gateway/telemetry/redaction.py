"""Removes keys and files from texts for PROXY_LOG_PROMPTS."""

from __future__ import annotations

import re

MAX_READ = 32_768
MAX_SHOWN = 4_000
"""The number of characters of a text that are read and shown."""

_MARK = "[redacted]"
# Every pattern consumes a run of characters once, so that matching takes linear time.
_DATA_URI = re.compile(r"data:([\w.+-]{1,40}/[\w.+-]{1,80})(?:;[\w=.+-]{1,40}){0,4},[\w+/=%.~:-]*")
_PEM = re.compile(r"-----BEGIN [A-Z ]{1,40}-----[\w+/=\s]*(?:-----END [A-Z ]{1,40}-----)?")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s{1,4}[\w.~+/=-]{8,}")
_NAMED = re.compile(
    r"(?i)((?:api|access|secret|private)[ _-]?key|token|secret|password|passwd|pwd)"
    r"""(["']?\s{0,4}[:=]\s{0,4}["']?)[^\s"',;&]{4,}"""
)
_PREFIXED = re.compile(
    r"\b(?:sk|pk|rk|gh[opsur]|github_pat|glpat|xox[abeprs]|hf|AIza|AKIA|ASIA|ya29|eyJ)[\w.-]{8,}"
)
_LONG = re.compile(r"[\w+/=-]{32,}")


def redacted(text: str) -> str:
    """The beginning of a text, without what looks like a key, a password or the data of a file.

    Other texts are shown: no pattern recognizes every secret.
    """
    shown = text[:MAX_READ]
    shown = _DATA_URI.sub(r"[data URI, \1]", shown)
    shown = _PEM.sub(_MARK, shown)
    shown = _BEARER.sub(rf"\1 {_MARK}", shown)
    shown = _NAMED.sub(rf"\1\2{_MARK}", shown)
    shown = _PREFIXED.sub(_MARK, shown)
    shown = _LONG.sub(_unless_plain, shown)
    is_cut = len(text) > MAX_READ or len(shown) > MAX_SHOWN
    return f"{shown[:MAX_SHOWN]}…" if is_cut else shown


def _unless_plain(match: re.Match[str]) -> str:
    """A long run of characters is a key if it mixes letters and digits; a long word or line is not."""
    run = match[0]
    is_mixed = any(c.isdigit() for c in run) and any(c.isalpha() for c in run)
    return _MARK if is_mixed else run
