"""The JSON text of a request: what is parsed, what is refused before it costs anything."""

from __future__ import annotations

import time

import orjson
import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.openai.json_body import MAX_DEPTH, json_object


@pytest.mark.parametrize("raw", [b"{}", b' {"a": [1, null]}\n', '{"a": "ü🙂"}'.encode(), b"\xef\xbb\xbf{}"])
def test_a_json_object_is_read(raw: bytes) -> None:
    assert isinstance(json_object(raw), dict)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "could not parse"),
        (b"{", "could not parse"),
        (b"{'a': 1}", "could not parse"),
        (b'{"a": NaN}', "could not parse"),
        (b'\xff{"a": 1}', "could not parse"),
        (b"a=b", "could not parse"),
        (b"[]", "but is an array"),
        (b'"x"', "but is a string"),
        (b"null", "but is null"),
        (b"1", "but is an integer"),
        (b"1.5", "but is a number"),
        (b"true", "but is a boolean"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_with_the_reason(raw: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        json_object(raw)
    assert said in caught.value.message
    assert "line" not in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_body_nested_too_deeply_is_refused(opening: bytes) -> None:
    with pytest.raises(BadRequest):
        json_object(b'{"a":' + opening * 100_000)


@pytest.mark.parametrize("value", [b"1,", b"[[]],", b"{},", b'{"a":{}},', b'"a":'])
def test_a_body_of_very_many_values_is_refused_before_it_is_read(value: bytes) -> None:
    with pytest.raises(BadRequest, match="more than 300000 commas, colons and brackets"):
        json_object(b'{"a":[' + value * 300_001 + b"1]}")
    # What is no JSON at all is told the same: it has not been read.
    with pytest.raises(BadRequest, match="more than 300000 commas, colons and brackets"):
        json_object(b'{"a":[' + value * 300_001)


def test_a_long_text_is_no_body_of_many_values() -> None:
    text = "Ten words, of which some are followed by a comma, as here. " * 140_000
    assert json_object(orjson.dumps({"a": text})) == {"a": text}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (rb"a\ud83d", "a\ufffd"),
        (rb"\ude00b", "\ufffdb"),
        (rb"\ud83d\u0041\uD83D\uDE00", "\ufffdA😀"),
        (rb"\ud83d\ud83d\ude00\ude00", "\ufffd😀\ufffd"),
        (rb"\\ud83d \ud83d", "\\ud83d \ufffd"),  # the first one is a backslash and a word
        (rb"\\ud83d\ude00", "\\ud83d\ufffd"),
        (rb"\\\ud83d\\\ude00", "\\\ufffd\\\ufffd"),
        (b"\xed\xa0\xbd!", "\ufffd!"),
        ("Łódź 한국 😀 ".encode() + b"\\ud800", "Łódź 한국 😀 \ufffd"),
    ],
)
def test_half_a_character_is_replaced_wherever_it_stands(raw: bytes, text: str) -> None:
    body = b'{"a":[{"b":"%b"}],"%b":1}' % (raw, raw)
    assert json_object(body) == {"a": [{"b": text}], text: 1}


@pytest.mark.parametrize("unit", [rb"\ud800", rb"\ud83d\ude00", rb"\\", rb"\n", b"\xed\xa0\x80", b"\xed"])
def test_no_body_is_searched_for_halves_for_long(unit: bytes) -> None:
    raw = b'{"a":"\\ud800' + unit * 4_000_000 + b'"}'
    begun = time.process_time()
    with pytest.raises(BadRequest):
        json_object(raw)
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(("opening", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_what_is_read_can_be_written_again(opening: bytes, end: bytes) -> None:
    def body(depth: int) -> bytes:
        inner = opening * (depth - 2) + b"0" + end * (depth - 2)
        return b'{"a":[%b,%b]}' % (inner, b",".join([b"[]"] * 300))

    orjson.dumps({"response": {"tools": [{"parameters": [json_object(body(MAX_DEPTH))]}]}})
    with pytest.raises(BadRequest, match="nested too deeply"):
        json_object(body(MAX_DEPTH + 1))
    # Many values beside each other are not deep.
    json_object(b'{"a":[%b]}' % b",".join([b"[{}]"] * 10_000))


def test_a_body_nested_too_deeply_is_told_so() -> None:
    with pytest.raises(BadRequest) as caught:
        json_object(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}")
    assert "nested too deeply" in caught.value.message
