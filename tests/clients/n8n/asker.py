"""Asks the cases of the table as messages of a chat, each kind of case in a workflow of its own."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from typing import Any

from tests.clients.n8n import workflows
from tests.clients.n8n.server import N8n, Workflow
from tests.clients.n8n.workflows import ANSWER, MODEL, TOOL, Json

MESSAGE = "message a model"
"""The surface of the node *OpenAI*; the others are those of *OpenAI Chat Model*."""


class Asker:
    """What the checks ask; it answers with what the user of a chat sees, and what the execution's data say."""

    def __init__(self, n8n: N8n) -> None:
        self._n8n = n8n
        self._workflows: dict[str, Workflow] = {}

    @property
    def is_running(self) -> bool:
        """Whether n8n answers."""
        return self._n8n.is_running

    def stop(self) -> None:
        """End n8n."""
        self._n8n.stop()

    def ask(self, case: Json) -> Json:
        """The answer to the last turn, with the texts of all."""
        workflow = self._workflow(case)
        session, texts, answer, ids = str(uuid.uuid4()), [], {}, [""]
        for turn in case["turns"]:
            # Only OpenAI's node has the ids of responses, and thereby goes on from an earlier one.
            del ids[turn.get("keep", len(ids)) + 1 :]
            message = {"sessionId": session, "chatInput": turn["text"], "previous": ids[-1]}
            answer = self._answer(workflow, message, files_of(turn), case)
            if "error" in answer:
                return answer
            texts.append(answer["text"])
            ids.append(answer.get("id", ""))
        return {**answer, "texts": texts}

    def _answer(self, workflow: Workflow, message: Mapping[str, str], files: Json | None, case: Json) -> Json:
        reply = workflow.send(message, files)
        if case["stream"]:
            seen = _read(workflow, reply, case.get("stopAfter"))
        else:
            body = reply.json()
            seen = {"text": _text(body), "body": body} if reply.ok else {"failure": body["message"]}
        execution = workflow.execution()
        result = execution["data"]["resultData"]
        if execution["status"] == "error":
            # A failure that the data know of is one for the user as well.
            assert seen["failure"], seen
            return {"error": json.dumps(result["error"], ensure_ascii=False), "shown": seen["failure"]}
        assert not seen.get("failure"), seen
        return {**seen, **_data(result["runData"]), "status": execution["status"]}

    def _workflow(self, case: Json) -> Workflow:
        files = [name for name in ("image", "document") if name in case["turns"][0]]
        kind = [case.get(name) for name in ("surface", "model", "stream", "tools", "schema", "retries")]
        key = json.dumps([*kind, files])
        if key not in self._workflows:
            answer, parts = self._nodes(case, files)
            trigger = workflows.chat_trigger(str(uuid.uuid4()), stream=case["stream"])
            self._workflows[key] = self._n8n.activate(workflows.workflow(key[:128], trigger, answer, parts))
        return self._workflows[key]

    def _nodes(self, case: Json, files: list[str]) -> tuple[Json, dict[str, Json]]:
        model, credential, schema = case["model"], self._n8n.credential, case.get("schema")
        again = {"retryOnFail": bool(case.get("retries")), "maxTries": 2, "waitBetweenTries": 100}
        parts = {"ai_tool": workflows.weather()} if case.get("tools") else {}
        if case["surface"] == MESSAGE:
            return workflows.message_a_model(model, credential, files, schema) | again, parts
        parts["ai_languageModel"] = workflows.chat_model(
            model, credential, responses=case["surface"] == "responses"
        )
        if schema:
            return workflows.chain(parses=True), {**parts, "ai_outputParser": workflows.parser(schema)}
        return workflows.agent() | again, {**parts, "ai_memory": workflows.memory()}


def files_of(turn: Json) -> Json | None:
    """The file that the chat sends with a turn."""
    if "image" in turn:
        kind, _, data = turn["image"].removeprefix("data:").partition(";base64,")
        return {"files": ("picture.png", base64.b64decode(data), kind)}
    if "document" in turn:
        content = base64.b64decode(turn["document"]["data"])
        return {"files": (turn["document"]["name"], content, "application/pdf")}
    return None


def _read(workflow: Workflow, reply: Any, stop_after: int | None) -> Json:
    """The streamed text as the chat shows it, the number of its pieces, and the failure."""
    text, pieces, failures = "", 0, []
    for piece in workflow.pieces(reply):
        if piece["type"] == "error":
            failures.append(str(piece["content"]))
        if piece["type"] == "item" and piece["content"]:
            text, pieces = text + piece["content"], pieces + 1
            if pieces == stop_after:
                workflow.stop()
                # n8n leaves the chat of a stopped execution open.
                reply.close()
                break
    return {"text": text, "pieces": pieces, "failure": "; ".join(failures)}


def _text(body: Json) -> str:
    """The answer of an agent or a chain, or the text of a whole response."""
    if isinstance(body.get("output"), list):
        return "".join(str(part["text"]) for part in _parts(body))
    return str(body.get("output", body.get("text", "")))


def _parts(response: Json) -> list[Json]:
    return [part for item in response["output"] if item["type"] == "message" for part in item["content"]]


def _data(runs: Json) -> Json:
    """What the execution's data say: calls of tools, tokens, and all that is in a response."""
    calls = [run["inputOverride"]["ai_tool"][0][0]["json"] for run in runs.get(TOOL, [])]
    found: Json = {"toolCalls": [_call(call) for call in calls]}
    if MODEL in runs:
        counted = runs[MODEL][-1]["data"]["ai_languageModel"][0][0]["json"].get("tokenUsage", {})
        names = {"input": "promptTokens", "output": "completionTokens", "total": "totalTokens"}
        found["usage"] = {name: counted.get(theirs) for name, theirs in names.items()}
    output = runs.get(ANSWER, [{}])[-1].get("data", {}).get("main", [[]])[0]
    body = output[0]["json"] if output else {}
    if isinstance(body.get("output"), dict):
        found["object"] = body["output"]
    return found | _response(body) if isinstance(body.get("output"), list) else found


def _call(given: Json) -> Json:
    query = given.get("query", given)
    return {"name": TOOL, "arguments": json.loads(query) if isinstance(query, str) else query}


def _response(body: Json) -> Json:
    """What the node *OpenAI* gives of a whole response."""
    usage, parts = body["usage"], _parts(body)
    summaries = [item["summary"] for item in body["output"] if item["type"] == "reasoning"]
    found = {
        "id": body["id"],
        "usage": {name: usage[f"{name}_tokens"] for name in ("input", "output", "total")},
        "reasoning": "".join(part["text"] for summary in summaries for part in summary),
        "sources": [one["url"] for part in parts for one in part.get("annotations", [])],
    }
    objects = [part["text"] for part in parts if isinstance(part["text"], dict)]
    return found | {"object": objects[0]} if objects else found
