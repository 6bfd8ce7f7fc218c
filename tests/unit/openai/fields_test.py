"""Fields of a request: each bad value is a 400 that names it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from flowise_gateway.flow.errors import BadRequest, error_body
from flowise_gateway.openai import fields as openai_fields
from flowise_gateway.openai.fields import (
    CHECKS,
    MAX_DEPTH,
    boolean,
    integer,
    json_object,
    kind_of,
    missing,
    optional_object,
    parameters,
    stop_sequences,
    string,
)


def refused(call: Callable[[], Any]) -> tuple[str | None, str | None]:
    """The param and code of the 400 that a call raises."""
    with pytest.raises(BadRequest) as caught:
        call()
    assert caught.value.status == 400
    assert error_body(caught.value)["error"]["type"] == "invalid_request_error"
    return caught.value.param, caught.value.code


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


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "a boolean"),
        (1, "an integer"),
        (1.0, "a number"),
        ("", "a string"),
        ([], "an array"),
        ({}, "an object"),
        (None, "null"),
        (b"", "something else"),
    ],
)
def test_kinds_are_told_in_words(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


def test_a_string_must_be_there() -> None:
    assert string({"model": "m"}, "model") == "m"
    assert string({"model": ""}, "model") == ""
    assert refused(lambda: string({}, "model")) == ("model", "missing_required_parameter")
    assert refused(lambda: string({"model": None}, "model")) == ("model", "missing_required_parameter")
    assert refused(lambda: string({"model": 1}, "model", "a.model")) == ("a.model", "invalid_type")
    assert refused(lambda: string({}, "model", "a.model")) == ("a.model", "missing_required_parameter")


@pytest.mark.parametrize(
    ("body", "value"), [({}, False), ({"x": None}, False), ({"x": True}, True), ({"x": False}, False)]
)
def test_a_boolean_is_false_unless_true(body: dict[str, Any], value: bool) -> None:
    assert boolean(body, "x") is value


@pytest.mark.parametrize("value", [0, 1, "true", [], {}])
def test_what_is_no_boolean_is_refused(value: Any) -> None:
    assert refused(lambda: boolean({"stream": value}, "stream")) == ("stream", "invalid_type")


@pytest.mark.parametrize(("body", "value"), [({}, 1), ({"n": None}, 1), ({"n": 1}, 1), ({"n": 8}, 8)])
def test_an_integer_has_a_default(body: dict[str, Any], value: int) -> None:
    assert integer(body, "n", 1, 1, 8) == value


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "invalid_value"),
        (9, "invalid_value"),
        (1.0, "invalid_type"),
        ("1", "invalid_type"),
        (True, "invalid_type"),
    ],
)
def test_an_integer_keeps_its_bounds(value: Any, code: str) -> None:
    assert refused(lambda: integer({"n": value}, "n", 1, 1, 8)) == ("n", code)


def test_an_object_may_be_absent() -> None:
    assert (
        optional_object({}, "o") == optional_object({"o": None}, "o") == optional_object({"o": {}}, "o") == {}
    )
    assert optional_object({"o": {"a": 1}}, "o") == {"a": 1}
    assert refused(lambda: optional_object({"o": []}, "o")) == ("o", "invalid_type")
    assert refused(lambda: optional_object({"o": False}, "o")) == ("o", "invalid_type")


@pytest.mark.parametrize(
    ("value", "sequences"),
    [
        (None, ()),
        ("", ()),
        ("END", ("END",)),
        ([], ()),
        (["a", "", "b"], ("a", "b")),
        ([*"abcdefgh"], (*"abcdefgh",)),
        (["a"] * 64, ("a",) * 64),
    ],
)
def test_stop_is_a_string_or_some(value: Any, sequences: tuple[str, ...]) -> None:
    assert stop_sequences({"stop": value}) == sequences
    assert stop_sequences({}) == ()


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        (1, "stop", "invalid_type"),
        ({"a": "b"}, "stop", "invalid_type"),
        (False, "stop", "invalid_type"),
        (["a"] * 65, "stop", "invalid_value"),
        (["a", "b" * 257], "stop[1]", "invalid_value"),
        (["a", 1], "stop[1]", "invalid_type"),
        ([None], "stop[0]", "invalid_type"),
    ],
)
def test_a_bad_stop_names_its_place(value: Any, param: str, code: str) -> None:
    assert refused(lambda: stop_sequences({"stop": value})) == (param, code)


GOOD: dict[str, list[Any]] = {
    "temperature": [0, 2, 0.7],
    "top_p": [0, 1],
    "presence_penalty": [-2, 2],
    "frequency_penalty": [-2.0, 2.0],
    "max_tokens": [0, 100_000],
    "max_completion_tokens": [1],
    "seed": [-5, 2**53],
    "logit_bias": [{}, {"50256": -100}],
    "tools": [[], [{"type": "function"}]],
    "functions": [[]],
    "tool_choice": ["auto", {"type": "function"}],
    "function_call": ["none", {"name": "x"}],
    "parallel_tool_calls": [True, False],
    "response_format": [{"type": "json_object"}],
    "reasoning_effort": ["low"],
    "verbosity": ["high"],
    "modalities": [["text"]],
    "audio": [{}],
    "prediction": [{}],
    "web_search_options": [{}],
    "top_logprobs": [0, 20],
    "logprobs": [True, False, 5],
    "best_of": [1, 20],
    "suffix": ["."],
    "store": [True],
    "moderation": [{"model": "omni-moderation-latest"}],
    "service_tier": ["flex", "fast", "priority", ""],
    "prompt_cache_key": ["", "k" * 10_000],
    "prompt_cache_options": [{}, {"mode": "explicit"}],
    "prompt_cache_retention": ["24h"],
}
BAD: dict[str, list[Any]] = {
    "temperature": [-0.1, 2.1, "1", True, []],
    "top_p": [-1, 1.1, "1"],
    "presence_penalty": [-3, 3, {}],
    "frequency_penalty": [2.5, False],
    "max_tokens": [-2, "10", 2**60, 1.5],
    "max_completion_tokens": [-2, [1]],
    "seed": ["x", True, 0.5],
    "logit_bias": [[], "x"],
    "tools": [{}, "x"],
    "functions": [{}],
    "tool_choice": [1, [], True],
    "function_call": [1],
    "parallel_tool_calls": [1, "true"],
    "response_format": ["json", []],
    "reasoning_effort": [1, {}],
    "verbosity": [True],
    "modalities": ["text"],
    "audio": ["x"],
    "prediction": [[]],
    "web_search_options": [True],
    "top_logprobs": [21, -1, True, 1.5],
    "logprobs": ["x", 1.5, []],
    "best_of": [0, 21, 2.5],
    "suffix": [1],
    "store": [1, "true"],
    "moderation": [True, "x"],
    "service_tier": [5, []],
    "prompt_cache_key": [5],
    "prompt_cache_options": [[], "30m"],
    "prompt_cache_retention": [24],
}


def test_every_checked_field_is_tried() -> None:
    assert set(GOOD) == set(BAD) == set(CHECKS)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in GOOD.items() for value in values]
)
def test_a_field_no_flow_can_obey_is_named_as_ignored(name: str, value: Any) -> None:
    assert tuple(parameters({name: value, "unheard_of": 1})) == (name,)


@pytest.mark.parametrize("name", CHECKS)
def test_a_field_that_is_null_was_not_asked_for(name: str) -> None:
    assert tuple(parameters({name: None})) == ()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_although_it_would_be_ignored(name: str, value: Any) -> None:
    param, code = refused(lambda: parameters({name: value}))
    assert param == name
    assert code in ("invalid_type", "invalid_value")


@pytest.mark.parametrize(
    "body",
    [
        {"store": False},
        {"max_tokens": -1},
        {"max_completion_tokens": -1},
        {"service_tier": "auto"},
        {"service_tier": "default"},
        {"stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_is_done_for_every_request_is_not_named(body: dict[str, Any]) -> None:
    assert tuple(parameters(body)) == ()


def test_the_padding_of_chunks_is_named() -> None:
    assert tuple(parameters({"stream_options": {"include_obfuscation": True}})) == (
        "stream_options.include_obfuscation",
    )
    param, _ = refused(lambda: parameters({"stream_options": {"include_obfuscation": 1}}))
    assert param == "stream_options.include_obfuscation"


def test_parameters_are_named_in_one_order() -> None:
    assert tuple(parameters({"tools": [], "top_p": 1, "temperature": 1})) == ("temperature", "top_p", "tools")


@pytest.mark.parametrize(
    "body", [{"user": "u"}, {"safety_identifier": "s" * 128}, {"metadata": {"a": "b"}}, {"user": None}]
)
def test_who_asks_is_checked_and_not_named_as_ignored(body: dict[str, Any]) -> None:
    assert tuple(parameters(body)) == ()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"user": 1}, "user"),
        ({"safety_identifier": []}, "safety_identifier"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"k" * 100: None}}, "metadata." + "k" * 64),
    ],
)
def test_a_bad_identity_or_metadata_names_its_place(body: dict[str, Any], param: str) -> None:
    assert refused(lambda: parameters(body)) == (param, "invalid_type")


def test_an_identifier_of_a_person_is_not_longer_than_at_openai() -> None:
    assert refused(lambda: parameters({"safety_identifier": "s" * 129})) == (
        "safety_identifier",
        "invalid_value",
    )


def test_errors_are_in_the_words_of_openai() -> None:
    assert missing("a").message == "Missing required parameter: 'a'."
    assert openai_fields.wrong_type("a", "a string", 1).message == (
        "Invalid type for 'a': expected a string, but got an integer instead."
    )
    assert openai_fields.wrong_value("a", "no").message == "Invalid value for 'a': no."
