"""The pipeline host as a user starts it, on Haystack or on its stand-in."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from tests.support.processes import Server, clean_environment, free_port

PROJECT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
PYTHON = os.environ.get("PIPELINES_PYTHON") or sys.executable
"""An interpreter with Haystack; without one the stand-in is served."""

IS_REAL = bool(os.environ.get("PIPELINES_PYTHON"))
START_SECONDS = 60
Json = dict[str, Any]


def pipelines_environment(folder: Path, **settings: str) -> dict[str, str]:
    """The environment of a host or gateway whose pipelines stand in the folder."""
    if not (folder / "kitchen.py").exists():
        shutil.copy(HERE / "kitchen.py", folder)
    environment = clean_environment(folder, **settings)
    ways = [str(PROJECT)] if IS_REAL else [str(PROJECT), str(HERE)]
    return {**environment, "PYTHONPATH": os.pathsep.join(ways)}


class RunningHost:
    """Context manager; leaving it ends the host by SIGTERM, which must end it with status 0."""

    def __init__(self, folder: Path, pipelines: str, *arguments: str, **settings: str) -> None:
        """Serve the pipelines of these lines of YAML."""
        (folder / "proxy.yaml").write_text(f"pipelines:\n{pipelines}")
        self._folder = folder
        self._port = free_port()
        self._arguments = arguments
        self._environment = pipelines_environment(folder, **settings)
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> RunningHost:
        command = [PYTHON, "-P", "-m", "flowise_gateway", "pipelines", "--port", str(self._port)]
        self._server = Server("host", [*command, *self._arguments], self._environment, self._folder)
        try:
            self._server.wait_until(lambda: '"base_url"' in self.log(), START_SECONDS)
        except BaseException:
            self._server.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.session.close()
        status = self._server.stop()
        assert status == 0, f"the host ended with status {status}:\n{self._server.tail()}"

    @property
    def base_url(self) -> str:
        """The address of its API."""
        return f"http://127.0.0.1:{self._port}/api/v1"

    @property
    def pid(self) -> int:
        """The process id of the host."""
        return self._server.pid

    def log(self) -> str:
        """All that it has written so far."""
        return self._server.output.read_text(errors="replace")

    def get(self, path: str, **more: Any) -> requests.Response:
        """GET a path of the API."""
        return self.session.get(self.base_url + path, timeout=60, **more)

    def ids(self) -> dict[str, str]:
        """The flow ids by the pipelines' names."""
        return {row["name"]: row["id"] for row in self.get("/chatflows").json()}

    def predict(self, name: str, **body: Any) -> requests.Response:
        """A prediction that is not streamed."""
        url = f"{self.base_url}/prediction/{self.ids()[name]}"
        return self.session.post(url, json=body, timeout=60)

    def ask(self, name: str, question: str, **body: Any) -> Json:
        """The JSON answer, whatever its status."""
        return dict(self.predict(name, question=question, **body).json())

    def stream(self, name: str, question: str, **body: Any) -> list[tuple[str, Any]]:
        """The events of a streamed prediction."""
        url = f"{self.base_url}/prediction/{self.ids()[name]}"
        asked = {"question": question, "streaming": True, **body}
        return list(events(self.session.post(url, json=asked, stream=True, timeout=60)))


def events(answer: requests.Response) -> Any:
    """The events of a stream as they come."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    for line in answer.iter_lines(chunk_size=None):
        if line.startswith(b"data:"):
            told = json.loads(line[5:])
            yield told["event"], told["data"]


def text_of(told: list[tuple[str, Any]]) -> str:
    """The text of a stream's tokens."""
    return "".join(data for event, data in told if event == "token")
