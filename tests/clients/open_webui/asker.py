"""Answers the cases of the table: streams in a chat in Chromium, whole answers by Open WebUI's own API."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.clients.bench import Json
from tests.clients.open_webui.application import Application, Refusal
from tests.clients.open_webui.in_browser import PAGE_SECONDS, Chat
from tests.clients.shared.asking import RESULT, WEATHER, converse, user_content

PREFIXES = {"chat": "", "responses": "responses."}


class OpenWebUI:
    """Satisfies `Asker`; `page` makes a page of the signed-in user's browser."""

    def __init__(self, application: Application, browser: Any) -> None:
        self.application = application
        self._context = browser.new_context(viewport={"width": 1200, "height": 900})
        self._context.add_init_script(f"localStorage.token = {json.dumps(application.token)}")
        self._context.set_default_timeout(PAGE_SECONDS * 1000)

    @property
    def is_running(self) -> bool:
        """The fixture ends it."""
        return True

    def stop(self) -> None:
        """The fixture ends the application and the browser."""

    def ask(self, case: Json) -> Json:
        """What the user has got."""
        model = PREFIXES[case["surface"]] + case["model"]
        try:
            return self._in_browser(case, model) if case["stream"] else self._by_api(case, model)
        except (Refusal, Told) as told:
            return {"error": str(told)}

    def chat(self, model: str) -> Chat:
        """A new chat in a page of its own."""
        for page in self._context.pages:
            page.close()
        return Chat(self._context.new_page(), self.application, model)

    def _in_browser(self, case: Json, model: str) -> Json:
        chat = self.chat(model)

        def turn(_: list[Any], asked: Json) -> Json:
            return _answer_of(chat, chat.turn(_with_files(asked), case.get("stopAfter")))

        return converse(case, turn)

    def _by_api(self, case: Json, model: str) -> Json:
        def turn(history: list[Any], asked: Json) -> Json:
            history.append({"role": "user", "content": user_content(asked)})
            answer = self._complete(case, model, history)
            if not answer["toolCalls"]:
                return answer
            results = [
                {"role": "tool", "tool_call_id": call["id"], "content": RESULT}
                for call in answer["toolCalls"]
            ]
            history.extend(results)
            return {**self._complete(case, model, history), "toolCalls": answer["toolCalls"]}

        return converse(case, turn)

    def _complete(self, case: Json, model: str, messages: list[Any]) -> Json:
        body: Json = {"model": model, "messages": messages, "stream": False}
        if case.get("tools"):
            body["tools"] = [{"type": "function", "function": WEATHER}]
        if schema := case.get("schema"):
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "weather", "strict": True, "schema": schema},
            }
        answer = self.application.call("POST", "/api/chat/completions", body)
        [choice] = answer["choices"]
        message = choice["message"]
        messages.append({key: message[key] for key in ("role", "content", "tool_calls") if message.get(key)})
        text = message.get("content") or ""
        usage = answer.get("usage") or {}
        return {
            "text": text,
            "object": json.loads(text) if schema else None,
            "reasoning": message.get("reasoning_content") or "",
            "sources": [note["url_citation"]["url"] for note in message.get("annotations") or []],
            "toolCalls": [
                {
                    "id": call["id"],
                    "name": call["function"]["name"],
                    "arguments": json.loads(call["function"]["arguments"]),
                }
                for call in message.get("tool_calls") or []
            ],
            "usage": _counted(usage),
            "finish": choice["finish_reason"],
        }


class Told(Exception):
    """The page shows an error."""


def _with_files(asked: Json) -> Json:
    """A turn whose image and document are files to choose in the page."""
    turn = dict(asked)
    if "image" in asked:
        head, data = asked["image"].split(",")
        kind = head.removeprefix("data:").removesuffix(";base64")
        turn["image"] = {"name": "picture.png", "mimeType": kind, "buffer": base64.b64decode(data)}
    if "document" in asked:
        content = base64.b64decode(asked["document"]["data"])
        turn["document"] = {
            "name": asked["document"]["name"],
            "mimeType": "application/pdf",
            "buffer": content,
        }
    return turn


def _counted(usage: Json) -> Json:
    """Tokens as either API counts them."""
    names = {
        "input": ("prompt_tokens", "input_tokens"),
        "output": ("completion_tokens", "output_tokens"),
        "total": ("total_tokens",),
    }
    return {name: usage[key] for name, keys in names.items() for key in keys if key in usage}


def _answer_of(chat: Chat, message: Json) -> Json:
    """What the page shows of an answer, and what is stored of it."""
    if error := message.get("error"):
        content = error["content"]
        told = content["message"] if isinstance(content, dict) else content
        chat.shown.get_by_text(told).wait_for()
        raise Told(told)
    items = message.get("output") or []
    calls = [item for item in items if item["type"] == "function_call"]
    thoughts = [
        part["text"]
        for item in items
        if item["type"] == "reasoning"
        for part in item.get("content") or item.get("summary") or []
    ]
    return {
        "text": message["content"],
        "pieces": message["pieces"],
        "reasoning": "".join(thoughts),
        "sources": [one["source"]["url"] for one in message.get("sources") or [] if "url" in one["source"]],
        "toolCalls": [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in calls],
        "usage": _counted(message.get("usage") or {}),
        "buttons": message.get("followUps") or [],
    }
