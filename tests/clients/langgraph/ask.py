"""LangGraph: an agent of its graph with a memory, over LangChain's client."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from asking import RESULT, Json, answer_cases, converse, user_content  # type: ignore[import-not-found]
from langchain_core.messages import AIMessage, HumanMessage  # type: ignore[import-not-found]
from langchain_core.tools import tool  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]
from langgraph.checkpoint.memory import InMemorySaver  # type: ignore[import-not-found]
from langgraph.graph import START, MessagesState, StateGraph  # type: ignore[import-not-found]
from langgraph.prebuilt import ToolNode, tools_condition  # type: ignore[import-not-found]

# LangChain keeps its connections for all clients of an address: they belong to one event loop.
LOOP = asyncio.new_event_loop()


@tool  # type: ignore[untyped-decorator]
def get_weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    return f"{RESULT}"


class State(MessagesState):  # type: ignore[misc]
    """The messages, and the object that is asked for."""

    object: Any


def graph_of(base_url: str, case: Json) -> Any:
    """The agent as LangGraph's documentation builds it: the model, its tools, and back."""
    model = ChatOpenAI(
        model=case["model"],
        base_url=f"{base_url}/v1",
        api_key="any",
        stream_usage=True,
        use_responses_api=case["surface"] == "responses",
        model_kwargs={"user": case["user"]},
    )
    tools = [get_weather] if case.get("tools") else []
    bound = model.bind_tools(tools) if tools else model
    graph = StateGraph(State)

    async def answer(state: Any) -> Json:
        if case.get("schema"):
            reader = model.with_structured_output(
                {"title": "weather", **case["schema"]}, method="json_schema"
            )
            return {"object": await reader.ainvoke(state["messages"])}
        return {"messages": [await bound.ainvoke(state["messages"])]}

    graph.add_node("model", answer)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=InMemorySaver())


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    return LOOP.run_until_complete(in_loop(base_url, case))


async def in_loop(base_url: str, case: Json) -> Json:
    """The turns of a case, in one event loop; an edited message forks from the state before it."""
    graph = graph_of(base_url, case)
    config: Json = {"configurable": {"thread_id": case["user"]}}
    loop = asyncio.get_running_loop()

    def turn(history: list[Any], asked: Json) -> Json:
        start = history[-1] if history else config
        answer = asyncio.run_coroutine_threadsafe(one(graph, case, asked, start), loop).result()
        history.append(graph.get_state(config).config)
        return answer

    return await asyncio.to_thread(converse, case, turn)


async def one(graph: Any, case: Json, asked: Json, config: Json) -> Json:
    """One run of the graph."""
    state = {"messages": [HumanMessage(content=user_content(asked))]}
    pieces: list[str] = []
    if case["stream"]:
        stream = graph.astream(state, config, stream_mode="messages")
        async for chunk, _ in stream:
            pieces += [chunk.text] if chunk.type == "AIMessageChunk" and chunk.text else []
            if len(pieces) == case.get("stopAfter"):
                await stream.aclose()
                return {"text": "".join(pieces)}
    else:
        await graph.ainvoke(state, config)
    thread = {"configurable": {"thread_id": config["configurable"]["thread_id"]}}
    values = graph.get_state(thread).values
    if case.get("schema"):
        return {"text": "", "object": values["object"]}
    messages = values["messages"]
    last = messages[-1]
    asked_at = max(at for at, message in enumerate(messages) if message.type == "human")
    new = [message for message in messages[asked_at:] if isinstance(message, AIMessage)]
    parts = [part for part in last.content if isinstance(part, dict)]
    usage = last.usage_metadata
    return {
        "text": str(last.text),
        "pieces": len(pieces),
        "reasoning": "".join(
            text["text"]
            for part in parts
            for text in part.get("summary") or ()
            if part["type"] == "reasoning"
        ),
        "toolCalls": [
            {"name": call["name"], "arguments": call["args"]}
            for message in new
            for call in message.tool_calls
        ],
        "sources": [source["url"] for part in parts for source in part.get("annotations") or ()],
        "usage": {name: usage[f"{name}_tokens"] for name in ("input", "output", "total")},
    }


answer_cases(ask)
