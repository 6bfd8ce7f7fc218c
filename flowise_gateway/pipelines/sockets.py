"""Finds the inputs for the question and the messages, and the output with the answer, by their types.

Types are recognized by the names of their classes, so that Haystack is not imported here.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["messages", "message", "texts", "text", "answers", "documents", "any", "other"]
Sockets = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""The format of `Pipeline.inputs()` and `Pipeline.outputs()`: component, socket, type and more."""

QUESTION_NAMES = frozenset(
    ("question", "query", "prompt", "text", "input", "user_input", "user_message", "user_query", "message")
)
HISTORY_NAMES = frozenset(("messages", "history", "chat_history", "conversation", "memories"))
_LISTS: Mapping[str, Kind] = {
    "ChatMessage": "messages",
    "Document": "documents",
    "GeneratedAnswer": "answers",
    "ExtractedAnswer": "answers",
    "Answer": "answers",
    "str": "texts",
}
_ANSWERS: tuple[Kind, ...] = ("answers", "messages", "message", "texts", "text", "documents")
"""Kinds of outputs that can be an answer, best first."""

_CALLBACK, _PARAMETERS = "streaming_callback", "generation_kwargs"


class Unclear(Exception):
    """The types are ambiguous; the text says what to add to `proxy.yaml`."""


@dataclass(frozen=True, slots=True)
class Place:
    """One socket of one component."""

    component: str
    socket: str

    def __str__(self) -> str:
        """The form used in `proxy.yaml`."""
        return f"{self.component}.{self.socket}"


@dataclass(frozen=True, slots=True)
class Wiring:
    """The inputs for the parts of a request, and the outputs for the parts of an answer.

    `texts` receive the plain question (a retriever's query), `prompts` a text for a model, `messages` the
    conversation with its question. Components in `beside` have a separate input for the question, so their
    messages are only the history. `templates` are prompt builders whose templates receive the messages.
    """

    texts: tuple[Place, ...] = ()
    prompts: tuple[Place, ...] = ()
    messages: tuple[Place, ...] = ()
    beside: frozenset[str] = frozenset()
    templates: tuple[str, ...] = ()
    answers: tuple[Place, ...] = ()
    speakers: tuple[str, ...] = ()  # components whose tokens are the answer
    parameterized: tuple[str, ...] = ()  # components that accept generation parameters
    sources: frozenset[str] = field(default_factory=frozenset)  # components with the answer's documents


def kind_of(kind: Any) -> Kind:
    """The kind of data that a socket's type can hold."""
    if kind is Any or getattr(kind, "__name__", "") == "Any":
        return "any"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind_of(part) for part in arguments if part is not type(None)]
        known = [each for each in (*_ANSWERS, "any") if each in kinds]
        return known[0] if known else "other"
    if origin is list and arguments:
        inner = arguments[0]
        if typing.get_origin(inner) in (typing.Union, types.UnionType):
            inner = typing.get_args(inner)[0]
        return _LISTS.get(getattr(inner, "__name__", ""), "other")
    if kind is str:
        return "text"
    return "message" if getattr(kind, "__name__", "") == "ChatMessage" else "other"


def place_of(text: str) -> Place:
    """A socket as `proxy.yaml` names it: component.socket."""
    component, _, socket = text.rpartition(".")
    return Place(component, socket)


@dataclass(frozen=True, slots=True)
class Named:
    """The sockets named in `proxy.yaml`; empty ones are found by type."""

    question: tuple[str, ...] = ()
    messages: str = ""
    answer: str = ""


def wiring(
    inputs: Sockets,
    outputs: Sockets,
    edges: Iterable[tuple[str, str]],
    templates: frozenset[str],
    named: Named,
) -> Wiring:
    """Find the inputs for a request and the output with the answer. Raises Unclear.

    `inputs` and `outputs` are those of all components, each input with `is_connected`; `templates` are the
    prompt builders whose template is a list of messages.
    """
    feeds: dict[str, set[str]] = {}
    for source, target in edges:
        feeds.setdefault(target, set()).add(source)
    answers = _answers(outputs, named)
    speakers = _speakers(answers, inputs, outputs, feeds)
    taken = _Taken(named)
    for component, sockets in inputs.items():
        for socket, about in sockets.items():
            if not about["is_connected"]:
                taken.add(Place(component, socket), about, speaks=_CALLBACK in sockets)
    taken.check(inputs)
    questioned = {place.component for place in (*taken.texts, *taken.prompts)}
    return Wiring(
        tuple(taken.texts),
        tuple(taken.prompts),
        tuple(taken.messages),
        frozenset(place.component for place in taken.messages if place.component in questioned),
        tuple(sorted(templates & questioned - {place.component for place in taken.messages})),
        answers,
        speakers,
        tuple(name for name in speakers if _PARAMETERS in inputs.get(name, {})),
        frozenset(_sources(outputs, feeds)),
    )


class _Taken:
    """Collects the inputs that a request fills."""

    def __init__(self, named: Named) -> None:
        self.texts: list[Place] = []
        self.prompts: list[Place] = []
        self.messages: list[Place] = []
        self._questions = set(map(place_of, named.question))
        self._messages = place_of(named.messages) if named.messages else None

    def add(self, place: Place, about: Mapping[str, Any], *, speaks: bool) -> None:
        """Use an input for the question or the messages, or skip it. Raises Unclear."""
        kind, is_needed = kind_of(about["type"]), about["is_mandatory"]
        may_converse = _takes_messages(kind, place.socket, is_needed=is_needed or speaks)
        if place in self._questions:
            (self.texts if kind == "text" and not speaks else self.prompts).append(place)
        elif place == self._messages or (may_converse and (is_needed or not self._messages)):
            self.messages.append(place)
        elif kind == "any" and place.socket in QUESTION_NAMES and (is_needed or not self._questions):
            self.prompts.append(place)
        elif kind == "text" and is_needed:
            (self.prompts if speaks else self.texts).append(place)
        elif is_needed:
            raise Unclear(
                f"the input {place} is mandatory, and its type does not say what to pass: connect it, give "
                "it a default, or name the inputs for the question (question:) and the messages (messages:)"
            )

    def check(self, inputs: Sockets) -> None:
        """Raise Unclear if a named input does not exist, or no input accepts the question."""
        wanted = [*self._questions, *([self._messages] if self._messages else [])]
        for place in wanted:
            if place not in (*self.texts, *self.prompts, *self.messages):
                known = ", ".join(
                    f"{name}.{socket}" for name, sockets in inputs.items() for socket in sockets
                )
                raise Unclear(f"there is no unconnected input {place}; the inputs are {known}")
        if not (self.texts or self.prompts or self.messages):
            raise Unclear(
                "no unconnected input accepts a string or messages: name one with question: or messages:"
            )


def _takes_messages(kind: Kind, socket: str, *, is_needed: bool) -> bool:
    return (kind == "messages" and is_needed) or (kind == "any" and socket in HISTORY_NAMES)


def _answers(outputs: Sockets, named: Named) -> tuple[Place, ...]:
    """The unconnected outputs that may contain the answer, best first."""
    if named.answer:
        place = place_of(named.answer)
        if place.socket not in outputs.get(place.component, {}):
            known = ", ".join(f"{name}.{socket}" for name, sockets in outputs.items() for socket in sockets)
            raise Unclear(f"there is no output {named.answer}; the outputs are {known}")
        return (place,)
    found = [
        (_ANSWERS.index(kind), Place(component, socket))
        for component, sockets in outputs.items()
        for socket, about in sockets.items()
        if not about["is_connected"] and (kind := kind_of(about["type"])) in _ANSWERS
    ]
    if not found:
        raise Unclear("no output is an answer, a message, a string or documents: name one with answer:")
    best = min(rank for rank, _ in found)
    return tuple(place for rank, place in found if rank == best)


def _speakers(
    answers: tuple[Place, ...], inputs: Sockets, outputs: Sockets, feeds: Mapping[str, set[str]]
) -> tuple[str, ...]:
    """The components whose tokens are the answer: its source, or components before a mere wrapper.

    After any other component (a validator, an adapter), the answer may differ from the tokens, so it is
    sent in one piece.
    """
    found = []
    for place in answers:
        is_wrapped = kind_of(outputs[place.component][place.socket]["type"]) == "answers"
        near = sorted(feeds.get(place.component, ())) if is_wrapped else [place.component]
        found += [name for name in near if _CALLBACK in inputs.get(name, {})]
    return tuple(dict.fromkeys(found))


def _sources(outputs: Sockets, feeds: Mapping[str, set[str]]) -> Iterator[str]:
    """The components that return the final documents, which no other component filters."""
    finders = {
        component
        for component, sockets in outputs.items()
        if any(kind_of(about["type"]) == "documents" for about in sockets.values())
    }
    passed_on = {source for target in finders for source in feeds.get(target, ())}
    return iter(finders - passed_on)
