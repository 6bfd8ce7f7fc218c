"""An n8n of its own on loopback, set up as its owner would, and asked by its APIs and its chats."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from tests.clients.environments import Environment
from tests.clients.n8n.workflows import CREDENTIAL, Json
from tests.support.processes import Server, clean_environment, free_port, wait_for

START_SECONDS = 300
REQUEST_SECONDS = 90
SETTLE_SECONDS = 30
CLI_SECONDS = 180
OWNER = {"email": "owner@example.com", "firstName": "Olga", "lastName": "Owner", "password": "Passw0rd-1234"}
SCOPES = ("workflow:create", "workflow:activate", "execution:read", "execution:list", "execution:stop")
# Nothing leaves the machine, and a workflow that is activated is there at once.
SETTINGS = {
    "N8N_DIAGNOSTICS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_WHATS_NEW_ENABLED": "false",
    "N8N_DYNAMIC_BANNERS_ENABLED": "false",
    "N8N_TEMPLATES_ENABLED": "false",
    "N8N_COMMUNITY_PACKAGES_ENABLED": "false",
    "N8N_LICENSE_AUTO_RENEW_ENABLED": "false",
    "N8N_PERSONALIZATION_ENABLED": "false",
    "N8N_LISTEN_ADDRESS": "127.0.0.1",
    "N8N_HOST": "127.0.0.1",
    "N8N_SECURE_COOKIE": "false",
    "N8N_WORKFLOW_PUBLICATION_OUTBOX_POLL_INTERVAL_MS": "100",
    "NO_PROXY": "127.0.0.1,localhost",
}


class N8n:
    """Context manager; leaving it ends the server by its process id."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self._port = free_port()
        self._command = [
            str(environment.program),
            str(environment.folder / "node_modules/n8n/bin/n8n"),
        ]
        self._folder = folder
        ports = {"N8N_PORT": str(self._port), "N8N_RUNNERS_BROKER_PORT": str(free_port())}
        self._environment = clean_environment(folder, N8N_USER_FOLDER=str(folder), **ports, **SETTINGS)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["browser-id"] = secrets.token_hex(8)
        self._url = f"http://127.0.0.1:{self._port}"
        self._server: Server | None = None
        self._credential: Json = {}

    def __enter__(self) -> N8n:
        self._server = Server("n8n", [*self._command, "start"], self._environment, self._folder)
        try:
            self._server.wait_until(self._is_ready, START_SECONDS)
            self._set_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.stop()

    @property
    def is_running(self) -> bool:
        """Whether it answers."""
        return self._server is not None and self._is_ready()

    def _is_ready(self) -> bool:
        return self._answers("/healthz/readiness")

    def _answers(self, path: str) -> bool:
        try:
            return self._session.get(f"{self._url}{path}", timeout=5).ok
        except requests.RequestException:
            # Refused, or late: it migrates its database in the thread that answers.
            return False

    def _set_up(self) -> None:
        """The owner signs up and makes a key for the public API."""
        # The server is ready some moments before its routes are.
        wait_for(lambda: self._answers("/rest/settings"), START_SECONDS)
        self.call("POST", "/rest/owner/setup", OWNER)
        key = {"label": "tests", "expiresAt": None, "scopes": SCOPES}
        self._session.headers["X-N8N-API-KEY"] = self.call("POST", "/rest/api-keys", key)["rawApiKey"]

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """What an API of n8n answers."""
        reply = self._session.request(
            method, f"{self._url}{path}", json=body, params=query, timeout=REQUEST_SECONDS
        )
        assert reply.ok, f"{method} {path}: {reply.text[:2000]}"
        answer = reply.json()
        return answer.get("data", answer) if path.startswith("/rest/") else answer

    def add_credential(self, gateway: str, key: str) -> str:
        """A credential *OpenAI*, which the workflows use from now on; what its test says."""
        made = self.call("POST", "/rest/credentials", _credential(gateway, key))
        self._credential = {"id": made["id"], "name": made["name"]}
        return self.tested(gateway, key)

    def tested(self, gateway: str, key: str) -> str:
        """What the test of a credential says."""
        credential = {"id": "", **_credential(gateway, key)}
        tested = self.call("POST", "/rest/credentials/test", {"credentials": credential})
        return f"{tested['status']}: {tested['message']}"

    @property
    def credential(self) -> Json:
        """The credential as nodes name it."""
        return self._credential

    def models(self, kind: str, version: float, method: str, text: str = "") -> list[str]:
        """The list of models that a node offers, with what was typed into its search."""
        body = {
            "path": "parameters.model",
            "methodName": method,
            "filter": text,
            "nodeTypeAndVersion": {"name": kind, "version": version},
            "currentNodeParameters": {"options": {}},
            "credentials": {CREDENTIAL: self._credential},
        }
        found = self.call("POST", "/rest/dynamic-node-parameters/resource-locator-results", body)
        return [one["value"] for one in found["results"]]

    def activate(self, workflow: Json) -> Workflow:
        """Saves a workflow and activates it."""
        made = self.call("POST", "/api/v1/workflows", workflow)
        self.call("POST", f"/api/v1/workflows/{made['id']}/activate", {})
        webhook = next(node["webhookId"] for node in made["nodes"] if "webhookId" in node)
        return Workflow(self, self._session, made["id"], f"{self._url}/webhook/{webhook}/chat")

    def execute(self, workflow: Json) -> Json:
        """What `n8n execute` does with a workflow, in a process of its own."""
        made = self.call("POST", "/api/v1/workflows", workflow)
        done = subprocess.run(
            [*self._command, "execute", f"--id={made['id']}", "--rawOutput"],
            env={**self._environment, "N8N_RUNNERS_BROKER_PORT": str(free_port())},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=CLI_SECONDS,
            check=False,
        )
        begin = done.stdout.find("\n{") + 1 if not done.stdout.startswith("{") else 0
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        result: Json = json.loads(done.stdout[begin:])
        return result


def _credential(gateway: str, key: str) -> Json:
    return {"name": "Gateway", "type": CREDENTIAL, "data": {"apiKey": key, "url": f"{gateway}/v1"}}


class Workflow:
    """An active workflow that begins with a chat."""

    def __init__(self, n8n: N8n, session: requests.Session, workflow_id: str, chat_url: str) -> None:
        self._n8n = n8n
        self._session = session
        self._id = workflow_id
        self._chat_url = chat_url
        self._seen = ""

    def send(
        self, message: Mapping[str, str], files: Mapping[str, tuple[str, bytes, str]] | None = None
    ) -> requests.Response:
        """The head of what the chat answers; an execution has begun."""
        body = {"action": "sendMessage", **message}
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            given: Json = {"data": body, "files": files} if files else {"json": body}
            reply = self._session.post(self._chat_url, **given, stream=True, timeout=REQUEST_SECONDS)
            # An activated workflow is published some moments later.
            if reply.status_code != requests.codes.not_found or time.monotonic() > deadline:
                return reply
            time.sleep(0.1)

    def pieces(self, reply: requests.Response) -> Iterator[Json]:
        """The parts of a streamed answer."""
        for line in reply.iter_lines(chunk_size=None):
            if line:
                yield json.loads(line)

    def stop(self) -> None:
        """Stops the execution that is running, as the button in the list of executions does."""
        found = self._n8n.call("GET", "/api/v1/executions", workflowId=self._id, status="running")
        for execution in found["data"]:
            self._n8n.call("POST", f"/api/v1/executions/{execution['id']}/stop")

    def execution(self) -> Json:
        """The execution of the message sent last, once it has ended."""
        found: list[Json] = []

        def has_ended() -> bool:
            query = {"workflowId": self._id, "includeData": "true", "limit": "1"}
            found[:] = self._n8n.call("GET", "/api/v1/executions", **query)["data"]
            return bool(found and found[0]["id"] != self._seen and found[0]["stoppedAt"])

        assert wait_for(has_ended, SETTLE_SECONDS), "the execution has not ended"
        self._seen = found[0]["id"]
        return found[0]
