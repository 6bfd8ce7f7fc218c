"""How an answer is presented, depending on the model's settings and on the client program."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowise_gateway.flow.errors import ProxyError, RunFailed
from flowise_gateway.flow.model import Model


@dataclass(frozen=True, slots=True)
class Wording:
    """The wording of a failure after which the flow may have run, for a client that retries by its text.

    `suffix` is appended to the message of a failure within a stream, where there is no status.
    """

    suffix: str = ""

    def reworded(self, error: ProxyError, *, in_stream: bool = False) -> ProxyError:
        """The same failure, worded so that the client does not retry.

        An invisible character breaks each word that makes the client retry; the visible text is unchanged.
        A failure before anything ran is left unchanged, since a retry is safe.
        """
        if error.nothing_ran:
            return error
        is_plain = not _TRANSIENT.search(error.type)
        shown = copy.copy(error) if is_plain else RunFailed("", param=error.param, code=error.code)
        shown.message = _TRANSIENT.sub(_BROKEN, error.message) + (self.suffix if in_stream else "")
        if shown.code and _TRANSIENT.search(shown.code):
            shown.code = RunFailed.code
        return shown


_BROKEN = "\\1\N{WORD JOINER}"
_TRANSIENT = re.compile(
    r"(?i)(?=429|50[0234]|524"
    r"|rate[\s_-]*limit|rate increased too quickly|too[ _]many[ _]requests|request too large"
    r"|overloaded|exhausted|unavailable|at capacity|service tier capacity"
    r"|internal[ _]error|(?:internal )?server[ _-]error|provider[ _-]returned[ _-]error"
    r"|web server is returning|the server had an error|mistral api raised"
    r"|safety system|content_policy_violation|violating our usage policy"
    r"|terminated|aborted|fetch failed|failed to fetch|network[-_\s]error|upstream connect|socket"
    r"|connection (?:error|refused|lost|reset)|reset before headers|premature (?:close|end)"
    r"|getaddrinfo|enotfound|eai_again|econnrefused|econnreset|etimedout"
    r"|^timeout$|(?:request|response|connection|network|stream|read) timeout|a timeout occurred"
    r"|timed out|time out"
    r"|(?:try|retry) your request|try again)(\S)"
)
"""The beginning of a word that makes a client retry regardless of the status: opencode
(`session/retry.ts`), aider by LiteLLM (`exception_mapping_utils.py`), Continue (`exponentialBackoff.ts`)."""


@dataclass(frozen=True, slots=True)
class Style:
    """What a renderer adds to the answer; `usage` means a usage chunk that the client did not request.

    `repeats_failures`: the client retries a failed response even if the flow has run.
    `wording`: how failures are worded for the client, so that it does not retry.
    `source_events`: the client is Open WebUI, whose streams get their sources as special events.
    """

    steps: bool = True
    annotations: bool = True
    footer: bool = False
    usage: bool = False
    repeats_failures: bool = False
    wording: Wording | None = None
    source_events: bool = False


@dataclass(frozen=True, slots=True)
class Traits:
    """Where a client program differs from OpenAI's own clients."""

    shows_annotations: bool = True
    asks_for_usage: bool = True
    repeats_failures: bool = False
    wording: Wording | None = None


_CODEX = Traits(repeats_failures=True)
_OF_CODEX = frozenset(("x-codex-turn-metadata", "x-codex-installation-id"))
"""Keys of `client_metadata` that only Codex sends: its app server takes the name of the program it is in."""

CLIENTS = (
    # LibreChat's agents use LangChain, as n8n does, but only LibreChat's user ids are MongoDB ids.
    (
        re.compile(r"langchainjs-openai/"),
        re.compile(r"[0-9a-f]{24}"),
        Traits(shows_annotations=False, asks_for_usage=False),
    ),
    (re.compile(r"librechat-azure-openai-v2"), None, Traits(shows_annotations=False)),
    # The user agents of Codex: codex_cli_rs, codex-tui, codex_exec, codex_vscode, "Codex Desktop".
    (re.compile(r"(?i)codex[-_ ]"), None, _CODEX),
    (re.compile(r"opencode/"), None, Traits(repeats_failures=True, wording=Wording())),
    # Continue: OpenAI's library, bundled and minified, so that its class name is a letter or two.
    (re.compile(r"[\w$]{1,3}/JS \d"), None, Traits(wording=Wording())),
)
"""Clients with special treatment, by the start of `User-Agent` and the `user` of the body."""

_OPENAI_PYTHON = re.compile(r"(?:Async)?OpenAI/Python ")
_LITELLM = Traits(wording=Wording(" (invalid_request_error)"))
"""LiteLLM treats a failure within a stream as a lost connection unless its message has this word."""


def traits_of(user_agent: str, user: Any, *, is_raw: bool = False) -> Traits:
    """The traits of a client program.

    `is_raw`: it reads raw responses through OpenAI's library, which only LiteLLM does for streams.
    """
    if is_raw and _OPENAI_PYTHON.match(user_agent):
        return _LITELLM
    for program, users, traits in CLIENTS:
        if program.match(user_agent) and (users is None or (isinstance(user, str) and users.fullmatch(user))):
            return traits
    return Traits()


def style_of(
    model: Model,
    body: Mapping[str, Any],
    user_agent: str,
    *,
    is_raw: bool = False,
    is_task: bool = False,
    is_open_webui: bool = False,
) -> Style:
    """The style for one request. Answers to UI tasks and JSON get no source list: clients parse them."""
    metadata = body.get("client_metadata")
    is_codex = isinstance(metadata, dict) and not _OF_CODEX.isdisjoint(metadata)
    traits = _CODEX if is_codex else traits_of(user_agent, body.get("user"), is_raw=is_raw)
    wants_footer = model.sources == "footer" or (model.sources == "auto" and not traits.shows_annotations)
    return Style(
        steps=model.steps != "off",
        annotations=model.sources in ("auto", "annotations"),
        footer=wants_footer and not is_task and not _is_json(body.get("response_format")),
        usage=model.usage == "always" or (model.usage == "auto" and not traits.asks_for_usage),
        repeats_failures=traits.repeats_failures,
        wording=traits.wording,
        source_events=is_open_webui and model.sources in ("auto", "annotations"),
    )


def _is_json(response_format: Any) -> bool:
    return isinstance(response_format, dict) and response_format.get("type") in ("json_object", "json_schema")
