"""The test behind each of the further calls of OpenAI's own clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.clients.bench import Bench, Json
from tests.clients.checks import QUESTION, SCHEMA
from tests.clients.matrix import CALLS, Cell

OBJECT = {"city": "Paris", "degrees": 42}


def called(bench: Bench, cell: Cell, runs: int, model: str = "demo-assistant") -> Json:
    """What the client's script makes of the call."""
    case = {"call": cell.feature, "model": model, "question": QUESTION, "schema": SCHEMA, "turns": []}
    return bench.ask(cell.client, cell.surface, case, runs)


def models(bench: Bench, cell: Cell) -> None:
    """`models.list` and `models.retrieve`; an unknown model is reported as `model_not_found`."""
    found = called(bench, cell, 0, "demo-agent")
    assert {"demo-agent", "prompted"} <= set(found["ids"])
    assert found["one"] == "demo-agent"
    assert (found["unknown"]["status"], found["unknown"]["code"]) == (404, "model_not_found")


def stored(bench: Bench, cell: Cell) -> None:
    """`responses.retrieve`, `input_items.list` and `responses.delete`, after which the response is gone."""
    found = called(bench, cell, 1)
    assert found["text"] == found["found"] != ""
    [item] = found["items"]
    assert item["content"][0]["text"] == QUESTION
    assert found["gone"]["status"] == 404


def background(bench: Bench, cell: Cell) -> None:
    """`responses.create(background=True)`, polled until it is completed."""
    found = called(bench, cell, 1)
    assert found["first"] in ("queued", "in_progress", "completed")
    assert found["last"] == "completed"
    assert QUESTION in found["text"]


def resumed(bench: Bench, cell: Cell) -> None:
    """The stream of a background response is left and resumed with `starting_after`; the run continues."""
    found = called(bench, cell, 1)
    assert found["text"] == found["found"] != ""


def cancelled(bench: Bench, cell: Cell) -> None:
    """`responses.cancel` ends a background response and aborts its run."""
    assert called(bench, cell, 1, "demo-agent-errors") == {"status": "cancelled"}
    assert bench.upstream.is_aborted()


def counted(bench: Bench, cell: Cell) -> None:
    """`responses.input_tokens.count`, and `responses.compact`, whose output starts the next input."""
    found = called(bench, cell, 1)
    assert found["tokens"] > 0
    assert bench.upstream.remembered(found["text"]) == 2


def parsed(bench: Bench, cell: Cell) -> None:
    """`chat.completions.parse` and `responses.parse` return the object of a schema."""
    assert called(bench, cell, 2)["objects"] == [OBJECT, OBJECT]


def raw(bench: Bench, cell: Cell) -> None:
    """The raw response's `x-request-id` is the `_request_id` of the parsed one."""
    found = called(bench, cell, 2)
    assert found["header"] == found["id"] != found["streaming"]
    assert found["bytes"] > 0


def azure(bench: Bench, cell: Cell) -> None:
    """`AzureOpenAI` with Responses, whole and streamed, and the `OpenAI` class at Azure's `/openai/v1`."""
    for text in called(bench, cell, 4)["texts"]:
        assert QUESTION in text


def asynchronous(bench: Bench, cell: Cell) -> None:
    """`AsyncOpenAI`: a whole answer, a stream, and a cancelled task, whose run is aborted."""
    found = called(bench, cell, 3)
    assert QUESTION in found["text"]
    assert QUESTION in found["streamed"]
    assert len(found["left"]) < 200
    assert bench.upstream.is_aborted()


def tool_runner(bench: Bench, cell: Cell) -> None:
    """`chat.completions.runTools` calls the function and sends its result back."""
    found = called(bench, cell, 2)
    assert [call["city"] for call in found["calls"]] == ["Paris"]
    assert "It is 7 degrees." in found["text"]


def unserved(bench: Bench, cell: Cell) -> None:
    """The gateway has no Files, Conversations or Embeddings API: such a call is refused at once and not resent."""
    found = called(bench, cell, 0)
    refusals = found["refusals"]
    assert found["sent"] == len(refusals)
    assert refusals.pop("file_id")["status"] == 400
    assert {one["status"] for one in refusals.values()} == {404}


CHECKS: Mapping[str, Callable[[Any, Cell], None]] = {
    name: globals()[name.replace(" ", "_")] for name in CALLS
}
