"""Every field of every POST route with values that make no sense: a 400 that names the field, never a 500."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import pytest
import requests

from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy
from tests.unit.openai_surface_test import TABLES

UNKNOWN, KNOWN = "no-such-model", "demo-assistant"
DEEP = 300
VALUES: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "zero": b"0",
    "negative": b"-1",
    "fraction": b"0.5",
    "huge integer": b"9" * 40,
    "huge number": b"1e308",
    "empty text": b'""',
    "control characters": b'"a\\r\\nX: y\\u0000"',
    "long text": b'"%b"' % (b"x" * 100_000),
    "half a character": b'"\\ud800"',
    "empty array": b"[]",
    "array of null": b"[null]",
    "array of objects": b"[{}]",
    "empty object": b"{}",
    "object": b'{"type":5,"id":[],"":""}',
    "same key twice": b'{"type":"x","type":"y"}',
    "long key": b'{"%b":"v"}' % (b"k" * 100_000),
    "deep array": b"[" * DEEP + b"]" * DEEP,
    "deep object": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
}
STRANGE = {
    *("huge number", "control characters", "long text", "half a character", "array of null", "object"),
    *("same key twice", "long key"),
}
"""What may hurt behind the parser."""

NO_JSON = {"NaN": b"NaN", "Infinity": b"-Infinity", "too large": b"1e999"}
KINDS = {
    "true": bool,
    "zero": int,
    "fraction": float,
    "empty text": str,
    "empty array": list,
    "empty object": dict,
}
OWN = {
    *("conversation_id", "session_id", "chat_id", "overrideConfig", "vars", "form", "humanInput", "uploads"),
    *("leadEmail", "flowise"),
}
"""Fields that OpenAI does not have."""

CHAT, COMPLETION, RESPONSE = ({*table.fields, *OWN} for table in TABLES[:3])
HELLO = [{"role": "user", "content": "Hello"}]
ROUTES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "/v1/chat/completions": ({"messages": HELLO}, CHAT),
    f"/openai/deployments/{UNKNOWN}/chat/completions": ({"messages": HELLO}, {"messages", "stream"}),
    "/v1/completions": ({"prompt": "Hello"}, COMPLETION),
    "/v1/responses": ({"input": HELLO}, RESPONSE),
    "/v1/responses/input_tokens": ({"input": HELLO}, RESPONSE),
    "/v1/responses/compact": ({"input": HELLO}, RESPONSE),
}
RUN = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
UNIONS: dict[str, tuple[type, ...]] = {
    "stop": (str, list),
    "tool_choice": (str, dict),
    "function_call": (str, dict),
    "conversation": (str, dict),
    "logprobs": (bool, int),
}
"""Fields that have values of several kinds."""

UNCHECKED = {("/v1/responses", "type"), ("/v1/responses", "stream_id")}
"""Of the socket alone."""


@pytest.fixture(scope="module")
def proxy(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server whose log tells of these requests alone, and of no busy disk."""
    folder = tmp_path_factory.mktemp("parameters")
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_STORE="memory:") as running:
        yield running


@dataclass(frozen=True)
class Case:
    """One request, and the name of its field's place."""

    route: str
    field: str
    value: str
    body: bytes

    def __str__(self) -> str:
        return f"{self.route} {self.field}: {self.value}"


def cases(values: dict[str, bytes]) -> Iterator[Case]:
    """Every field at its top, and those inside of others, with every value."""
    mark = "the value"
    for route, (base, fields) in ROUTES.items():
        for field in sorted(fields):
            body = json.dumps({"model": UNKNOWN, **base, field: mark}).encode()
            for name, value in values.items():
                yield Case(route, field, name, body.replace(b'"the value"', value))
    for table in TABLES[3:]:
        route = "/v1/chat/completions" if "messages" in table.wrap({}) else "/v1/responses"
        for field in table.fields:
            wrapped = {**table.wrap({**table.base, field: mark}), "model": UNKNOWN}
            for name, value in values.items():
                raw = json.dumps(wrapped).encode().replace(b'"the value"', value)
                yield Case(route, f"{table.name}.{field}", name, raw)


def answered(
    url: str, wanted: Sequence[Case], judge: Callable[[Case, requests.Response], str]
) -> tuple[list[str], list[Case]]:
    """Send all of them: what the judge has against the answers, and the cases that were no 400."""
    waiting: SimpleQueue[Case] = SimpleQueue()
    faults, taken = list[str](), list[Case]()
    for case in wanted:
        waiting.put(case)

    def client() -> None:
        with requests.Session() as session:
            while True:
                try:
                    case = waiting.get_nowait()
                except Empty:
                    return
                answer = session.post(
                    url + case.route,
                    data=case.body,
                    headers={"Content-Type": "application/json"},
                    timeout=60,
                )
                if fault := judge(case, answer):
                    faults.append(f"{case}: {fault}: {answer.status_code} {answer.text[:200]}")
                if answer.status_code != 400:
                    taken.append(case)

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults, taken


def judged(case: Case, answer: requests.Response) -> str:
    """What is wrong with an answer to a request whose model there is not."""
    if answer.status_code == 200:
        return "" if case.route.endswith(("input_tokens", "compact")) else "answered"
    if answer.status_code not in (400, 404):
        return "a wrong status"
    error = answer.json()["error"]
    if set(error) != {"message", "type", "param", "code"}:
        return "no error of OpenAI's"
    if len(error["message"]) > 500 or len(error["param"] or "") > 200:
        return "too long"
    if answer.status_code == 404:
        return "" if error["code"] in ("model_not_found", "DeploymentNotFound") else "a wrong code"
    # Nothing of a body that is nested too deeply has a name.
    is_named = error["param"] or (case.value.startswith("deep") and "nested too deeply" in error["message"])
    is_there = "." in case.field or (error["param"] or case.field).startswith(case.field)
    return "" if is_named and is_there else "another param"


def judged_run(case: Case, answer: requests.Response) -> str:
    """What is wrong with an answer to a request that may run a flow."""
    if answer.status_code == 200:
        return "a failure of ours" if b"server_error" in answer.content else ""
    error = answer.json()["error"]
    if answer.status_code == 404 and error["code"] == "model_not_found" and case.field == "model":
        return ""
    if answer.status_code == 400 and (error["param"] or error["type"] == "upstream_error"):
        return ""
    return "a wrong error"


def test_no_value_of_any_field_is_a_fault_of_ours(proxy: RunningProxy, demo: DemoServer) -> None:
    every = list(cases(VALUES))
    demo.clear()
    faults, taken = answered(proxy.url, every, judged)
    assert not faults, "\n".join(faults[:30])
    assert demo.records() == []
    # What was only stopped by its model's name is run, in turn whole and streamed.
    runs = [case for case in taken if case.route in RUN and case.value in STRANGE]
    assert len(runs) > 300
    bodies = [
        Case(case.route, case.field, case.value, _runnable(case.body, is_streamed=number % 2 == 1))
        for number, case in enumerate(sorted(runs, key=str))
    ]
    faults, _ = answered(proxy.url, bodies, judged_run)
    assert not faults, "\n".join(faults[:30])
    assert '"level":"error"' not in proxy.log()


def _runnable(body: bytes, *, is_streamed: bool) -> bytes:
    body = body.replace(UNKNOWN.encode(), KNOWN.encode())
    return (
        body if b'"stream"' in body else b'{"stream":%b,%b' % (b"false true".split()[is_streamed], body[1:])
    )


@pytest.mark.parametrize("table", TABLES[:3], ids=lambda table: table.name)
def test_a_value_of_another_kind_is_refused(proxy: RunningProxy, table: Any) -> None:
    route = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}.get(table.name, "/v1/responses")
    wanted = [case for case in cases({name: VALUES[name] for name in KINDS}) if case.route == route]
    kinds = {name: UNIONS.get(name, (type(sample),)) for name, (_, sample) in table.fields.items()}

    def judge(case: Case, answer: requests.Response) -> str:
        allowed = kinds.get(case.field)
        if allowed is None or (route, case.field) in UNCHECKED:
            return ""
        kind = KINDS[case.value]
        is_number = kind in (int, float) and (int in allowed or float in allowed)
        return "" if kind in allowed or is_number or answer.status_code == 400 else "taken"

    faults, _ = answered(proxy.url, wanted, judge)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize("route", ROUTES)
def test_numbers_that_are_none_are_no_json(proxy: RunningProxy, route: str, value: bytes) -> None:
    body = b'{"model":"m","temperature":%b}' % value
    answer = requests.post(proxy.url + route, data=body, timeout=30)
    assert answer.status_code == 400
    assert "could not parse the JSON body" in answer.json()["error"]["message"]
