"""Open WebUI as its documentation installs it: a server on loopback, its administrator, and connections to the gateway."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from tests.clients.environments import install
from tests.clients.shared.asking import RESULT
from tests.support.processes import Server, clean_environment, free_port

# The first start after the installation compiles some thousand modules.
START_SECONDS = 400
REQUEST_SECONDS = 60
ADMIN = {"email": "admin@example.com", "password": "a password of the tests"}
SURFACES = ("chat", "responses")
# What it would load from elsewhere is switched off; a document goes to the model whole, for there is no embedding model.
SETTINGS = {
    "ANONYMIZED_TELEMETRY": "false",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
    "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"usage": True}}),
    "DO_NOT_TRACK": "true",
    "ENABLE_AUTOCOMPLETE_GENERATION": "true",
    "ENABLE_EVALUATION_ARENA_MODELS": "false",
    "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "OFFLINE_MODE": "true",
    "RAG_EMBEDDING_ENGINE": "openai",
    "WEBUI_ADMIN_EMAIL": ADMIN["email"],
    "WEBUI_ADMIN_PASSWORD": ADMIN["password"],
    "WEBUI_SECRET_KEY": "a secret of the tests",
}

TOOL = f'''
from typing import Literal


class Tools:
    def get_weather(self, city: str, unit: Literal["C", "F"]) -> str:
        """
        The weather of a city.
        :param city: The city.
        :param unit: The unit.
        """
        return "{RESULT}"
'''


class Application:
    """Context manager: the running application, signed in to as its administrator."""

    def __init__(self, folder: Path, gateway: str) -> None:
        """The folder is its home and has its data; `gateway` is where the gateway listens."""
        self._folder = folder
        self._gateway = gateway
        self._port = free_port()
        self._session = requests.Session()
        self._session.trust_env = False
        self._server: Server | None = None
        self.token = ""

    def __enter__(self) -> Application:
        program = install("open_webui").folder / "venv/bin/open-webui"
        data, static = (str(self._folder / name) for name in ("data", "static"))
        environment = clean_environment(self._folder, DATA_DIR=data, STATIC_DIR=static, **SETTINGS)
        command = [str(program), "serve", "--host", "127.0.0.1", "--port", str(self._port)]
        self._server = Server("open-webui", command, environment, self._folder)
        try:
            self._server.wait_until(self._is_healthy, START_SECONDS)
            self.token = str(self.call("POST", "/api/v1/auths/signin", ADMIN)["token"])
            self._session.headers["Authorization"] = f"Bearer {self.token}"
            self._connect()
            self._offer_tool()
        except BaseException:
            self._server.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._session.close()
        assert self._server is not None
        self._server.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """What its API answers; a refusal is an error with its text."""
        address = f"{self.url}{path}"
        answer = self._session.request(method, address, json=body, timeout=REQUEST_SECONDS, **options)
        if not answer.ok:
            raise Refusal(f"{answer.status_code} {answer.text}")
        return answer.json()

    def name_of(self, model: str) -> str:
        """What a model is called in the menu now: a flow's name is known once the gateway has listed the flows."""
        [name] = [str(one["name"]) for one in self.call("GET", "/api/models")["data"] if one["id"] == model]
        return name

    def _is_healthy(self) -> bool:
        try:
            return self._session.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def _connect(self) -> None:
        """One connection for each API of the gateway; the models of the second have a prefix."""
        configs = {
            "0": {"enable": True},
            "1": {"enable": True, "api_type": "responses", "prefix_id": "responses"},
        }
        connections = {
            "ENABLE_OPENAI_API": True,
            "OPENAI_API_BASE_URLS": [f"{self._gateway}/v1"] * 2,
            "OPENAI_API_KEYS": ["any", "any"],
            "OPENAI_API_CONFIGS": configs,
        }
        self.call("POST", "/openai/config/update", connections)
        # Its rich text input makes 6×7 of a 6*7.
        ui = {"showChangelog": False, "richTextInput": False}
        self.call("POST", "/api/v1/users/user/settings/update", {"ui": ui})

    def _offer_tool(self) -> None:
        """A function of the workspace, and the models that may call it."""
        tool = {"id": "weather", "name": "Weather", "content": TOOL, "meta": {"description": "The weather."}}
        self.call("POST", "/api/v1/tools/create", tool)
        for model in ("prompted", "responses.prompted"):
            meta = {"toolIds": ["weather"]}
            own = {"id": model, "name": model, "meta": meta, "params": {"function_calling": "native"}}
            self.call("POST", "/api/v1/models/create", own)


class Refusal(Exception):
    """An answer with the status of an error."""
