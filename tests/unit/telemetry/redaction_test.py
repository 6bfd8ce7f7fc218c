"""What is taken out of prompts before they are logged."""

from __future__ import annotations

import time

import pytest

from flowise_gateway.telemetry.redaction import MAX_SHOWN, redacted

HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
# In parts, so that no scanner takes these for keys.
SECRETS = [
    "sk-" + "proj-4f9a8b7c6d5e4f3a2b1c",
    "sk-flowise-" + "Zm9vYmFyYmF6cXV4",
    "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "xoxb-" + "17653672481-19874698323",
    HEX,
    "AIza" + "SyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "my key is {}, use it", "<{}>", '{{"key": "{}"}}', "https://x.example/?k={}"]
)
def test_keys_are_taken_out_wherever_they_stand(secret: str, around: str) -> None:
    shown = redacted(around.format(secret))
    assert secret not in shown
    assert secret[8:] not in shown
    assert "[redacted]" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password: hunter2!", "password: [redacted]"),
        ("Authorization: Bearer abc.def-12345", "Authorization: Bearer [redacted]"),
        ("api_key=short", "api_key=[redacted]"),
        ('"secret" : "quiet"', '"secret" : "[redacted]"'),
        ("see data:image/png;base64,iVBORw0KGgo= there", "see [data URI, image/png] there"),
        ("data:text/plain;charset=utf-8;base64,SGVsbG8", "[data URI, text/plain]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----!", "[redacted]!"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut", "[redacted]"),
    ],
)
def test_what_is_named_a_secret_and_the_data_of_files_is_taken_out(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is the price for Apple?",
        "Wie heißt du? 🙂",
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
        "----------------------------------------------------------------",
        "data: 3, 4 and 5",
        "Tokens are counted; a password is needed.",
        "openai-python/3.57.0 (Linux; x64)",
    ],
)
def test_plain_texts_are_shown(text: str) -> None:
    assert redacted(text) == text


def test_a_long_text_is_cut() -> None:
    assert redacted("ab " * 100_000) == ("ab " * MAX_SHOWN)[:MAX_SHOWN] + "…"


@pytest.mark.parametrize(
    "piece",
    [
        "data:x/x",
        "data:",
        "-----BEGIN A",
        "-----BEGIN A-----",
        "token",
        "token:",
        "bearer ",
        "sk-",
        "eyJ.",
        "a-",
        "a1" * 40 + " ",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    began = time.process_time()
    redacted(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 0.5
