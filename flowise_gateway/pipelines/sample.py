"""`demo-pipeline`: retrieval over a few documents, answered in their own words; needs no key or download."""

from __future__ import annotations

import re
from typing import Any

from haystack import Document, Pipeline, component
from haystack.components.builders import ChatPromptBuilder
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.document_stores.in_memory import InMemoryDocumentStore

DOCUMENTS = (
    (
        "Flowise",
        "https://docs.flowiseai.com/",
        "Flowise is a visual builder for language model flows. Chatflows answer a chat, agentflows run "
        "several steps. Each flow has a prediction API with JSON and streamed answers.",
    ),
    (
        "Haystack",
        "https://docs.haystack.deepset.ai/",
        "Haystack is a Python framework for pipelines of components. Retrievers find documents, prompt "
        "builders write prompts, generators answer. A pipeline is connected in Python or loaded from YAML.",
    ),
    (
        "FastAPI",
        "https://fastapi.tiangolo.com/",
        "FastAPI is a Python web framework for building APIs with type hints. It validates requests with "
        "pydantic and writes an OpenAPI description by itself.",
    ),
    (
        "This gateway",
        "https://platform.openai.com/docs/api-reference/chat",
        "This gateway gives every flow and pipeline the chat completions and responses API of OpenAI. A "
        "pipeline runs in a process of its own, so that a crash of one harms no other model.",
    ),
)
PROMPT = (
    "Answer from these documents:\n{% for document in documents %}{{ document.content }}\n{% endfor %}\n"
    "Question: {{ question }}"
)
MAX_SENTENCES = 2
_COMMON = frozenset(
    ("what", "which", "with", "does", "that", "this", "from", "have", "about", "tell", "please")
)


@component
class ExtractiveChatGenerator:
    """Answers with those sentences of the last message that share most words with its question."""

    @component.output_types(replies=list[ChatMessage])  # type: ignore[untyped-decorator] # as installed
    def run(
        self, messages: list[ChatMessage], streaming_callback: Any = None, generation_kwargs: Any = None
    ) -> dict[str, list[ChatMessage]]:
        """Give one reply; `max_tokens` of `generation_kwargs` limits its words."""
        text, _, question = (messages[-1].text or "").partition("\nQuestion: ")
        asked = [message.text or "" for message in messages[:-1] if message.role == "user"]
        # A short question, such as "and its steps?", is about what was asked before.
        words = _words(question) or _words(" ".join(asked[-1:]))
        earlier = len(messages) - 1 - sum(message.role == "system" for message in messages)
        limit = (generation_kwargs or {}).get("max_tokens")
        pieces = re.findall(r"\S+\s*", _best(text, words, earlier))
        spoken = pieces[:limit]
        if streaming_callback:
            for piece in spoken:
                streaming_callback(StreamingChunk(content=piece))
        counted = sum(len((message.text or "").split()) for message in messages)
        meta = {
            "finish_reason": "stop" if len(spoken) == len(pieces) else "length",
            "usage": {"prompt_tokens": counted, "completion_tokens": len(spoken)},
        }
        return {"replies": [ChatMessage.from_assistant("".join(spoken).rstrip(), meta=meta)]}


def _best(text: str, words: frozenset[str], earlier: int) -> str:
    """The sentences with most of the words, in their order, and how much of the conversation was seen."""
    sentences = [part for line in text.splitlines()[1:] for part in re.split(r"(?<=\.)\s+", line) if part]
    ranked = sorted(sentences, key=lambda sentence: -len(words & _words(sentence)))[:MAX_SENTENCES]
    found = [sentence for sentence in ranked if words & _words(sentence)]
    answer = " ".join(sorted(found, key=sentences.index)) or "The documents do not say."
    return f"{answer} (I remember {earlier} earlier messages.)" if earlier else answer


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w{4,}", text.lower())) - _COMMON


def pipeline() -> Pipeline:
    """The pipeline: a retriever, a prompt builder, a generator."""
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(content=text, meta={"title": title, "url": url}) for title, url, text in DOCUMENTS]
    )
    made = Pipeline()
    made.add_component("retriever", InMemoryBM25Retriever(store, top_k=2))
    prompt = ChatPromptBuilder([ChatMessage.from_user(PROMPT)], required_variables=["question", "documents"])
    made.add_component("prompt", prompt)
    made.add_component("generator", ExtractiveChatGenerator())
    made.connect("retriever.documents", "prompt.documents")
    made.connect("prompt.prompt", "generator.messages")
    return made
