"""A prediction's body as a pipeline's inputs."""

from __future__ import annotations

from typing import Any

from flowise_gateway.pipelines.prediction import folded, pipeline_inputs, prediction
from flowise_gateway.pipelines.sockets import Place, Wiring

HISTORY = [{"role": "userMessage", "content": "a {{ b }}"}, {"role": "apiMessage", "content": "c {% d %}"}]


class Message:
    """A message as Haystack's."""

    def __init__(self, role: str, text: str) -> None:
        self.role, self.text = role, text


class Make:
    """Makes messages."""

    def user(self, text: str, pictures: tuple[tuple[str, str], ...] = ()) -> Any:
        return Message("user", text + "".join(kind for kind, _ in pictures))

    def assistant(self, text: str) -> Any:
        return Message("assistant", text)

    def system(self, text: str) -> Any:
        return Message("system", text)


def plain(messages: list[Any]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]


BODY = {
    "question": "e",
    "history": HISTORY,
    "overrideConfig": {"systemMessagePrompt": "{{f}}", "temperature": "0"},
}


def test_what_people_said_is_never_part_of_a_template() -> None:
    own = [Message("system", "You help."), Message("user", "{{ question }}")]
    wired = Wiring(prompts=(Place("prompt", "question"),), templates=("prompt",), parameterized=("llm",))
    data = pipeline_inputs(prediction(BODY, takes_images=False), wired, Make(), lambda _name: own)
    variables = data["prompt"]["template_variables"]
    assert plain(data["prompt"]["template"]) == [
        ("system", "You help."),
        ("system", "{{ conversation_text_0 }}"),
        ("user", "{{ conversation_text_1 }}"),
        ("assistant", "c {% d %}"),  # Haystack copies what a model said
        ("user", "{{ question }}"),
    ]
    assert variables == {"conversation_text_0": "{f}", "conversation_text_1": "a {{ b }}"}
    assert data["prompt"]["question"] == "e"
    assert data["llm"] == {"generation_kwargs": {"temperature": 0}}


def test_messages_beside_a_question_are_those_before_it() -> None:
    wired = Wiring(
        prompts=(Place("p", "question"),),
        messages=(Place("p", "history"), Place("llm", "messages")),
        beside=frozenset({"p"}),
    )
    data = pipeline_inputs(prediction(BODY, takes_images=False), wired, Make(), lambda _name: [])
    before = [("system", "{f}"), ("user", "a {{ b }}"), ("assistant", "c {% d %}")]
    assert plain(data["p"]["history"]) == before
    assert plain(data["llm"]["messages"]) == [*before, ("user", "e")]


def test_a_text_alone_is_told_of_all() -> None:
    asked = prediction({"question": "e"}, takes_images=False)
    assert folded(asked) == "e"
    told = folded(prediction(BODY, takes_images=False))
    assert told.startswith("[System instructions]\n{f}\n")
    assert told.endswith("Assistant: c {% d %}\n[End of earlier conversation]\n\ne")


def test_a_picture_is_taken_as_it_came() -> None:
    upload = {"type": "file", "data": "data:image/png;charset=x;base64,AAAA"}
    asked = prediction({"question": "e", "uploads": [upload]}, takes_images=True)
    assert asked.pictures == (("image/png", "AAAA"),)
    assert prediction(
        {"overrideConfig": {"topP": "0.5", "temperature": "high"}}, takes_images=False
    ).parameters == {
        "temperature": "high",
        "top_p": 0.5,
    }
