"""The runs under way, and the streams that get their events."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import Any

from flowise_demo.agentflow import agentflow
from flowise_demo.approval import ask_approval, resume_approval
from flowise_demo.chatflow import chatflow
from flowise_demo.http import Connection, error_response, json_response
from flowise_demo.load import run_load
from flowise_demo.memory import Memory
from flowise_demo.predictions import Run, answer_body, frame, metadata_body
from flowise_demo.scripts import Wait
from flowise_demo.steps import HEARTBEAT, Answer, Event, Fault, Pause, Raw, RunFailed, Step, Steps, Turn

ABORTED = "This operation was aborted"
UNAUTHORIZED_PROVIDER = (
    "401 Unauthorized – check your API key and ensure it has access to the requested model."
)
BAD_BODY = (AttributeError, KeyError, TypeError, ValueError)
"""A field of an unexpected type: a 500, as in Flowise."""
_PREFIX = "Error: predictionsServices.buildChatflow - "
_FAIR = 64  # events of a run without pauses after which other runs get their turn


class Executor:
    """Runs flows, each as a task, and sends their events to the stream that holds the chatId's slot."""

    def __init__(self, memory: Memory, counts: Counter[str], token_seconds: float) -> None:
        """Begin with no runs."""
        self._memory = memory
        self._counts = counts
        self._token_seconds = token_seconds
        self._slots: dict[str, Connection] = {}
        self._runs: dict[tuple[str, str], Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Drop every run."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start_heartbeats(self, seconds: float) -> None:
        """One timer for all streams, as in Flowise: the first heartbeat comes anywhere within the period."""
        self._spawn(self._beat(seconds))

    async def _beat(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            for slot, connection in list(self._slots.items()):
                connection.send(HEARTBEAT.frame)
                if connection.is_closed:
                    del self._slots[slot]

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start(self, run: Run, *, is_allowed: bool) -> None:
        """Start a run; it answers when it ends, or streams from now on."""
        if run.is_streaming and not run.script.is_headless:
            run.connection.begin_stream(is_chunked=run.script.fault != "nolength")
            run.connection.old_framing = run.script.has_old_framing
            if not run.script.waits:
                self._slots[run.slot] = run.connection
        run.task = self._spawn(self._run(run, is_allowed=is_allowed))

    def abort(self, flow_id: str, chat_id: str) -> None:
        """Stop an agentflow's run, if there is one."""
        run = self._runs.get((flow_id, chat_id))
        if run and run.flow.type == "AGENTFLOW" and not run.abort_wanted:
            run.abort_wanted = True
            if run.task and run.is_driven:
                run.task.cancel()

    async def _run(self, run: Run, *, is_allowed: bool) -> None:
        """One run from its start to its end, whether its client stays or not."""
        key = (run.flow.id, run.slot)
        self._runs[key] = run
        self._counts["runs_started"] += 1
        outcome = "finished"
        try:
            if run.flow.kind == "load":
                if answer := await run_load(run):
                    self._send_ending(run, answer, str(uuid.uuid4()))
            else:
                await self._run_flow(run, is_allowed=is_allowed)
        except RunFailed as failure:
            outcome = "aborted" if ABORTED in str(failure) else "failed"
            self._fail(run, failure)
        except BAD_BODY as error:
            outcome = "failed"
            self._fail(run, RunFailed(f"{type(error).__name__}: {error}"))
        finally:
            self._counts["runs_aborted" if outcome == "aborted" else "runs_finished"] += 1
            run.record["outcome"] = outcome
            if self._runs.get(key) is run:
                del self._runs[key]

    async def _run_flow(self, run: Run, *, is_allowed: bool) -> None:
        if not is_allowed:
            raise RunFailed("Unauthorized")
        turn = self._memory.turn(run, self._token_seconds)
        answer = await self._drive(run, _steps_of(turn))
        message_id = self._memory.store(run, answer)
        if run.is_streaming:
            self._send_ending(run, answer, message_id)
        elif not run.is_muted:
            run.connection.respond(json_response(answer_body(run, answer, message_id)))
        elif run.script.fault != "mute":
            broken = json_response(answer_body(run, answer, message_id))
            run.connection.break_answer(broken, run.script.fault)

    async def _drive(self, run: Run, steps: Steps) -> Answer:
        """Take the steps one by one; an abort becomes a failure inside the run, where the nodes see it."""
        run.is_driven = True
        failure = RunFailed(ABORTED) if run.abort_wanted else None
        while True:
            step = steps.throw(failure) if failure else next(steps)  # type: ignore[attr-defined] # generators
            failure = None
            if isinstance(step, Answer):
                run.is_driven = False
                return step
            try:
                await self._take(run, step)
            except asyncio.CancelledError:
                if not run.abort_wanted:
                    raise
                failure = RunFailed(ABORTED)
                if run.task:
                    run.task.uncancel()

    async def _take(self, run: Run, step: Step) -> None:
        match step:
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Wait(heartbeat_seconds):
                await self._wait_for_leave(run, heartbeat_seconds)
            case Fault(name):
                run.is_muted = True
                if run.is_streaming:
                    run.connection.break_stream(name)
            case Event() | Raw() if not run.is_muted:
                await self._send(run, step)
            case _:
                pass

    async def _send(self, run: Run, step: Event | Raw) -> None:
        """Send to the stream that holds the chatId's slot, be it this run's own or another's."""
        connection = self._slots.get(run.slot)
        if connection:
            connection.send(step.frame if isinstance(step, Raw) else frame(step, connection))
            await connection.drained()
        run.events += 1
        if run.events % _FAIR == 0:
            await asyncio.sleep(0)

    async def _wait_for_leave(self, run: Run, heartbeat_seconds: float) -> None:
        while not await run.connection.is_gone_within(heartbeat_seconds or None):
            if run.is_streaming:
                run.connection.send(HEARTBEAT.frame)
        raise RunFailed("terminated")

    def _send_ending(self, run: Run, answer: Answer, message_id: str) -> None:
        self._end(run, Event("metadata", metadata_body(run, answer, message_id)))

    def _end(self, run: Run, last: Event) -> None:
        """Close the stream in the slot; a stream that lost its slot stays open and silent."""
        if run.is_muted:
            return
        connection = self._slots.pop(run.slot, None)
        if connection:
            connection.send(frame(last, connection))
            connection.send(frame(Event("end", "[DONE]"), connection))
            connection.end_stream()

    def _fail(self, run: Run, failure: RunFailed) -> None:
        text = str(failure)
        message = UNAUTHORIZED_PROVIDER if "401 Incorrect API key" in text else _PREFIX + text
        if run.is_streaming:
            self._end(run, Event("error", message))
        elif run.body.get("streaming") in (None, False, "", 0, "false"):
            run.connection.respond(error_response(500, message))


def _steps_of(turn: Turn) -> Steps:
    """The run of this turn, step by step."""
    if turn.script.waits:
        yield turn.script.waits
    if turn.script.quota:
        raise RunFailed(turn.script.failure)
    if turn.flow.type == "CHATFLOW":
        yield from chatflow(turn)
    elif turn.flow.kind == "human_input":
        yield from resume_approval(turn) if turn.human_input else ask_approval(turn)
    else:
        yield from agentflow(turn)
