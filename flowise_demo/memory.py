"""What the demo stores of its runs: the messages of each session, stopped agentflows, chats with files."""

from __future__ import annotations

import uuid
from collections import OrderedDict, deque
from collections.abc import Mapping

from flowise_demo.chatflow import STORED_FILES
from flowise_demo.flows import Json
from flowise_demo.model import Message
from flowise_demo.predictions import (
    Run,
    caller_history,
    check_body,
    message_rows,
    question_text,
    system_override,
)
from flowise_demo.steps import Answer, Execution, RunFailed, Turn

MAX_SESSIONS, MAX_SESSION_MESSAGES = 1_000, 200


class Memory:
    """The stored messages and executions; past MAX_SESSIONS the least used session is forgotten."""

    def __init__(self) -> None:
        """Begin with nothing stored."""
        self._sessions: OrderedDict[tuple[str, str], deque[Json]] = OrderedDict()
        self._executions: dict[tuple[str, str], Execution] = {}
        self._chats_with_files: deque[tuple[str, str]] = deque(maxlen=MAX_SESSIONS)

    def rows(self, flow_id: str, wanted: Mapping[str, str]) -> list[Json]:
        """The messages of a flow whose fields have these values, oldest first."""
        rows = [row for key, kept in self._sessions.items() if key[0] == flow_id for row in kept]
        rows = [row for row in rows if all(str(row[name]) == value for name, value in wanted.items())]
        return sorted(rows, key=lambda row: str(row["createdDate"]))

    def file(self, flow_id: str, chat_id: str, name: str) -> bytes | None:
        """A file that a run of this chat left in the storage."""
        return STORED_FILES.get(name) if (flow_id, chat_id) in self._chats_with_files else None

    def turn(self, run: Run, token_seconds: float) -> Turn:
        """What the flow's nodes get: the checked body, and the messages that the model sees."""
        body, is_agent = run.body, run.flow.type == "AGENTFLOW"
        check_body(run.flow, body)
        # A chatflow without a memory node takes no history either; an agentflow's first node always takes it.
        past = caller_history(body) if is_agent or run.flow.memory else []
        past += self._remembered(run) if run.flow.memory else []
        asked = question_text(body, is_agent=is_agent)
        system = system_override(run.flow, body)
        messages = [*system, *past, *([{"role": "user", "content": asked}] if asked else [])]
        run.record["messages"] = messages
        human = body.get("humanInput") or None
        execution = self._resumed(run) if human else None
        return Turn(run.flow, body.get("question"), messages, run.script, token_seconds, human, execution)

    def _remembered(self, run: Run) -> list[Message]:
        roles = {"userMessage": "user", "apiMessage": "assistant"}
        stored = self._sessions.get(run.session, ())
        return [{"role": roles[row["role"]], "content": row["content"]} for row in stored]

    def _resumed(self, run: Run) -> Execution:
        execution = self._executions.get(run.session)
        if execution is None:
            raise RunFailed(f"No previous execution found for session {run.session_id}")
        run.execution_id = execution.id
        state = execution.entries[-1]["status"]
        if state != "STOPPED":
            raise RunFailed(
                f"Cannot resume execution {execution.id} because it is in '{state}' state. Only executions "
                "in 'STOPPED' state (or 'ERROR' after 'STOPPED') can be resumed."
            )
        return execution

    def store(self, run: Run, answer: Answer) -> str:
        """Keep both messages, and an agentflow's execution; the id of the answer's message."""
        message_id = str(uuid.uuid4())
        if run.flow.kind == "files":
            self._chats_with_files.append((run.flow.id, str(run.chat_id)))
        if run.flow.type == "AGENTFLOW":
            self._executions[run.session] = Execution(run.execution_id, answer.entries)
        kept = self._sessions.setdefault(run.session, deque(maxlen=MAX_SESSION_MESSAGES))
        self._sessions.move_to_end(run.session)
        kept.extend(message_rows(run, answer, message_id))
        while len(self._sessions) > MAX_SESSIONS:
            oldest, _ = self._sessions.popitem(last=False)
            self._executions.pop(oldest, None)
        return message_id
