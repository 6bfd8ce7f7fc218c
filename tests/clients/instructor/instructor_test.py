"""Instructor, which asks for objects, in each of its modes for OpenAI's client."""

from __future__ import annotations

import pytest

from tests.clients.bench import Bench, Json
from tests.clients.checks import PIXEL, SCHEMA, said
from tests.clients.matrix import Cell, Check, Client
from tests.support.documents import PDF

pytestmark = pytest.mark.clients

OBJECT = "it returns validated objects, not text"


def model_of(cell: Cell) -> str:
    """A flow that is told of functions, where the object is a function's arguments."""
    return "prompted" if "tools" in cell.surface else "demo-assistant"


def asked(bench: Bench, cell: Cell, *texts: str | Json, stream: bool = False) -> Json:
    """The answer to these turns, a run each."""
    case = {"model": model_of(cell), "stream": stream, "schema": SCHEMA, "turns": said(*texts)}
    return bench.ask(cell.client, cell.surface, case, runs=len(texts))


def structured(bench: Bench, cell: Cell) -> None:
    """The object comes whole, and in parts by `create_partial`."""
    for stream in cell.streams:
        found = asked(bench, cell, "The weather in Paris", stream=stream)["object"]
        # The demo's model takes a word of what it is asked; that mode asks for JSON in the user's words.
        assert found.keys() == {"city", "degrees"}
        assert found["degrees"] == 42
        assert found["city"] == "Paris" or cell.surface == "markdown json"


def memory(bench: Bench, cell: Cell) -> None:
    """The third object is asked for in knowledge of the first two turns."""
    asked(bench, cell, "First of all", "And then", "At last")
    messages = bench.upstream.messages()
    assert any("First of all" in message for message in messages)
    assert "At last" in messages[-1]


def edit(bench: Bench, cell: Cell) -> None:
    """The second message is edited: the old one is not remembered."""
    asked(bench, cell, "First of all", "And then", {"text": "And otherwise", "keep": 1}, "At last")
    messages = "\n".join(bench.upstream.messages())
    assert "First of all" in messages
    assert "And otherwise" in messages
    assert "And then" not in messages


def usage(bench: Bench, cell: Cell) -> None:
    """`create_with_completion` gives the completion with its usage."""
    found = asked(bench, cell, "The weather in Paris")["usage"]
    assert found["input"] > 0
    assert found["output"] > 0
    assert found["total"] == found["input"] + found["output"]


def retry(bench: Bench, cell: Cell) -> None:
    """Flowise is away for a moment, so that nothing has run: the client asks again, and one run answers."""
    for stream in cell.streams:
        with bench.upstream.refuse_once():
            asked(bench, cell, "The weather in Paris", stream=stream)


def image(bench: Bench, cell: Cell) -> None:
    """An image reaches the flow as the user's file, whatever its answer is."""
    turn = {"text": "The weather in Paris", "image": f"data:image/png;base64,{PIXEL}"}
    bench.attempt(cell.client, cell.surface, {"model": "demo-agent", "turns": [turn]}, runs=1)
    assert bench.upstream.image().startswith("data:image/png")


def document(bench: Bench, cell: Cell) -> None:
    """A PDF's text reaches the flow, whatever its answer is."""
    turn = {"text": "The weather in Paris", "document": {"name": "notes.pdf", "data": PDF}}
    bench.attempt(cell.client, cell.surface, {"model": "demo-files", "turns": [turn]}, runs=1)
    assert bench.upstream.document_text in bench.upstream.messages()[-1]


OWN = (structured, memory, edit, usage, retry, image, document)
CLIENT = Client(
    "Instructor",
    "instructor",
    "instructor",
    surfaces=("tools", "json schema", "json", "markdown json", "responses tools"),
    missing={
        **dict.fromkeys(("plain", "stream", "midway", "stop", "approval", "reasoning", "sources"), OBJECT),
        "tools": "the only function that it offers a model is the object that it asks for",
    },
    unstreamed={"usage": "`create_partial` gives the object without its completion"},
    notes={
        "structured": "an object that is not valid is asked for again, a further run, unless `max_retries=0`"
    },
    own={check.__name__: check for check in OWN},
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_instructor(cell: Cell, check: Check) -> None:
    check(cell)
