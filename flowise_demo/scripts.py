"""The words in a question that make the scripted flows fail, wait or answer oddly."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flowise_demo.flows import Flow
from flowise_demo.http import Response

LANGCHAIN_ERRORS = "\n\nTroubleshooting URL: https://docs.langchain.com/oss/javascript/langchain/errors/"
HTML_PAGE = (
    '<!DOCTYPE html>\r\n<html lang="en">\r\n    <head>\r\n'
    "        <title>Flowise - Build AI Agents, Visually</title>\r\n"
    '    </head>\r\n    <body>\r\n        <div id="root"></div>\r\n    </body>\r\n</html>\r\n'
)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing more happens until the client leaves, but heartbeats if a period is given."""

    heartbeat_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """What a word in the question makes a scripted flow do."""

    failure: str = ""  # the provider refuses with this text before the first token
    quota: bool = False  # … and it is Flowise that refuses, before any node runs
    breaks_off: str = ""  # the provider fails with this text after the tokens
    tokens: tuple[str, ...] | None = None
    token_seconds: float | None = None
    silence_seconds: float = 0.0
    heartbeat_seconds: float = 0.0
    waits: Wait | None = None  # instead of everything, after the head of the stream
    is_headless: bool = False  # not even the head comes
    fault: str = ""
    fault_at: str = "tokens"  # start | tokens | end
    frames: tuple[bytes, ...] = ()
    has_old_framing: bool = False
    thinks: bool = False
    response: Response | None = None


NO_SCRIPT = Script()
_MIDWAY = ("Reply ", "to ", "[failmid] ", "after ")
_SLOW = tuple(f"word{number} " for number in range(60))
_UNICODE = ("Grüße ", "世界 ", "🙂👩‍👩‍👧 ", "naïve ", "façade ", "— ", "done. ")
_MARKDOWN = (
    *("# ", "Title\n\n", "- ", '"quoted" ', "\\ ", "back\n", "- ", "<b>tag</b> ", "& ", "amp\n\n"),
    *("```python\n", 'print("data: ', 'x\\n\\n")\n', "```\n"),
)
_ODD_FRAMES = (
    b'message\ndata:{"event":"token","data":"odd "}\n\n',
    b":a comment\n\n",
    b': a comment before the lines\nmessage:\ndata:{"event":"token","data":"comment "}\n\n',
    b'message:\r\ndata:{"event":"token","data":"crlf "}\r\n\r\n',
    b'message:\ndata:{"event":"brandNew","data":{"a":1}}\n\n',
    b'message:\ndata:{"event":"token"}\n\n',
    b'message:\ndata:{"event":"token","data":null}\n\n',
    b'message:\ndata:{"event":"token","data":5}\n\n',
    b'message:\ndata:{"event":"token","data":{"a":1}}\n\n',
)
_HTML = "text/html; charset=utf-8"


def _gateway_page(status: int, title: str) -> Response:
    page = f"<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {title}"
    page += "</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    return Response(status, page.encode(), "text/html")


def rate_limit_response(seconds: int) -> Response:
    """Flowise's own rate limiter: plain text in an HTML content type."""
    limits = (("X-RateLimit-Limit", "2"), ("X-RateLimit-Remaining", "0"))
    reset = ("X-RateLimit-Reset", str(int(time.time()) + seconds))
    return Response(429, b"Slow down please", _HTML, (*limits, reset, ("Retry-After", str(seconds))))


SCRIPTS: Mapping[str, Script] = MappingProxyType(
    {
        "fail500": Script(failure="500 The fake model broke"),
        "fail400": Script(failure="400 The fake model broke"),
        "fail401": Script(
            failure=f"401 Incorrect API key provided: sk-fake{LANGCHAIN_ERRORS}MODEL_AUTHENTICATION/\n"
        ),
        "fail429": Script(
            failure=f"429 Rate limit reached for fake model{LANGCHAIN_ERRORS}MODEL_RATE_LIMIT/\n"
        ),
        "failctx": Script(failure="400 This model's maximum context length is 10 tokens."),
        "failfilter": Script(
            failure="400 The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy. Please modify your prompt and retry."
        ),
        "failquota": Script(failure="Predictions limit exceeded", quota=True),
        "failmid": Script(tokens=_MIDWAY, breaks_off="terminated"),
        "ratelimit": Script(response=rate_limit_response(1)),
        "unavailable": Script(response=Response(503, b"Service Unavailable", "text/plain; charset=utf-8")),
        "badgateway": Script(response=_gateway_page(502, "Bad Gateway")),
        "gatewaytimeout": Script(response=_gateway_page(504, "Gateway Time-out")),
        "emptybody": Script(response=Response(200)),
        "html": Script(response=Response(200, HTML_PAGE.encode(), "text/html; charset=UTF-8")),
        "redirect": Script(
            response=Response(302, b"Found. Redirecting to /login", _HTML, (("Location", "/login"),))
        ),
        "badjson": Script(response=Response(200, b'{"text":"This never en')),
        "cut": Script(fault="cut"),
        "cutchunk": Script(fault="cutchunk"),
        "reset": Script(fault="reset"),
        "badchunk": Script(fault="badchunk"),
        "nolength": Script(fault="nolength"),
        "noend": Script(fault="mute", fault_at="end"),
        "startonly": Script(fault="mute", fault_at="start"),
        "hang": Script(waits=Wait(), is_headless=True),
        "silent": Script(waits=Wait()),
        "heartbeats": Script(waits=Wait(0.2)),
        "stall": Script(silence_seconds=35.0, heartbeat_seconds=30.0),
        "slow": Script(tokens=_SLOW, token_seconds=0.25),
        "tokens1000": Script(tokens=tuple(f"t{number} " for number in range(1000)), token_seconds=0.0),
        "huge": Script(tokens=("x" * 2_000_000,)),
        "empty": Script(tokens=()),
        "unicode": Script(tokens=_UNICODE),
        "markdown": Script(tokens=_MARKDOWN),
        "think": Script(thinks=True),
        "oddframes": Script(frames=_ODD_FRAMES),
        "oldframing": Script(has_old_framing=True),
    }
)
_WORD = re.compile(r"[A-Za-z]+[0-9.]*")
_NUMBERED = re.compile(r"(stall|ratelimit)([0-9]+(?:\.[0-9]+)?)")


def script_for(flow: Flow, question: str) -> Script:
    """The script of the last scripted word of the question, if the flow obeys it."""
    if flow.scripts == "none":
        return NO_SCRIPT
    for word in reversed(_WORD.findall(question)):
        script = _script(word.rstrip("."))
        if script and (flow.scripts == "all" or script.failure):
            return script
    return NO_SCRIPT


def _script(word: str) -> Script | None:
    numbered = _NUMBERED.fullmatch(word)
    if not numbered:
        return SCRIPTS.get(word)
    number = float(numbered[2])
    if numbered[1] == "ratelimit":
        return Script(response=rate_limit_response(int(number)))
    return Script(silence_seconds=number, heartbeat_seconds=min(30.0, number / 3))
