"""The start-up message on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_BOLD, _DIM, _GREEN, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_LABEL_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Overview:
    """The state at start-up; `flowise`, `models`, `keys` and `store` are one readable line each."""

    flowise: str
    models: str
    keys: str
    store: str
    problems: Sequence[str] = ()
    advice: str = ""


def banner(address: str, overview: Overview, *, coloured: bool) -> str:
    """The message, without a final line break; names must not contain control characters."""

    def styled(text: str, *styles: str) -> str:
        return "".join(styles) + text + _PLAIN if coloured else text

    rows = {
        "Open": styled(address, _BOLD, _GREEN),
        "API": f"{address}/v1",
        "Flowise": overview.flowise,
        "Models": overview.models,
        "Keys": overview.keys,
        "Store": overview.store,
    }
    lines = [styled("flowise-gateway", _BOLD)]
    lines += [f"  {styled(name.ljust(_LABEL_WIDTH), _DIM)}{text}" for name, text in rows.items()]
    lines += [f"  {styled('!', _BOLD, _YELLOW)} {problem}" for problem in overview.problems]
    if overview.advice:
        lines.append(f"  {styled(overview.advice, _DIM)}")
    return "\n".join(lines)
