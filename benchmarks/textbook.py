"""The proxy as a tutorial writes it: Flask, requests, json, a generator; run by gunicorn's gevent worker."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import requests
from flask import Flask, Response, jsonify, request

FLOWISE = os.environ["FLOWISE_BASE_URL"]
app = Flask(__name__)
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=200))


def chunk(answer: dict[str, Any], delta: dict[str, str], finish: str | None = None) -> str:
    """One chunk of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({**answer, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


@app.post("/v1/chat/completions")
def chat() -> Response:
    """Answer a chat completion."""
    body = request.get_json()
    url = f"{FLOWISE}/api/v1/prediction/{body['model']}"
    question = {"question": body["messages"][-1]["content"], "streaming": bool(body.get("stream"))}
    answer = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body["model"]}
    if not body.get("stream"):
        text = session.post(url, json=question, timeout=60).json()["text"]
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return jsonify({**answer, "object": "chat.completion", "choices": [choice]})

    def stream() -> Iterator[str]:
        with session.post(url, json=question, timeout=60, stream=True) as reply:
            for line in reply.iter_lines():
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    if event["event"] == "token":
                        yield chunk(answer, {"content": event["data"]})
        yield chunk(answer, {}, "stop")
        yield "data: [DONE]\n\n"

    return Response(stream(), mimetype="text/event-stream")
