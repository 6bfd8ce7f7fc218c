"""A real Flowise on loopback with a fake model behind it, filled with the tests' flows."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import requests

from tests.live.flowise_bootstrap import Bootstrapped, bootstrap
from tests.live.flowise_canvas import Json
from tests.live.flowise_install import RECIPE, Installation
from tests.support.processes import Server, clean_environment, free_port

START_SECONDS = 180
IS_QUEUED = os.environ.get("FLOWISE_MODE") == "queue"
"""Whether runs go through Redis to a worker, as they do where Flowise is scaled."""

SECRETS = {
    "JWT_AUTH_TOKEN_SECRET": "for-tests-only-1",
    "JWT_REFRESH_TOKEN_SECRET": "for-tests-only-2",
    "EXPRESS_SESSION_SECRET": "for-tests-only-3",
    "TOKEN_HASH_SECRET": "for-tests-only-4",
}


class RealFlowise:
    """Context manager; a fresh database each time, whose folder is kept if something went wrong."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._servers = ExitStack()
        self._port = free_port()
        self._bootstrapped = Bootstrapped("", {}, {})
        self.folder = Path(tempfile.mkdtemp(prefix="flowise-live-"))
        self.keep_folder = False

    def __enter__(self) -> RealFlowise:
        try:
            self._start()
        except BaseException as failure:
            failure.add_note(f"Logs are kept in {self.folder}")
            self.keep_folder = True
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.keep_folder = self.keep_folder or error is not None
        self.stop()

    @property
    def root(self) -> str:
        """Where Flowise listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """Where Flowise's API is."""
        return f"{self.root}/api/v1"

    @property
    def version(self) -> str:
        """The release that runs."""
        return self._bootstrapped.version

    @property
    def keys(self) -> Mapping[str, str]:
        """API keys by name: all, view, agentview, other."""
        return self._bootstrapped.keys

    @property
    def flows(self) -> Mapping[str, str]:
        """Flow ids by name."""
        return self._bootstrapped.flows

    def llm_log(self) -> list[Json]:
        """Every request that the model got, and what became of it, oldest first."""
        text = self._log_path.read_text() if self._log_path.exists() else ""
        whole, _, _ = text.rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def predict(self, flow: str, question: str) -> Json:
        """Flowise's own JSON answer."""
        with requests.Session() as session:
            session.trust_env = False
            url = f"{self.base_url}/prediction/{self.flows[flow]}"
            headers = {"Authorization": f"Bearer {self.keys['all']}"}
            reply = session.post(url, json={"question": question}, headers=headers, timeout=60)
            reply.raise_for_status()
            answer: Json = reply.json()
            return answer

    def stop(self) -> None:
        """Ends both servers; forgets their folder unless it may explain a failure."""
        self._servers.close()
        if not self.keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _log_path(self) -> Path:
        return self.folder / "model.log"

    def _start(self) -> None:
        model_url = self._start_model()
        environment = self._environment()
        if IS_QUEUED:
            environment |= {"MODE": "queue", "REDIS_URL": self._start_redis()}
        flowise = self._start_server("flowise", self._installation.command(), environment)
        flowise.wait_until(self._answers_ping, START_SECONDS)
        if IS_QUEUED:
            worker = self._start_server("worker", self._installation.command("worker"), environment)
            worker.wait_until(lambda: "Prediction Worker" in worker.output.read_text(), START_SECONDS)
        self._bootstrapped = bootstrap(self.root, model_url)

    def _start_server(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Server:
        return self._servers.enter_context(Server(name, command, environment, self.folder))

    def _start_redis(self) -> str:
        """Starts a Redis that keeps nothing and returns its address."""
        port = free_port()
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        redis = self._start_server("redis", command, clean_environment(self.folder))
        redis.wait_until(lambda: "Ready to accept" in redis.output.read_text(), START_SECONDS)
        return f"redis://127.0.0.1:{port}"

    def _start_model(self) -> str:
        """Starts the fake model and returns its address."""
        node = str(self._installation.node.program)
        command = [node, str(RECIPE / "fake_llm.js"), "0", str(self._log_path)]
        model = self._start_server("model", command, clean_environment(self.folder))
        model.wait_until(lambda: model.output.read_text().endswith("\n"), START_SECONDS)
        return f"{model.output.read_text().strip()}/v1"

    def _environment(self) -> dict[str, str]:
        """Keeps everything that Flowise writes in our folder, and Flowise off the network."""
        data = str(self.folder)
        places = {
            "DATABASE_PATH": data,
            "SECRETKEY_PATH": data,
            "BLOB_STORAGE_PATH": f"{data}/storage",
            "LOG_PATH": f"{data}/logs",
            "FLOWISE_ROOT": str(self._installation.app),
        }
        switches = {
            "DATABASE_TYPE": "sqlite",
            "DISABLE_FLOWISE_TELEMETRY": "true",
            "HTTP_SECURITY_CHECK": "false",
        }
        address = {"HOST": "127.0.0.1", "PORT": str(self._port)}
        return clean_environment(self.folder, **address, **switches, **places, **SECRETS)

    def _answers_ping(self) -> bool:
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(f"{self.base_url}/ping", timeout=2).text == "pong"
            except requests.RequestException:
                return False
