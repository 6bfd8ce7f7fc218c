"""What a request asks beside its question, in the inputs that a flow has enabled."""

from __future__ import annotations

from typing import Any

import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.turn import Turn, Upload
from flowise_gateway.flowise.overrides import OverriddenTurn, takes_system_text, with_overrides

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"


def model(*inputs: str, system: str = "auto") -> Model:
    """A flow with these inputs enabled."""
    return Model("m", FLOW, "M", inputs=dict.fromkeys(inputs, "node"), system=system)


def passed_on(turn: Turn, passed: dict[str, Any], *inputs: str) -> Turn:
    """The turn with Flowise's own fields."""
    return with_overrides(turn, model(*inputs), {}, "", passed).turn


def passing(overriding: dict[str, Any], *inputs: str, text: str = "", **parameters: Any) -> OverriddenTurn:
    """A request with an `overrideConfig`."""
    turn = Turn(FLOW, "q", instructions=text)
    return with_overrides(turn, model(*inputs), parameters, "", {"overrideConfig": overriding})


def overrides(parameters: dict[str, Any], *inputs: str, user: str = "", text: str = "") -> Any:
    """What is overridden for a request."""
    return with_overrides(Turn(FLOW, "q", instructions=text), model(*inputs), parameters, user).turn.overrides


@pytest.mark.parametrize(
    ("inputs", "text", "takes"),
    [
        ((), "a", False),
        (("temperature",), "a", False),
        (("systemMessage",), "a {{b}}", True),
        (("systemMessagePrompt",), "a", True),
        (("llmMessages",), "a {b}", True),
        (("agentMessages",), "a {{b}}", False),
    ],
)
def test_a_system_text_has_a_place_where_an_input_takes_it_unharmed(
    inputs: tuple[str, ...], text: str, takes: bool
) -> None:
    assert takes_system_text(model(*inputs), text) is takes


def test_a_system_text_goes_where_the_operator_wants_it() -> None:
    assert takes_system_text(model("systemMessage", system="override"), "a")
    assert not takes_system_text(model("systemMessage", system="question"), "a")
    assert not takes_system_text(Model("m", FLOW, "M"), "a")


def test_braces_are_doubled_for_a_chatflow_only() -> None:
    text = 'As {"a": {b}}'
    assert overrides({}, "systemMessage", text=text) == {"systemMessage": 'As {{"a": {{b}}}}'}
    message = [{"role": "system", "content": text}]
    both = {"agentMessages": message, "llmMessages": message}
    assert overrides({}, "agentMessages", "llmMessages", text=text) == both
    fit = with_overrides(Turn(FLOW, "q", instructions=text), model("systemMessage"), {}, "")
    assert fit.turn.instructions == ""
    assert with_overrides(Turn(FLOW, "q", instructions=text), model(), {}, "").turn.instructions == text


@pytest.mark.parametrize(
    ("asked", "inputs", "expected"),
    [
        ({"temperature": 0.2}, ("temperature",), {"temperature": 0.2}),
        ({"top_p": 0.5}, ("topP",), {"topP": 0.5}),
        ({"max_tokens": 9}, ("maxOutputTokens",), {"maxOutputTokens": 9}),
        (
            {"temperature": 0, "frequency_penalty": 0.0},
            ("temperature", "frequencyPenalty"),
            {"temperature": "0", "frequencyPenalty": "0.0"},
        ),
        ({"max_completion_tokens": 9}, ("maxTokens",), {"maxTokens": 9}),
        ({"max_output_tokens": 9}, ("maxTokens",), {"maxTokens": 9}),
        ({"reasoning_effort": "low"}, ("reasoningEffort",), {"reasoningEffort": "low"}),
        (
            {"temperature": 1, "top_p": 0.5},
            ("llmModelConfig",),
            {"llmModelConfig": {"temperature": 1, "topP": 0.5}},
        ),
    ],
)
def test_parameters_go_to_the_inputs_that_have_them(
    asked: dict[str, Any], inputs: tuple[str, ...], expected: dict[str, Any]
) -> None:
    fit = with_overrides(Turn(FLOW, "q"), model(*inputs), asked, "")
    assert (fit.turn.overrides, fit.ignored) == (expected, ())


def test_what_the_flow_has_no_input_for_is_named() -> None:
    fit = with_overrides(Turn(FLOW, "q"), model("temperature"), {"temperature": 0, "top_p": 1, "seed": 2}, "")
    assert (fit.turn.overrides, fit.ignored) == ({"temperature": "0"}, ("top_p", "seed"))


@pytest.mark.parametrize("config", ["llmModelConfig", "agentModelConfig", "conditionAgentModelConfig"])
def test_an_agentflows_model_takes_what_its_node_reads_whichever_it_is(config: str) -> None:
    fit = with_overrides(
        Turn(FLOW, "q"), model(config), {"temperature": 0, "max_tokens": 9, "top_p": 1, "seed": 2}, ""
    )
    tokens = dict.fromkeys(("maxTokens", "maxOutputTokens", "maxTokensToSample", "numPredict"), 9)
    assert fit.turn.overrides == {config: {"temperature": "0", **tokens, "topP": 1}}
    assert fit.ignored == ("seed",)


@pytest.mark.parametrize("name", ["systemMessage", "systemMessagePrompt", "agentMessages", "llmMessages"])
def test_an_explicit_override_and_a_system_text_are_both_heard(name: str) -> None:
    fit = passing({name: "of Flowise's"}, name, text="of OpenAI's")
    assert fit.turn.overrides == {name: "of Flowise's"}
    assert fit.turn.instructions == "of OpenAI's", "it goes with the question"
    assert fit.ignored == ()
    assert not takes_system_text(model(name), "a", {"overrideConfig": {name: "b"}})
    closed = passing({name: "of Flowise's"}, "systemPrompt", text="of OpenAI's")
    assert closed.turn.overrides == {name: "of Flowise's", "systemPrompt": "of OpenAI's"}
    assert closed.ignored == (f"overrideConfig.{name}",)


def test_an_explicit_override_beats_a_parameter_which_is_named() -> None:
    fit = passing({"temperature": 1}, "temperature", "topP", temperature=0.5, top_p=0.1)
    assert (fit.turn.overrides, fit.ignored) == ({"temperature": 1, "topP": 0.1}, ("temperature",))
    fit = passing({"llmModelConfig": {"temperature": 1}}, "llmModelConfig", temperature=0.5, top_p=0.1)
    assert fit.turn.overrides == {"llmModelConfig": {"temperature": 1, "topP": 0.1}}
    assert fit.ignored == ("temperature",)
    fit = passing({"llmModelConfig": "{}"}, "llmModelConfig", temperature=0.5)
    assert (fit.turn.overrides, fit.ignored) == ({"llmModelConfig": "{}"}, ("temperature",))


def test_an_override_that_is_not_enabled_is_named() -> None:
    given = {"sessionId": "s", "analytics": {}, "temperature": 1, "topP": 1, "vars": {"a": 1, "b": 2}}
    fit = passing(given, "temperature", "vars.b")
    assert fit.ignored == ("vars.a", "overrideConfig.topP")
    assert fit.turn.overrides == {name: value for name, value in given.items() if name != "sessionId"}
    unknown = with_overrides(Turn(FLOW, "q"), Model("m", FLOW, "M"), {}, "", {"overrideConfig": given})
    assert unknown.ignored == (), "where Flowise does not tell, it may be enabled"


def test_an_object_is_merged_without_asking_unless_it_is_about_nodes() -> None:
    given = {"llmModelConfig": {"temperature": 1}, "systemMessage": {"toolAgent_0": "a"}}
    assert passing(given, "topP").ignored == ("overrideConfig.systemMessage",)
    assert passing(given).ignored == ("overrideConfig.llmModelConfig", "overrideConfig.systemMessage")


def test_what_is_false_to_javascript_is_sent_so_that_it_is_heard() -> None:
    given = {"a": 0, "b": False, "c": "", "d": None}
    fit = passing(given, *given)
    assert fit.turn.overrides == {"a": "0", "b": "false", "c": "", "d": None}
    assert fit.ignored == ("overrideConfig.c", "overrideConfig.d"), "these cannot be said to Flowise"


def test_a_form_takes_the_questions_place_and_the_system_texts_before_it() -> None:
    turn = Turn(FLOW, "q", instructions="Be brief.")
    form = {"form": {"city": "Rome"}}
    assert with_overrides(turn, model(), {}, "", form).ignored == ("system",)
    fit = with_overrides(turn, model("systemMessage"), {}, "", form)
    assert (fit.turn.overrides, fit.ignored) == ({"systemMessage": "Be brief."}, ())
    assert fit.turn.extra == form


def test_the_user_is_a_variable_where_the_flow_has_one() -> None:
    assert overrides({}, "vars.userId", "vars.user", user="ann") == {"vars": {"user": "ann", "userId": "ann"}}
    assert overrides({}, "vars.userId") == {}
    assert overrides({}, user="ann") == {}


def test_flowises_own_fields_are_passed_on_but_for_the_session() -> None:
    turn = passed_on(
        Turn(FLOW, "q", overrides={"temperature": 0, "vars": {"user": "ann"}}),
        {
            "overrideConfig": {"sessionId": "theirs", "temperature": 1, "vars": {"a": "b"}},
            "vars": {"c": "d"},
            "form": {"x": 1},
            "leadEmail": "a@b.c",
            "humanInput": {"type": "proceed"},
            "uploads": [{"type": "url", "name": "a", "mime": "image/png", "data": "https://x.y/a.png"}],
        },
    )
    assert turn.overrides == {"temperature": 1, "vars": {"user": "ann", "a": "b", "c": "d"}}
    assert turn.extra == {"form": {"x": 1}, "leadEmail": "a@b.c"}
    assert turn.human_input == {"type": "proceed"}
    assert turn.uploads == (Upload("url", "a", "image/png", "https://x.y/a.png"),)
    assert passed_on(turn, {}) == turn


@pytest.mark.parametrize(
    "upload",
    [
        5,
        {},
        {"type": "file", "name": "a", "mime": 5, "data": "x"},
        {"type": "x", "name": "a", "mime": "b", "data": "c"},
    ],
)
def test_an_upload_that_is_none_is_refused_by_its_place(upload: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        passed_on(Turn(FLOW, "q"), {"uploads": [upload]})
    assert caught.value.param == "uploads[0]"
