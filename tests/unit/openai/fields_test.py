"""Fields of a request: each bad value is a 400 that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowise_gateway.flow.errors import BadRequest, error_body
from flowise_gateway.openai import fields as openai_fields
from flowise_gateway.openai.fields import (
    CHECKS,
    boolean,
    integer,
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
