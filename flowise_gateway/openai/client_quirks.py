"""How an answer is presented: by the model's settings and by what the client program shows."""

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
    """How a failure after which a flow may have run is told to a client that decides by its words.

    `suffix` ends the message of a failure within a stream, where there is no status.
    """

    suffix: str = ""

    def reworded(self, error: ProxyError, *, in_stream: bool = False) -> ProxyError:
        """The same failure in words after which the client does not send the request again.

        An invisible character breaks each word that sounds as if another try could help; what people read
        stays as it was. A failure before anything ran is told as it is, since another try is safe then.
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
    r"|^timeout$|\b\w+ time-?out\b|a timeout occurred|timed out|time out"
    r"|(?:try|retry) your request|try again)(\S)"
)
"""The beginning of a word for which a client sends a request again, whatever the status says: opencode
(`session/retry.ts`), aider by LiteLLM (`exception_mapping_utils.py`), Continue (`exponentialBackoff.ts`)."""


@dataclass(frozen=True, slots=True)
class Style:
    """What a renderer adds to the text; `usage` is a usage chunk that the client did not ask for.

    `repeats_failures`: the client sends the request of a failed response again, whatever has run.
    `wording`: how the client must be told of a failure so that it does not send the request again.
    `source_events`: the client is Open WebUI, whose streams get their sources as events of its own.
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


CLIENTS = (
    # LibreChat's agents run on LangChain, which n8n uses too, but only LibreChat's user ids are MongoDB's.
    (
        re.compile(r"langchainjs-openai/"),
        re.compile(r"[0-9a-f]{24}"),
        Traits(shows_annotations=False, asks_for_usage=False),
    ),
    (re.compile(r"librechat-azure-openai-v2"), None, Traits(shows_annotations=False)),
    # The names of Codex's programs: codex_cli_rs, codex-tui, codex_exec, codex_vscode, "Codex Desktop".
    (re.compile(r"(?i)codex[-_ ]"), None, Traits(repeats_failures=True)),
    (re.compile(r"opencode/"), None, Traits(repeats_failures=True, wording=Wording())),
    # Continue: OpenAI's library bundled and minified, so that the name of its class is a letter or two.
    (re.compile(r"[\w$]{1,3}/JS \d"), None, Traits(wording=Wording())),
)
"""Client programs that are treated differently, by the beginning of `User-Agent` and the body's `user`."""

_OPENAI_PYTHON = re.compile(r"(?:Async)?OpenAI/Python ")
_LITELLM = Traits(wording=Wording(" (invalid_request_error)"))
"""LiteLLM takes every failure within a stream for a lost connection unless its message has this word."""


def traits_of(user_agent: str, user: Any, *, is_raw: bool = False) -> Traits:
    """What is known of a client program.

    `is_raw`: it reads raw answers through OpenAI's library, which LiteLLM alone does for streams.
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
    """The style for one request. The answer of a UI task and JSON get no footer, since both are parsed."""
    traits = traits_of(user_agent, body.get("user"), is_raw=is_raw)
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
