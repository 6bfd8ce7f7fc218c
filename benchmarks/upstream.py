"""A Flowise that costs next to nothing: one asyncio protocol, answers made beforehand.

Flow ids say what is answered: `be7c5f10-TTTT-DDDD-…`, T tokens, D milliseconds apart. Run: `python -m
benchmarks.upstream PORT`.
"""

from __future__ import annotations

import asyncio
import re
import sys

_PREDICTION = re.compile(rb"POST /api/v1/prediction/be7c5f10-(\d{4})-(\d{4})")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_STREAMING = re.compile(rb'"streaming": *true')
_TOKEN = b'message:\ndata:{"event":"token","data":" Hello"}\n\n'
_END = b'message:\ndata:{"event":"end","data":"[DONE]"}\n\n'
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


_TOKEN_CHUNK, _LAST = _chunk(_TOKEN), _chunk(_END) + b"0\r\n\r\n"
_ANSWER = _json(b'{"text":"' + b"Hello " * 80 + b'","chatId":"c","chatMessageId":"m"}')
_STREAMS = _json(b'{"isStreaming":true}')
_NOTHING = _json(b"[]")


class _Flowise(asyncio.Protocol):
    """One connection; requests come whole, one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""
        self._pace: asyncio.TimerHandle | None = None

    def connection_lost(self, _error: Exception | None) -> None:
        if self._pace is not None:
            self._pace.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if found and len(body) >= (int(length[1]) if length else 0):
            self._received = b""
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        prediction = _PREDICTION.match(head)
        if prediction is None:
            self._transport.write(_STREAMS if b"-streaming/" in head else _NOTHING)
        elif not _STREAMING.search(body):
            self._transport.write(_ANSWER)
        elif (seconds := int(prediction[2]) / 1000) > 0:
            self._transport.write(_STREAM)
            self._token(int(prediction[1]), seconds)
        else:
            self._transport.write(_STREAM + _TOKEN_CHUNK * int(prediction[1]) + _LAST)

    def _token(self, left: int, seconds: float) -> None:
        if not left:
            self._transport.write(_LAST)
            return
        self._transport.write(_TOKEN_CHUNK)
        self._pace = asyncio.get_running_loop().call_later(seconds, self._token, left - 1, seconds)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Flowise, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
