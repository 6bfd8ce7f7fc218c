"""Clients in front of one gateway, whose Flowise counts the runs."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import requests

from tests.clients.environments import HERE, Environment, install
from tests.clients.matrix import Client
from tests.clients.upstreams import Upstream
from tests.support.processes import clean_environment
from tests.support.running_proxy import RunningProxy

Json = dict[str, Any]
ANSWER_SECONDS = 90
START_SECONDS = 240
USERS = itertools.count()


class Asker(Protocol):
    """What answers the cases of a client: its script, or the application that a fixture has started."""

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""

    def ask(self, case: Json) -> Json:
        """What the client has got: `texts`, `text` and the other names that `checks.py` looks at, or `error`."""

    def stop(self) -> None:
        """End it."""


class Driver:
    """A client's script as a process: a case is a line to it, an answer a line from it."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._errors = folder / "stderr.txt"
        environment = clean_environment(
            folder, PYTHONPATH=str(HERE / "shared"), NO_PROXY="127.0.0.1,localhost"
        )
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._seconds = START_SECONDS

    def ask(self, case: Json) -> Json:
        """What the script says to a case."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(case).encode() + b"\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=self._seconds)
        except queue.Empty:
            line = b""
        if not line:
            self.stop()
            raise AssertionError(f"the script gave no answer:\n{self._errors.read_text()[-3000:]}")
        self._seconds = ANSWER_SECONDS
        answer: Json = json.loads(line)
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                # What a library prints by itself is no answer.
                if line.startswith(b"{"):
                    self._lines.put(line)
        self._lines.put(b"")

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()


class Bench:
    """What the checks use: clients' answers, the server's own, and what reached Flowise."""

    def __init__(self, upstream: Upstream, proxy: RunningProxy, folder: Path) -> None:
        self.upstream = upstream
        self.proxy = proxy
        self.folder = folder
        self._askers: dict[str, Asker] = {}
        self._whole: dict[tuple[str, str], Json] = {}

    def close(self) -> None:
        """End the clients' processes."""
        for asker in self._askers.values():
            asker.stop()

    def started(self, client: Client, asker: Asker) -> None:
        """Ask this client by what a fixture has started instead of a script."""
        self._askers[client.name] = asker

    def environment(self, client: Client) -> Environment:
        """The client's installed packages."""
        return install(client.folder)

    def attempt(self, client: Client, surface: str, case: Json, runs: int) -> Json:
        """The client's answer or error; Flowise has run a flow so many times for it, and not once more."""
        count = self.upstream.count_runs()
        asked = {"stream": False, "user": new_user(client), **case, "surface": surface}
        answer = self._asker(client).ask(asked)
        started = count()
        assert started == runs, f"{started} runs instead of {runs}: {answer}"
        return answer

    def ask(self, client: Client, surface: str, case: Json, runs: int = 1) -> Json:
        """The client's answer; that it reports an error fails the cell."""
        answer = self.attempt(client, surface, case, runs)
        assert "error" not in answer, answer["error"]
        return answer

    def _asker(self, client: Client) -> Asker:
        asker = self._askers.get(client.name)
        if asker is None or not asker.is_running:
            folder = self.folder / f"home-{len(self._askers)}-{client.folder}"
            folder.mkdir(exist_ok=True)
            command = self.environment(client).script(client.source(), self.folder)
            asker = self._askers[client.name] = Driver([*command, self.proxy.url], folder)
        return asker

    def whole(self, client: Client, model: str, question: str) -> Json:
        """The message and usage of the server's own whole answer, as for this client."""
        kind = (client.user_agent, model)
        if kind not in self._whole:
            body = {
                "model": model,
                "user": new_user(client),
                "messages": [{"role": "user", "content": question}],
            }
            headers = {"User-Agent": client.user_agent} if client.user_agent else {}
            url = f"{self.proxy.url}/v1/chat/completions"
            answer = requests.post(url, json=body, headers=headers, timeout=30)
            assert answer.ok, answer.text
            message = answer.json()["choices"][0]["message"]
            self._whole[kind] = {**message, "usage": answer.json()["usage"]}
        return self._whole[kind]


@contextlib.contextmanager
def bench_before(upstream: Upstream, folder: Path) -> Iterator[Bench]:
    """A gateway before this Flowise, which leaves each retry to the client."""
    (folder / "proxy.yaml").write_text(upstream.config)
    with RunningProxy(folder, FLOWISE_MAX_ATTEMPTS="1", **upstream.settings) as proxy:
        bench = Bench(upstream, proxy, folder)
        yield bench
        bench.close()


def new_user(client: Client) -> str:
    """A user who has asked nothing before; LibreChat's have the ids of its database, and are known by them."""
    number = next(USERS)
    return f"{number:024x}" if client.user_agent else f"user-{number}"


def unsigned(text: str) -> str:
    """A text with the links to files of its run made alike, for every run has its own."""
    return re.sub(r"/v1/flowise/files/[\w-]+", "/v1/flowise/files/…", text)
