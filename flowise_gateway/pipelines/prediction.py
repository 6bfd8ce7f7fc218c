"""Converts the body of a prediction to the inputs of a pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flowise_gateway.pipelines.sockets import Place, Wiring

Inputs = dict[str, dict[str, Any]]
PARAMETERS: Mapping[str, str] = {
    "temperature": "temperature",
    "topP": "top_p",
    "maxTokens": "max_tokens",
    "frequencyPenalty": "frequency_penalty",
    "presencePenalty": "presence_penalty",
    "reasoningEffort": "reasoning_effort",
}
"""Inputs of Flowise's model nodes, and their names in `generation_kwargs`."""

SYSTEM_INPUT = "systemMessagePrompt"
_PICTURE = re.compile(r"data:(image/[\w.+-]+)(?:;[\w=.-]+)*;base64,")
_NUMBER = re.compile(r"-?\d{1,12}(\.\d{1,12})?")


class BadPrediction(Exception):
    """The pipeline does not accept this body; the text says why."""


class Messages(Protocol):
    """Creates messages of the pipeline's library."""

    def user(self, text: str, pictures: tuple[tuple[str, str], ...] = ()) -> Any:
        """A user's message with images, each a media type and base64 data."""

    def assistant(self, text: str) -> Any:
        """A model's message."""

    def system(self, text: str) -> Any:
        """A system message."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A parsed prediction request."""

    question: str
    history: tuple[tuple[str, str], ...]  # "user" or "assistant", and the text
    system: str
    parameters: Mapping[str, Any]
    pictures: tuple[tuple[str, str], ...]


def prediction(body: Mapping[str, Any], *, takes_images: bool) -> Prediction:
    """Parse a body. Raises BadPrediction."""
    question = body.get("question") or ""
    if not isinstance(question, str):
        raise BadPrediction("question must be a string")
    for name in ("form", "humanInput"):
        if body.get(name):
            raise BadPrediction(f"a pipeline does not accept {name}")
    given = body.get("overrideConfig")
    overrides = given if isinstance(given, dict) else {}
    system = overrides.get(SYSTEM_INPUT)
    # Doubled braces are escaped ones, as in the prompt templates of Flowise's chatflows.
    system = system.replace("{{", "{").replace("}}", "}") if isinstance(system, str) else ""
    found = {name: _value(overrides[name]) for name in PARAMETERS if name in overrides}
    parameters = {PARAMETERS[name]: value for name, value in found.items()}
    return Prediction(
        question, _history(body), system, parameters, _pictures(body, takes_images=takes_images)
    )


def _history(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    roles = {"userMessage": "user", "apiMessage": "assistant"}
    items = body.get("history") or []
    if not isinstance(items, list):
        raise BadPrediction("history must be a list")
    turns = []
    for item in items:
        role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
        if role not in roles or not isinstance(content, str):
            raise BadPrediction(
                'each history item must have { role: "apiMessage" | "userMessage", content: string }'
            )
        turns.append((roles[role], content))
    return tuple(turns)


def _pictures(body: Mapping[str, Any], *, takes_images: bool) -> tuple[tuple[str, str], ...]:
    uploads = body.get("uploads") or []
    if not isinstance(uploads, list):
        raise BadPrediction("uploads must be a list")
    pictures = []
    for upload in uploads:
        data = upload.get("data") if isinstance(upload, dict) else None
        head = _PICTURE.match(data[:200]) if isinstance(data, str) else None
        if not takes_images or head is None or not isinstance(data, str):
            raise BadPrediction(
                "a pipeline only accepts images as data URIs, and only if its entry says images: true"
            )
        pictures.append((head[1], data[head.end() :]))
    return tuple(pictures)


def _value(value: Any) -> Any:
    """A parameter; numbers may be strings."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return value


def pipeline_inputs(
    asked: Prediction, wiring: Wiring, make: Messages, template_of: Callable[[str], list[Any]]
) -> Inputs:
    """The arguments of `Pipeline.run`; `template_of` returns the template of a prompt builder."""
    data: Inputs = {}

    def put(place: Place, value: Any) -> None:
        data.setdefault(place.component, {})[place.socket] = value

    places_for_messages = bool(wiring.messages or wiring.templates)
    before = [make.user(text) if role == "user" else make.assistant(text) for role, text in asked.history]
    system = [make.system(asked.system)] if asked.system else []
    for place in wiring.texts:
        put(place, asked.question)
    for place in wiring.prompts:
        put(place, asked.question if places_for_messages else folded(asked))
    for place in wiring.messages:
        own = [] if place.component in wiring.beside else [make.user(asked.question, asked.pictures)]
        put(place, [*system, *before, *own])
    for component in wiring.templates:
        template, variables = with_history(template_of(component), asked, make)
        data.setdefault(component, {}).update(template=template, template_variables=variables)
    for component in wiring.parameterized if asked.parameters else ():
        data.setdefault(component, {})["generation_kwargs"] = dict(asked.parameters)
    return data


def with_history(template: list[Any], asked: Prediction, make: Messages) -> tuple[list[Any], dict[str, str]]:
    """A prompt builder's template with the conversation inserted before its last messages.

    Users' texts are passed as variables, never as template text, since braces in it would be evaluated.
    """
    lead = 0
    while lead < len(template) and getattr(template[lead].role, "value", template[lead].role) == "system":
        lead += 1
    variables: dict[str, str] = {}

    def named(text: str) -> str:
        name = f"conversation_text_{len(variables)}"
        variables[name] = text
        return "{{ " + name + " }}"

    system = [make.system(named(asked.system))] if asked.system else []
    history = [
        make.user(named(text)) if role == "user" else make.assistant(text) for role, text in asked.history
    ]
    return [*template[:lead], *system, *history, *template[lead:]], variables


def folded(asked: Prediction) -> str:
    """Question, history and system text as one text, for pipelines without message inputs."""
    parts = [f"[System instructions]\n{asked.system}\n[End of system instructions]"] if asked.system else []
    if asked.history:
        names = {"user": "User", "assistant": "Assistant"}
        turns = "\n\n".join(f"{names[role]}: {text}" for role, text in asked.history)
        parts.append(f"[Earlier conversation]\n{turns}\n[End of earlier conversation]")
    return "\n\n".join([*parts, asked.question])
