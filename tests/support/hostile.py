"""What hostile callers send: the worst names, and requests as bytes."""

from __future__ import annotations

import random
import socket
import string
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.support.running_proxy import RunningProxy

CANARY = "sk-canary-5d41402abc4b2a76b9719d911017c592"
HOSTILE = [
    *(
        "..",
        "../..",
        "../../api/v1/apikey",
        "%2e%2e",
        "%2e%2e%2fchatflows",
        "..%2f..",
        "a/../../b",
        "a?x=1",
        "a#b",
    ),
    *(
        "//evil.example",
        "http://evil.example/",
        "a@evil.example",
        "\x00",
        "a\r\nX-Evil: 1",
        "．．／",
        "é",
        "🙂",
        " ",
    ),
    *("5518949f-3ebc-4082-af01-fa2a18623da6/..", "5518949f-3ebc-4082-af01-fa2a18623da6?x", "x" * 5000),
]


def hostile_ids(count: int) -> list[str]:
    """The worst ids known, and random ones of their letters."""
    dice = random.Random(7)  # noqa: S311
    letters = string.printable + "．／%.é🙂\u2028"
    made = ["".join(dice.choices(letters, k=dice.randint(1, 60))) for _ in range(count - len(HOSTILE))]
    return HOSTILE + made


def post(keyed: RunningProxy, **more: Any) -> requests.Response:
    """Ask for a chat completion with the right key."""
    headers = {"api-key": CANARY, **more.pop("headers", {})}
    return requests.post(f"{keyed.url}/v1/chat/completions", headers=headers, timeout=10, **more)


def raw(server: RunningProxy, sent: bytes) -> bytes:
    """All that the server answers to some bytes, until it ends the connection."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as raw:
        raw.sendall(sent)
        return raw.makefile("rb").read()
