"""What a question can make the misbehaving Flowise do: its scripts, played over one connection.

A question holds `chaos {…}`, a script in JSON:

    id         whose runs are counted; a run begins when its request has fully arrived and is not refused
    tokens     how many tokens the answer has (5); token n is `n.`; `size` makes each that many bytes long
    pause      seconds before each token (0); `stamp` makes a token of the clock in nanoseconds
    fault      "" for none, "silent", "heartbeats", "late_end" (each for `seconds`), "early_end", "empty",
               "error", "doubled", "status", "html", "raw", or a `how` at a phase:
               "before_head", "mid_head", "mid_body" or "stream"
    how        "rst", "fin", "bad_chunk", "no_length": how it breaks off
    at         the token before which the fault happens (2)
    status     of "status", with `retry_after` if given, and `location`; 429 and 503 are refusals, no runs
    times      how many attempts meet the fault (all)
    pieces     of "raw": what is written, one after the other, in base64
    body       of "html" and "status": the body; `kind`: its type; `length`: the Content-Length it claims
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.fault_server import Connection

_MARK = "chaos {"
_STREAM_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    "Connection: keep-alive\r\nX-Accel-Buffering: no\r\n"
)
_REFUSALS = (429, 503)


class Broken(Exception):
    """The script broke the connection off."""


class Prediction:
    """One prediction, answered as its script says."""

    def __init__(self, connection: Connection, body: dict[str, Any]) -> None:
        self._connection = connection
        self._flowise = connection.flowise
        self._body = body
        script = _script(str(body.get("question", "")))
        self._id = str(script.get("id", "?"))
        self._flowise.attempts[self._id] += 1
        if self._flowise.attempts[self._id] > script.get("times", sys.maxsize):
            script["fault"] = ""
        self._script = script
        self._chat = str(body.get("chatId", ""))
        self._fault = script.get("fault", "")
        self._at = int(script.get("at", 2))
        self._is_chunked = not (self._fault == "stream" and script.get("how") == "no_length")

    async def answer(self) -> None:
        """Refuse, or run: then the run ends with the script, or with its abort, but not with its reader."""
        refusal = self._script if self._fault == "status" else self._flowise.mood
        if refusal.get("status") in _REFUSALS:
            refuse(self._connection, refusal)
            return
        chat = self._chat
        self._flowise.runs[self._id] += 1
        self._flowise.running.add(chat)
        try:
            await self._run()
        except Broken:
            self._flowise.running.discard(chat)
            raise
        self._flowise.running.discard(chat)

    async def _run(self) -> None:
        if self._fault == "silent":
            await asyncio.sleep(self._script.get("seconds", 3600))
        elif self._fault == "before_head":
            self._break_off()
        elif self._fault == "mid_head":
            self._connection.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
            self._break_off()
        elif self._fault in ("status", "html"):
            refuse(self._connection, {"status": 200, "kind": "text/html", **self._script})
            return
        if self._body.get("streaming") is True:
            await self._stream()
        else:
            self._whole()

    def _whole(self) -> None:
        text = "".join(self._token(n) for n in range(self._tokens))
        ids = {key: f"{key}-{self._id}" for key in ("chatMessageId", "executionId")}
        answer = {"text": text, "question": self._body.get("question"), "chatId": self._body.get("chatId")}
        body = json.dumps({**answer, **ids, "sessionId": self._body.get("chatId")}).encode()
        if self._fault != "mid_body":
            self._connection.answer(200, body)
            return
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._connection.write(head.encode() + body[: len(body) // 2])
        self._break_off()

    async def _stream(self) -> None:
        framing = "Transfer-Encoding: chunked\r\n\r\n" if self._is_chunked else "\r\n"
        self._connection.write((_STREAM_HEAD + framing).encode())
        if self._fault == "raw":
            await self._raw()
        else:
            self._say("start", "")
            if self._fault == "heartbeats":
                await self._heartbeats()
            await self._tokens_said()
            await self._ended()
        if not self._is_chunked:
            self._connection.close()
            raise Broken
        self._connection.write(b"0\r\n\r\n")

    async def _tokens_said(self) -> None:
        if self._fault == "empty":
            return
        for n in range(self._tokens + 1):
            if n == self._at:
                await self._fault_in_stream()
            if n == self._tokens:
                return
            if self._script.get("pause"):
                await asyncio.sleep(self._script["pause"])
            for _ in range(1 + (self._fault == "doubled" and n == self._at)):
                self._say("token", self._token(n))

    async def _fault_in_stream(self) -> None:
        if self._fault == "stream":
            await self._connection.all_sent()
            self._break_off()
        elif self._fault == "error":
            self._say(
                "error",
                "Error: chaos at http://10.1.2.3:3000/secret\n    at Object.<anonymous> (/app/a.js:1:1)",
            )
        elif self._fault == "pause":
            await asyncio.sleep(self._script.get("seconds", 3600))
        elif self._fault == "early_end":
            self._say("end", "[DONE]")

    async def _ended(self) -> None:
        if self._fault == "late_end":
            await asyncio.sleep(self._script.get("seconds", 2))
        ids = {"chatId": self._body.get("chatId"), "chatMessageId": f"m-{self._id}", "sessionId": "s"}
        if self._fault != "error":
            self._say("metadata", {**ids, "question": self._body.get("question")})
        self._say("end", "[DONE]")
        if self._fault == "doubled":
            self._say("end", "[DONE]")

    async def _heartbeats(self) -> None:
        until = time.monotonic() + self._script.get("seconds", 3600)
        while time.monotonic() < until:
            self._piece(b":heartbeat\n\n")
            await asyncio.sleep(0.2)

    async def _raw(self) -> None:
        said = b""
        for piece in map(base64.b64decode, self._script["pieces"]):
            self._piece(piece)
            said += piece
            if b'"end"' in said or b'"error"' in said:
                self._flowise.running.discard(self._chat)
            # Long enough for the other side to read what came before.
            await asyncio.sleep(self._script.get("pause", 0.002))

    @property
    def _tokens(self) -> int:
        return int(self._script.get("tokens", 5))

    def _token(self, n: int) -> str:
        if self._script.get("stamp"):
            return f"{time.monotonic_ns()} "
        return f"{n}." * (max(1, int(self._script.get("size", 0)) // len(f"{n}.")))

    def _say(self, event: str, data: Any) -> None:
        if event in ("end", "error"):  # its reader may leave now
            self._flowise.running.discard(self._chat)
        self._piece(b"message:\ndata:" + json.dumps({"event": event, "data": data}).encode() + b"\n\n")

    def _piece(self, data: bytes) -> None:
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def _break_off(self) -> None:
        how = self._script.get("how", "rst")
        if how == "rst":
            self._connection.reset()
        elif how == "bad_chunk":
            self._connection.write(b"ZZZ\r\nno chunk\r\n")
            self._connection.close()
        else:
            self._connection.close()
        raise Broken


def _script(text: str) -> dict[str, Any]:
    at = text.find(_MARK)
    if at < 0:
        return {}
    script, _ = json.JSONDecoder().raw_decode(text, at + len(_MARK) - 1)
    return dict(script)


def refuse(connection: Connection, how: dict[str, Any]) -> None:
    status = how["status"]
    headers = [f"Retry-After: {how['retry_after']}"] if how.get("retry_after") is not None else []
    headers += [f"Location: {how['location']}"] if how.get("location") else []
    body = how.get("body")
    if body is None:
        message = {
            "statusCode": status,
            "success": False,
            "message": f"chaos {status}",
            "stack": {"at": "/app/a.js"},
        }
        body = json.dumps(message)
    if (length := how.get("length")) is None:
        connection.answer(status, body.encode(), how.get("kind", "application/json"), *headers)
        return
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {how.get('kind')}\r\nContent-Length: {length}\r\n\r\n"
    connection.write(head.encode() + body.encode())
    connection.close()
    raise Broken
