"""The Flowises of the gateway: the one in the settings, and those in `proxy.yaml`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from flowise_gateway.config.setting_values import flowise_base_url
from flowise_gateway.config.settings import Settings, secret_of
from flowise_gateway.config.yaml_document import Field, Spot, list_of, number, one_of, text_like, whole_number
from flowise_gateway.flow.model import DEFAULT_FLOWISE

# Short enough for a model id of 128 characters with the name and a flow's slug.
FLOWISE_NAME = text_like(r"[A-Za-z0-9][A-Za-z0-9._-]{0,23}", "1 to 24 of A-Z a-z 0-9 . _ - (quote a number)")


PIPELINES = "pipelines"
"""The name of the pipeline host among the Flowises."""


def _base_url(spot: Spot) -> str:
    text = spot.scalar("str")
    if any(c.isspace() for c in text):
        raise ValueError
    return flowise_base_url(text)


def _secret(spot: Spot) -> str:
    reference = spot.scalar("str")
    kind, _, rest = reference.partition(":")
    if kind not in ("env", "file") or not rest:
        raise ValueError
    try:
        secret_of(reference)
    except ValueError as error:
        raise spot.error(str(error)) from None
    return reference


_ADDRESS = Field(
    "an address such as https://flows.example.com/api/v1, without user name, query and fragment", _base_url
)


@dataclass(frozen=True, slots=True)
class FlowiseConfig:
    """An additional Flowise. Its timeouts default to the settings."""

    name: Annotated[str, FLOWISE_NAME]
    base_url: Annotated[str, _ADDRESS] = ""
    base_urls: Annotated[tuple[str, ...], list_of(_ADDRESS, "a list of addresses of replicas")] = ()
    sticky: Annotated[str, one_of("session", "none")] = "session"
    api_key: Annotated[
        str,
        Field("env:NAME or file:PATH; literal keys are not allowed in this file", _secret, may_be_empty=True),
    ] = ""
    connect_timeout: Annotated[float | None, number(0.1, 600)] = None
    request_timeout: Annotated[float | None, number(0.1, 86400)] = None
    stream_idle_timeout: Annotated[float | None, number(0.1, 86400)] = None
    run_timeout: Annotated[float | None, number(0.1, 604800)] = None
    max_attempts: Annotated[int | None, whole_number(1, 10)] = None
    mode: Annotated[str, one_of("auto", "queue")] = "auto"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A Flowise with its effective settings, which include its first server.

    `is_queued`: it runs in queue mode. `others` are the URLs of further replicas; `is_sticky`: each has its
    own sessions.
    """

    name: str
    settings: Settings
    is_queued: bool = False
    others: tuple[str, ...] = ()
    is_sticky: bool = True

    @property
    def server_settings(self) -> list[Settings]:
        """The settings for each of its servers."""
        return [self.settings, *(replace(self.settings, flowise_base_url=url) for url in self.others)]


def upstreams(
    settings: Settings, entries: Iterable[FlowiseConfig], *, is_queued: bool = False
) -> list[Upstream]:
    """All Flowises: first the one in the settings, if any, last the pipeline host. Raises ValueError.

    `is_queued` applies to the one in the settings.
    """
    found = [Upstream(DEFAULT_FLOWISE, settings, is_queued)] if settings.flowise_base_url else []
    found += [_upstream(settings, each) for each in entries]
    if settings.proxy_pipelines_url:
        # Last, since the first one is where unknown flows are looked up.
        url, key = settings.proxy_pipelines_url, settings.proxy_pipelines_key
        found.append(Upstream(PIPELINES, replace(settings, flowise_base_url=url, flowise_api_key=key)))
    return found


_TIMES = ("connect_timeout", "request_timeout", "stream_idle_timeout", "run_timeout", "max_attempts")


def _upstream(settings: Settings, entry: FlowiseConfig) -> Upstream:
    first, *others = entry.base_urls or (entry.base_url,)
    own: dict[str, Any] = {
        f"flowise_{name}": value for name in _TIMES if (value := getattr(entry, name)) is not None
    }
    key = secret_of(entry.api_key) if entry.api_key else ""
    return Upstream(
        entry.name,
        replace(settings, flowise_base_url=first, flowise_api_key=key, **own),
        entry.mode == "queue",
        tuple(others),
        entry.sticky == "session",
    )


def variables_of(entries: Iterable[FlowiseConfig]) -> set[str]:
    """The names of the variables with keys of Flowises."""
    references = (entry.api_key.partition(":") for entry in entries)
    return {name for kind, _, name in references if kind == "env"}
