"""Fills an empty Flowise over REST, as its first user would in the browser: account, keys, tools, flows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from tests.live.flowise_canvas import Json, NodeMaker
from tests.live.flowise_flows import Flow, Parts, agentflows, chatflows

LOGIN = {"email": "admin@example.com", "password": "Test-Passw0rd!"}
CALL_SECONDS = 60
# What each API key may do; the flows that need a key need the first one.
KEYS: Mapping[str, tuple[str, ...]] = {
    "all": (
        *(
            f"{kind}:{action}"
            for kind in ("chatflows", "agentflows")
            for action in ("view", "create", "update", "delete")
        ),
        *(f"{kind}:view" for kind in ("executions", "documentStores", "tools", "variables", "apikeys")),
    ),
    "view": ("chatflows:view",),
    "agentview": ("agentflows:view",),
    "other": ("tools:view",),
}
# One pixel.
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
ARTIFACTS = f"[{{type: 'png', data: '{PICTURE}'}}, {{type: 'html', data: '<b>hi</b>'}}]"
DOCUMENTS = "[{pageContent: 'tool page', metadata: {source: 'a.pdf'}}]"


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """What an API caller needs to know of the filled Flowise."""

    version: str
    keys: Mapping[str, str]
    flows: Mapping[str, str]


def bootstrap(root: str, model_url: str) -> Bootstrapped:
    """Fills the Flowise at `root`; its models are the one at `model_url`."""
    with FlowiseAdmin(root) as admin:
        version = admin.version()
        is_newer = not version.startswith("2.")
        if is_newer:  # before, whoever came was let in
            admin.register()
        credential = admin.add_credential("openAIApi", {"openAIApiKey": "sk-fake"})
        keys = {name: admin.add_key(name, permissions) for name, permissions in KEYS.items()}
        tools = {
            "artifacts": admin.add_tool("make_chart", "ARTIFACTS", ARTIFACTS),
            "docs": admin.add_tool("find_docs", "SOURCE_DOCUMENTS", DOCUMENTS),
        }
        parts = Parts(NodeMaker(admin.definition).make, model_url, credential, keys["all"]["id"], tools)
        flows = [*chatflows(parts), *(agentflows(parts) if is_newer else ())]
        ids = {flow.name: admin.add_flow(flow) for flow in flows}
        return Bootstrapped(version, {name: row["apiKey"] for name, row in keys.items()}, ids)


class FlowiseAdmin:
    """The editor's side of Flowise's API, with the login's cookies."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["x-request-from"] = "internal"

    def __enter__(self) -> FlowiseAdmin:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def version(self) -> str:
        """The release that answers."""
        return str(self._call("GET", "version")["version"])

    def register(self) -> None:
        """Makes the first account and logs in."""
        user = {"name": "Admin", "email": LOGIN["email"], "type": "pro", "credential": LOGIN["password"]}
        self._call("POST", "account/register", {"user": user})
        self._call("POST", "auth/login", LOGIN)

    def definition(self, component: str) -> Json:
        """What the editor knows of a component: its inputs, defaults and outputs."""
        definition: Json = self._call("GET", f"nodes/{component}")
        return definition

    def add_credential(self, component: str, secrets: Mapping[str, str]) -> str:
        """The id of a new credential."""
        row = {"name": f"fake {component}", "credentialName": component, "plainDataObj": secrets}
        return str(self._call("POST", "credentials", row)["id"])

    def add_key(self, name: str, permissions: tuple[str, ...]) -> Json:
        """The row of a new API key, with its `id` and `apiKey`."""
        rows: list[Json] = self._call("POST", "apikey", {"keyName": name, "permissions": permissions})
        return next(row for row in rows if row["keyName"] == name)

    def add_tool(self, name: str, marker: str, extras: str) -> str:
        """The id of a new custom tool, whose result carries extras behind a marker line."""
        code = f"return 'tool result' + '\\n\\n----FLOWISE_{marker}----\\n\\n' + JSON.stringify({extras})"
        title = {"id": 0, "property": "title", "description": "title", "type": "string", "required": True}
        shown = {"name": name, "description": name, "color": "#fff", "iconSrc": ""}
        return str(self._call("POST", "tools", {**shown, "func": code, "schema": json.dumps([title])})["id"])

    def add_flow(self, flow: Flow) -> str:
        """The id of a new flow."""
        row: Json = {
            "name": flow.name,
            "type": flow.type,
            "flowData": flow.canvas,
            "deployed": False,
            "isPublic": False,
        }
        id_ = str(self._call("POST", "chatflows", _columns(row | flow.settings))["id"])
        if "rateLimit" in flow.settings.get("apiConfig", {}):
            # A limit given at creation is active only once the flow is saved again.
            self._call("PUT", f"chatflows/{id_}", _columns({"apiConfig": flow.settings["apiConfig"]}))
        return id_

    def _call(self, method: str, path: str, body: object = None) -> Any:
        reply = self._session.request(method, f"{self._root}/api/v1/{path}", json=body, timeout=CALL_SECONDS)
        if not reply.ok:
            raise RuntimeError(f"{method} {path} was answered with {reply.status_code}: {reply.text[:600]}")
        return reply.json()


def _columns(row: Json) -> Json:
    """Flowise keeps objects as JSON text."""
    return {key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()}
