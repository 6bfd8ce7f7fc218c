"""Pipelines for tests, good and bad: they run on Haystack and on its stand-in alike."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from haystack import Pipeline, component
from haystack.dataclasses import (
    ChatMessage,
    Document,
    GeneratedAnswer,
    ReasoningContent,
    StreamingChunk,
    ToolCall,
    ToolCallDelta,
    ToolCallResult,
)

WORDS = ("one ", "two ", "three ", "four ")


class ProviderError(Exception):
    """As the libraries of model providers raise it."""

    status_code = 429


@component
class Talker:
    """A chat generator that does what the question says; else it says what it was given, word by word."""

    def __init__(self, pause: float = 0.0) -> None:
        """Pause so long after each word."""
        self.pause = pause

    def to_dict(self) -> dict[str, Any]:
        """As YAML has it."""
        return {"type": "kitchen.Talker", "init_parameters": {"pause": self.pause}}

    @component.output_types(replies=list[ChatMessage])  # type: ignore[untyped-decorator]
    def run(
        self, messages: list[ChatMessage], streaming_callback: Any = None, generation_kwargs: Any = None
    ) -> dict[str, list[ChatMessage]]:
        """Answer."""
        asked = messages[-1].text or ""
        if asked in DEEDS:
            DEEDS[asked]()
        told = [f"{getattr(one.role, 'value', one.role)}:{one.text}" for one in messages[:-1]]
        told += [f"image:{image.mime_type}" for image in messages[-1].images]
        told += [f"{name}={value}" for name, value in sorted((generation_kwargs or {}).items())]
        words = WORDS if asked == "count" else [f"{part} " for part in [*told, f"you:{asked}"]]
        for word in words:
            if streaming_callback:
                streaming_callback(StreamingChunk(content=word))
            time.sleep(self.pause)
        meta = {"finish_reason": "stop", "usage": {"prompt_tokens": 11, "completion_tokens": len(words)}}
        return {"replies": [ChatMessage.from_assistant("".join(words).rstrip(), meta=meta)]}


def _loop() -> None:
    while True:
        pass


def _fail() -> None:
    raise ValueError("the documents are gone, key sk-abcdefghijklmnop")


def _refuse() -> None:
    raise ProviderError("Too many requests for you")


DEEDS: dict[str, Any] = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "leave": lambda: (_ for _ in ()).throw(SystemExit(4)),
    "loop": _loop,
    "block": lambda: time.sleep(3600),
    "fail": _fail,
    "refuse": _refuse,
}


@component
class Finder:
    """A retriever of two documents."""

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, query: str) -> dict[str, list[Document]]:
        """Find."""
        urls = ("https://example.com/1", "https://example.com/2")
        return {"documents": [Document(content=f"about {query}", meta={"url": url}) for url in urls]}


@component
class Teller:
    """Writes the messages for a generator from documents, question and history."""

    @component.output_types(prompt=list[ChatMessage])  # type: ignore[untyped-decorator]
    def run(self, question: Any, documents: list[Document], history: Any = ()) -> dict[str, Any]:
        """Write."""
        text = f"{len(documents)} documents for {question}"
        return {"prompt": [*(history or ()), ChatMessage.from_user(text)]}


@component
class Answerer:
    """Wraps the reply as an answer with its documents."""

    @component.output_types(answers=list[GeneratedAnswer])  # type: ignore[untyped-decorator]
    def run(self, query: str, replies: list[ChatMessage], documents: list[Document]) -> dict[str, Any]:
        """Wrap."""
        return {"answers": [GeneratedAnswer(data=replies[0].text, query=query, documents=documents[:1])]}


@component
class ToolUser:
    """An agent that thinks, asks for a tool, gets its result, and answers."""

    @component.output_types(messages=list[ChatMessage])  # type: ignore[untyped-decorator]
    def run(self, messages: list[ChatMessage], streaming_callback: Any = None) -> dict[str, Any]:
        """Answer by way of a tool."""
        call = ToolCall(tool_name="clock", arguments={"zone": "UTC"})
        result = ToolCallResult(result="noon", origin=call, error=False)
        say = streaming_callback or (lambda _chunk: None)
        say(StreamingChunk(content="", index=0, reasoning=ReasoningContent(reasoning_text="Hm.")))
        say(StreamingChunk(content="I look."))
        for delta in (
            ToolCallDelta(index=0, tool_name="clock", arguments='{"zone":'),
            ToolCallDelta(index=0, arguments='"UTC"}'),
        ):
            say(StreamingChunk(content="", index=0, tool_calls=[delta]))
        say(StreamingChunk(content="", index=0, tool_call_result=result))
        say(StreamingChunk(content="It is noon."))
        meta = {"usage": {"prompt_tokens": 5, "completion_tokens": 3}}
        told = [
            ChatMessage.from_assistant("I look.", meta=meta),
            ChatMessage.from_tool("noon", origin=call),
            ChatMessage.from_assistant("It is noon.", meta=meta),
        ]
        return {"messages": [*messages, *told]}


@component
class Shouter:
    """A generator of texts, as there were before there were chats."""

    @component.output_types(replies=list[str], meta=list[dict[str, Any]])  # type: ignore[untyped-decorator]
    def run(self, prompt: str, streaming_callback: Any = None) -> dict[str, Any]:
        """Shout."""
        return {"replies": [prompt.upper()], "meta": [{"usage": {"input_tokens": 2, "output_tokens": 1}}]}


def _of(*parts: tuple[str, Any], wires: tuple[tuple[str, str], ...] = ()) -> Pipeline:
    made = Pipeline()
    for name, part in parts:
        made.add_component(name, part)
    for wire in wires:
        made.connect(*wire)
    return made


def talk() -> Pipeline:
    """A generator alone."""
    return _of(("llm", Talker()))


def slow() -> Pipeline:
    """A generator that takes a second for four words."""
    return _of(("llm", Talker(pause=0.25)))


def rag() -> Pipeline:
    """Retrieval."""
    wires = (
        ("finder.documents", "teller.documents"),
        ("teller.prompt", "llm.messages"),
        ("llm.replies", "answerer.replies"),
        ("finder.documents", "answerer.documents"),
    )
    parts = (("finder", Finder()), ("teller", Teller()), ("llm", Talker()), ("answerer", Answerer()))
    return _of(*parts, wires=wires)


def agent() -> Pipeline:
    """An agent with a tool."""
    return _of(("agent", ToolUser()))


def shout() -> Pipeline:
    """A generator of texts."""
    return _of(("llm", Shouter()))


def unclear() -> Pipeline:
    """A pipeline whose input is no text."""
    return _of(("answerer", Answerer()))
