"""What the demo's model says: the question again, a call of a tool described to it, or JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from flowise_demo.flows import Flow, Json
from flowise_demo.json_answers import json_answer, sample

Message = dict[str, Any]
_TOOLS_HEADING = "Available tools, one JSON object a line:"
_TOOL_RESULT = "Tool result"
_TOOL_CALL = "<tool_call>"


def answer_text(flow: Flow, messages: list[Message]) -> str:
    """What the model behind the flow says to these messages."""
    question = str(messages[-1]["content"]) if messages else ""
    earlier_words = [str(message["content"]) for message in messages[:-1] if message["role"] != "assistant"]
    spoken = _tool_answer("\n".join(earlier_words), question)
    if spoken is None or not spoken.startswith(_TOOL_CALL):
        spoken = json_answer(messages) or spoken
    if spoken is not None:
        return spoken
    earlier = sum(message["role"] != "system" for message in messages[:-1])
    shown = question if len(question) <= 300 else question[:300] + "…"
    role = flow.name.removeprefix("demo-")
    return (
        f'You asked: "{shown}" This is the demo {role}; connect your own Flowise to get real answers. '
        f"I remember {earlier} earlier messages of this conversation."
    )


def _tool_answer(earlier: str, question: str) -> str | None:
    """A tool call if tools are described and none has answered since, the result if one has, else nothing."""
    lines = question.splitlines()
    described = _last_heading(lines)
    answered = max((at for at, line in enumerate(lines) if line.startswith(_TOOL_RESULT)), default=-1)
    tools = _described_tools(lines[described + 1 :]) if described >= 0 else []
    rest = lines[:described] + lines[described + 1 + len(tools) :] if tools else lines
    if described < 0:
        before = earlier.splitlines()
        heading = _last_heading(before)
        tools = _described_tools(before[heading + 1 :]) if heading >= 0 else []
    if tools and (answered < 0 or answered < described):
        return _tool_call(tools, "\n".join(rest))
    if answered >= 0:
        label, colon, result = "\n".join(lines[answered:]).split("\n\n")[0].partition(":")
        return f"The tool said: {result.strip() if colon else label.removeprefix(_TOOL_RESULT).strip()}"
    return None


def _last_heading(lines: list[str]) -> int:
    return max((at for at, line in enumerate(lines) if line == _TOOLS_HEADING), default=-1)


def _described_tools(lines: list[str]) -> list[Json]:
    tools = []
    for line in lines:
        try:
            tool = json.loads(line)
        except ValueError:
            break
        if not isinstance(tool, dict) or "name" not in tool:
            break
        tools.append(tool)
    return tools


def _tool_call(tools: list[Json], question: str) -> str:
    tool = next(
        (one for one in tools if re.search(rf"\b{re.escape(str(one['name']))}\b", question)), tools[0]
    )
    words = re.findall(r"\w+", question) or ["something"]
    arguments = sample(tool.get("parameters") or {"type": "object"}, words[-1])
    call = json.dumps(
        {"name": tool["name"], "arguments": arguments}, ensure_ascii=False, separators=(",", ":")
    )
    return f"{_TOOL_CALL}{call}</tool_call>"


def words_of(text: str) -> tuple[str, ...]:
    """The text as tokens, word by word, each with the white space after it."""
    return tuple(re.findall(r"\S+\s*|\s+", text))
