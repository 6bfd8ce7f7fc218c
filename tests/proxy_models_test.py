"""Names to flows: the order of names, and who may use which."""

from __future__ import annotations

import pytest

from flowise_profiles import FlowProfile
from proxy_auth import ANONYMOUS, Caller
from proxy_config import DiscoveryConfig, ModelConfig, ProxyConfig
from proxy_errors import FlowiseRefused, FlowiseUnavailable, ModelNotFound, ProxyError
from proxy_models import Models

A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")


class Listed:
    """A catalog of these flows."""

    def __init__(self, *profiles: FlowProfile) -> None:
        self._profiles = profiles

    def profiles(self) -> list[FlowProfile]:
        """List all."""
        return list(self._profiles)

    def by_slug(self, slug: str) -> FlowProfile | None:
        """Find by slug."""
        return next((p for p in self._profiles if p.slug == slug), None)

    def by_flow(self, flow: str) -> FlowProfile | None:
        """Find by id."""
        return next((p for p in self._profiles if p.flow == flow), None)

    def failure(self) -> ProxyError | None:
        """Tell why there is no listing."""
        return self.error

    error: ProxyError | None = None


FLOWS = Listed(
    FlowProfile(A, "Sales A", "sales-a", created=5, streams=True, takes_audio=True, inputs={"x": "y"}),
    FlowProfile(B, "Bot", "bot", "AGENTFLOW"),
)
SUPPORT = ModelConfig("support", A.upper(), "Support", "Helps", ("gpt-4o",), 7.0, "bot")


def models(config: ProxyConfig | None = None, caller: Caller = ANONYMOUS) -> Models:
    """The models of a configuration for a caller."""
    return Models(config or ProxyConfig(), FLOWS, caller)


@pytest.mark.parametrize(("name", "flow"), [("sales-a", A), ("bot", B), (B, B), (B.upper(), B), (C, C)])
def test_a_slug_and_any_flows_id_are_models(name: str, flow: str) -> None:
    assert models().resolve(name).flow == flow


@pytest.mark.parametrize("name", ["", "nothing", "Bot", "a b", "x" * 129, "../x", "é", A[:-1]])
def test_anything_else_is_not(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        models().resolve(name)
    assert caught.value.param == "model"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["support", "gpt-4o", A, "sales-a"])
def test_a_configured_model_goes_by_its_id_aliases_and_flow(name: str) -> None:
    config = ProxyConfig(models=(SUPPORT,))
    model = models(config).resolve(name)
    assert model.flow == A
    if name != "sales-a":
        assert (model.id, model.name, model.description) == ("support", "Support", "Helps")
        assert (model.request_timeout, model.fallback, model.streams) == (7.0, "bot", True)
        assert (model.takes_audio, model.inputs) == (True, {"x": "y"})


def test_a_configured_model_stands_for_its_flow_in_the_list() -> None:
    assert [m.id for m in models(ProxyConfig(models=(SUPPORT,))).listed()] == ["support", "bot"]
    assert [m.id for m in models().listed()] == ["sales-a", "bot"]


def test_a_configured_id_wins_over_a_discovered_name() -> None:
    config = ProxyConfig(models=(ModelConfig("bot", C),))
    assert models(config).resolve("bot").flow == C
    assert [m.flow for m in models(config).listed()] == [C, A]


def test_discovery_can_be_limited_or_off() -> None:
    off = models(ProxyConfig(discovery=DiscoveryConfig(enabled=False)))
    assert off.listed() == []
    with pytest.raises(ModelNotFound):
        off.resolve("bot")
    assert off.resolve(B).flow == B
    agents = models(ProxyConfig(discovery=DiscoveryConfig(types=("AGENTFLOW",))))
    assert [m.id for m in agents.listed()] == ["bot"]
    with pytest.raises(ModelNotFound):
        agents.resolve("sales-a")
    assert [m.id for m in models(ProxyConfig(discovery=DiscoveryConfig(ids="uuid"))).listed()] == [A, B]


def test_a_caller_sees_and_uses_its_own_models_only() -> None:
    mine = models(caller=Caller("x", models=("sales-*",)))
    assert [m.id for m in mine.listed()] == ["sales-a"]
    assert mine.resolve(A).flow == A
    for name in ("bot", B, C):
        with pytest.raises(ModelNotFound):
            mine.resolve(name)
    by_id = models(ProxyConfig(models=(SUPPORT,)), Caller("x", models=("gpt-4o",)))
    assert [m.id for m in by_id.listed()] == ["support"]
    assert by_id.resolve("support").flow == A


def test_a_model_is_described_as_the_list_does() -> None:
    assert models().known("bot").name == "Bot"
    assert models().known(C).name == C


def test_a_name_is_not_unknown_while_no_listing_could_ever_be_had() -> None:
    unlisted = Listed()
    unlisted.error = FlowiseUnavailable("gone")
    with pytest.raises(FlowiseUnavailable):
        Models(ProxyConfig(), unlisted, ANONYMOUS).resolve("bot")
    assert Models(ProxyConfig(), unlisted, ANONYMOUS).resolve(A).flow == A
    unlisted.error = FlowiseRefused("the key may not list")
    with pytest.raises(ModelNotFound):
        Models(ProxyConfig(), unlisted, ANONYMOUS).resolve("bot")
