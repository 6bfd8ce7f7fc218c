"""Where requests go in a pipeline and where answers come from, by the types of its sockets."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from flowise_gateway.pipelines.sockets import Named, Place, Unclear, Wiring, kind_of, wiring


class ChatMessage:
    """Named as Haystack's."""


class Document:
    """Named as Haystack's."""


class GeneratedAnswer:
    """Named as Haystack's."""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, "text"),
        (str | None, "text"),
        (list[str], "texts"),
        (list[str] | list[ChatMessage], "messages"),
        (list[ChatMessage] | str, "messages"),
        (list[ChatMessage | str], "messages"),
        (ChatMessage, "message"),
        (list[Document], "documents"),
        (list[GeneratedAnswer], "answers"),
        (Any, "any"),
        (Any | None, "any"),
        (int, "other"),
        (int | None, "other"),
        (list[int], "other"),
        (list, "other"),
        (Annotated[str, "variadic"], "other"),
        (dict[str, Any], "other"),
    ],
)
def test_kinds(kind: Any, expected: str) -> None:
    assert kind_of(kind) == expected


def about(kind: Any, *, needed: bool = True, connected: bool = False) -> dict[str, Any]:
    return {"type": kind, "is_mandatory": needed, "is_connected": connected}


GENERATOR = {
    "messages": about(list[ChatMessage]),
    "streaming_callback": about(Any, needed=False),
    "generation_kwargs": about(dict[str, Any], needed=False),
}
REPLIES = {"replies": about(list[ChatMessage], needed=False)}


def found(
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    edges: Any = (),
    *,
    templates: tuple[str, ...] = (),
    named: Named | None = None,
) -> Wiring:
    return wiring(inputs, outputs, edges, frozenset(templates), named or Named())


def test_a_generator_alone() -> None:
    assert found({"llm": GENERATOR}, {"llm": REPLIES}) == Wiring(
        messages=(Place("llm", "messages"),),
        answers=(Place("llm", "replies"),),
        speakers=("llm",),
        parameterized=("llm",),
    )


def test_a_template_takes_the_conversation_and_a_retriever_the_bare_question() -> None:
    inputs = {
        "retriever": {"query": about(str), "top_k": about(int, needed=False)},
        "ranker": {"query": about(str), "documents": about(list[Document], connected=True)},
        "prompt": {
            "documents": about(Any, connected=True),
            "question": about(Any),
            "template": about(Any, needed=False),
        },
        "llm": {**GENERATOR, "messages": about(list[ChatMessage], connected=True)},
    }
    outputs = {
        "retriever": {"documents": about(list[Document], connected=True)},
        "ranker": {"documents": about(list[Document], connected=True)},
        "prompt": {"prompt": about(list[ChatMessage], connected=True)},
        "llm": REPLIES,
    }
    edges = [("retriever", "ranker"), ("ranker", "prompt"), ("prompt", "llm")]
    wired = found(inputs, outputs, edges, templates=("prompt",))
    assert wired.texts == (Place("retriever", "query"), Place("ranker", "query"))
    assert wired.prompts == (Place("prompt", "question"),)
    assert (wired.messages, wired.templates, wired.beside) == ((), ("prompt",), frozenset())
    assert (wired.sources, wired.speakers) == (frozenset({"ranker"}), ("llm",))


def test_a_history_of_its_own_leaves_the_question_beside_it() -> None:
    inputs = {"prompt": {"question": about(Any), "history": about(Any, needed=False)}}
    wired = found(inputs, {"prompt": {"text": about(str)}}, templates=("prompt",))
    assert (wired.messages, wired.beside, wired.templates) == (
        (Place("prompt", "history"),),
        frozenset({"prompt"}),
        (),
    )


def test_tokens_behind_what_may_change_them_are_not_the_answers() -> None:
    llm = {"llm": {"replies": about(list[ChatMessage], connected=True)}}
    wrapped = found(
        {"llm": GENERATOR, "wrap": {"replies": about(list[ChatMessage], connected=True)}},
        {**llm, "wrap": {"answers": about(list[GeneratedAnswer])}},
        [("llm", "wrap")],
    )
    assert wrapped.speakers == ("llm",)
    adapted = found(
        {"llm": GENERATOR, "adapt": {"replies": about(list[ChatMessage], connected=True)}},
        {**llm, "adapt": {"output": about(str)}},
        [("llm", "adapt")],
    )
    assert adapted.speakers == ()
    named = Named(answer="llm.replies")
    assert found({"llm": GENERATOR}, {**llm, "adapt": {"output": about(str)}}, named=named).speakers == (
        "llm",
    )


def test_of_two_branches_each_may_answer() -> None:
    wired = found({"one": GENERATOR, "two": GENERATOR}, {"one": REPLIES, "two": REPLIES})
    assert wired.answers == (Place("one", "replies"), Place("two", "replies"))
    assert wired.speakers == ("one", "two")


def test_a_generator_of_texts_takes_a_prompt() -> None:
    inputs = {"llm": {"prompt": about(str), "streaming_callback": about(Any, needed=False)}}
    assert found(inputs, {"llm": {"replies": about(list[str])}}).prompts == (Place("llm", "prompt"),)


def test_named_sockets_keep_others_out() -> None:
    inputs = {
        "prompt": {"question": about(Any, needed=False), "query": about(Any, needed=False)},
        "llm": {**GENERATOR, "messages": about(list[ChatMessage], needed=False)},
    }
    named = Named(question=("prompt.query",))
    wired = found(inputs, {"llm": REPLIES}, named=named)
    assert (wired.prompts, wired.messages) == ((Place("prompt", "query"),), (Place("llm", "messages"),))
    wired = found(inputs, {"llm": REPLIES}, named=Named(messages="prompt.query"))
    assert wired.messages == (Place("prompt", "query"),)


@pytest.mark.parametrize(
    ("inputs", "outputs", "named", "told"),
    [
        ({"a": {"x": about(int)}}, {"a": {"t": about(str)}}, Named(), "the input a.x is mandatory"),
        (
            {"a": {"x": about(int, needed=False)}},
            {"a": {"t": about(str)}},
            Named(),
            "no unconnected input accepts",
        ),
        ({"llm": GENERATOR}, {"llm": {"n": about(int)}}, Named(), "no output is an answer"),
        (
            {"llm": GENERATOR},
            {"llm": REPLIES},
            Named(question=("llm.q",)),
            "there is no unconnected input llm.q",
        ),
        (
            {"llm": GENERATOR},
            {"llm": REPLIES},
            Named(messages="llm.q"),
            "there is no unconnected input llm.q",
        ),
        ({"llm": GENERATOR}, {"llm": REPLIES}, Named(answer="llm.q"), "there is no output llm.q"),
    ],
)
def test_what_types_do_not_tell_is_asked_for(inputs: Any, outputs: Any, named: Named, told: str) -> None:
    with pytest.raises(Unclear, match=told):
        found(inputs, outputs, named=named)
