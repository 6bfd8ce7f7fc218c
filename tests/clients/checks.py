"""The test behind each cell of the table: what the client understands must be what the gateway sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.clients.bench import Bench, Json, unsigned
from tests.clients.matrix import Cell
from tests.support.documents import PDF

FLOWS = ("demo-assistant", "demo-agent", "demo-sources", "demo-json", "demo-approval", "demo-files")
QUESTION = "Use the calculator: 6*7"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAIAAAACUFjqAAAAEklEQVR4nGP4z8CAB+GTG8HSALfKY52fTcuYAAAAAElFTkSuQmCC"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
FINISHED = ("stop", "completed", None)


def said(*texts: str | Json) -> list[Json]:
    """The turns of a user."""
    return [{"text": text} if isinstance(text, str) else text for text in texts]


def plain(bench: Bench, cell: Cell) -> None:
    """Each kind of flow answers, without streaming."""
    _texts(bench, cell, stream=False)


def stream(bench: Bench, cell: Cell) -> None:
    """Each kind of flow answers as a stream."""
    pieces = _texts(bench, cell, stream=True)
    # Of one short answer all tokens may arrive together on a busy machine.
    assert max(pieces.values()) > 1, "every stream came in one piece"


def _texts(bench: Bench, cell: Cell, *, stream: bool) -> dict[str, int]:
    pieces = {}
    for model in FLOWS:
        answer = _answer(bench, cell, model=model, stream=stream)
        message = bench.whole(cell.client, model, QUESTION)
        assert unsigned(answer["text"]).strip() == unsigned(message["content"]).strip(), model
        assert not answer.get("toolCalls"), model
        assert answer.get("finish") in FINISHED, model
        pieces[model] = answer.get("pieces", 1)
    return pieces


def _answer(bench: Bench, cell: Cell, **case: Any) -> Json:
    return bench.ask(cell.client, cell.surface, {"turns": said(QUESTION), **case})


def memory(bench: Bench, cell: Cell) -> None:
    """Three turns: the third answer takes the first two into account."""
    for model in ("demo-assistant", "demo-agent"):
        for stream in cell.streams:
            case = {"model": model, "stream": stream, "turns": said("First of all", "And then", "At last")}
            answer = bench.ask(cell.client, cell.surface, case, runs=3)
            assert bench.upstream.repeats(answer["text"], "At last"), answer["texts"]
            assert bench.upstream.remembered(answer["text"]) == 4, answer["texts"]


def edit(bench: Bench, cell: Cell) -> None:
    """The second message is edited, its answer regenerated, the chat continued: the old branch is gone."""
    edited = {"text": "And otherwise", "keep": 1}
    case = {"model": "demo-assistant", "turns": said("First of all", "And then", edited, edited, "At last")}
    for stream in cell.streams:
        answer = bench.ask(cell.client, cell.surface, {**case, "stream": stream}, runs=5)
        remembered = [bench.upstream.remembered(text) for text in answer["texts"]]
        assert remembered == [0, 2, 2, 2, 4], answer["texts"]


def error(bench: Bench, cell: Cell) -> None:
    """The flow fails before its first token: the client reports the error and does not retry."""
    for stream in cell.streams:
        case = {"model": "demo-errors", "stream": stream, "turns": said("fail400")}
        answer = bench.attempt(cell.client, cell.surface, case, runs=1)
        assert "The fake model broke" in answer.get("error", ""), answer


def midway(bench: Bench, cell: Cell) -> None:
    """The flow fails in the middle of its answer: the client reports the error and does not retry."""
    case = {"model": "demo-errors", "stream": True, "turns": said("failmid")}
    answer = bench.attempt(cell.client, cell.surface, case, runs=1)
    assert "The flow failed" in answer.get("error", ""), answer


def stop(bench: Bench, cell: Cell) -> None:
    """The client disconnects after two chunks: the run in Flowise is aborted."""
    case = {"model": "demo-agent-errors", "stream": True, "turns": said("slow"), "stopAfter": 2}
    answer = bench.ask(cell.client, cell.surface, case)
    assert answer["text"].startswith("word0"), answer
    assert len(answer["text"]) < 200, answer
    assert bench.upstream.is_aborted()


def retry(bench: Bench, cell: Cell) -> None:
    """Flowise is briefly unavailable, and nothing has run: the client retries, and one run answers."""
    for stream in cell.streams:
        with bench.upstream.refuse_once():
            answer = _answer(bench, cell, model="demo-assistant", stream=stream)
        assert bench.upstream.repeats(answer["text"], QUESTION)


def image(bench: Bench, cell: Cell) -> None:
    """An image reaches the flow as an upload."""
    turn = {"text": "What is this?", "image": f"data:image/png;base64,{PIXEL}"}
    for stream in cell.streams:
        bench.ask(cell.client, cell.surface, {"model": "demo-agent", "stream": stream, "turns": [turn]})
        assert bench.upstream.image().startswith("data:image/")


def document(bench: Bench, cell: Cell) -> None:
    """The text of a PDF reaches the flow."""
    turn = {"text": "What does it say?", "document": {"name": "notes.pdf", "data": PDF}}
    for stream in cell.streams:
        bench.ask(cell.client, cell.surface, {"model": "demo-files", "stream": stream, "turns": [turn]})
        question = bench.upstream.messages()[-1]
        assert bench.upstream.document_text in question, question
        assert "What does it say?" in question


def tools(bench: Bench, cell: Cell) -> None:
    """The flow calls a tool of the client, and uses its result in the answer."""
    for stream in cell.streams:
        case = {
            "model": "prompted",
            "stream": stream,
            "tools": True,
            "turns": said("Use get_weather for Paris"),
        }
        answer = bench.ask(cell.client, cell.surface, case, runs=2)
        [call] = answer["toolCalls"]
        assert call["name"] == "get_weather"
        # Some clients make the schema of a function themselves, and have no enumerations.
        assert call["arguments"] in ({"city": "Paris", "unit": "C"}, {"city": "Paris"}), call
        # Most send it as a tool's result, which the demo's model names; smolagents says it as a user.
        assert "It is 7 degrees." in answer["text"], answer


def structured(bench: Bench, cell: Cell) -> None:
    """The client requests JSON of a schema, and parses it from the answer."""
    for stream in cell.streams:
        case = {
            "model": "demo-assistant",
            "stream": stream,
            "schema": SCHEMA,
            "turns": said("The weather in Paris"),
        }
        answer = bench.ask(cell.client, cell.surface, case)
        assert answer["object"] == {"city": "Paris", "degrees": 42}


def usage(bench: Bench, cell: Cell) -> None:
    """The client reports the token usage that the gateway returns."""
    for model in FLOWS:
        for stream in cell.streams:
            answer = _answer(bench, cell, model=model, stream=stream)
            counted = bench.whole(cell.client, model, QUESTION)["usage"]
            names = {"input": "prompt_tokens", "output": "completion_tokens", "total": "total_tokens"}
            found = answer["usage"]
            assert found == {name: counted[names[name]] for name in found}, model
            assert {"input", "output"} <= found.keys()


def reasoning(bench: Bench, cell: Cell) -> None:
    """The client shows the agent's steps as reasoning."""
    thought = bench.whole(cell.client, "demo-agent", QUESTION)["reasoning_content"]
    assert thought
    for stream in cell.streams:
        assert _answer(bench, cell, model="demo-agent", stream=stream)["reasoning"].strip() == thought.strip()


def sources(bench: Bench, cell: Cell) -> None:
    """The client shows the flow's sources as citations."""
    urls = [
        one["url_citation"]["url"]
        for one in bench.whole(cell.client, "demo-sources", QUESTION)["annotations"]
    ]
    assert urls
    for stream in cell.streams:
        assert _answer(bench, cell, model="demo-sources", stream=stream)["sources"] == urls


def approval(bench: Bench, cell: Cell) -> None:
    """The flow asks for approval, and the user answers in the next message."""
    for stream in cell.streams:
        case = {"model": "demo-approval", "stream": stream, "turns": said("Please book it", "approve")}
        answer = bench.ask(cell.client, cell.surface, case, runs=2)
        assert "Shall I go on?" in answer["texts"][0]
        assert answer["text"].strip() == "You said yes"


CHECKS: Mapping[str, Callable[[Bench, Cell], None]] = {
    check.__name__: check
    for check in (
        *(plain, stream, memory, edit, error, midway, stop, retry, image, document, tools, structured),
        *(usage, reasoning, sources, approval),
    )
}
