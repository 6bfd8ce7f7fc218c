"""Names to flows: the order of names, and who may use which."""

from __future__ import annotations

import contextlib
import re

import pytest

from flowise_gateway.access.keys import ANONYMOUS, Caller
from flowise_gateway.access.models import Models
from flowise_gateway.config.schema import DiscoveryConfig, ModelConfig, ProxyConfig
from flowise_gateway.flow.errors import FlowiseRefused, FlowiseUnavailable, ModelNotFound, ProxyError
from flowise_gateway.flowise.profiles import FlowProfile

A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")


class Listed:
    """A catalog of these flows."""

    def __init__(self, *profiles: FlowProfile) -> None:
        self._profiles = profiles

    def profiles(self) -> list[FlowProfile]:
        """List all."""
        return list(self._profiles)

    def by_flow(self, flow: str) -> FlowProfile | None:
        """Find by id."""
        return next((p for p in self._profiles if p.flow == flow), None)

    def listed(self, name: str) -> FlowProfile | None:
        """Find by id or slug."""
        return next((p for p in self._profiles if name in (p.flow, p.slug)), None)

    find = listed

    def failure(self) -> ProxyError | None:
        """Tell why there is no listing."""
        return self.error

    error: ProxyError | None = None


FLOWS = Listed(
    FlowProfile(A, "Sales A", "sales-a", created=5, streams=True, takes_audio=True, inputs={"x": "y"}),
    FlowProfile(B, "Bot", "bot", type="AGENTFLOW"),
)
SUPPORT = ModelConfig(
    "support", A.upper(), "Support", "Helps", ("gpt-4o",), request_timeout=7.0, fallback="bot"
)


def models(config: ProxyConfig | None = None, caller: Caller = ANONYMOUS) -> Models:
    """The models of a configuration for a caller."""
    return Models(config or ProxyConfig(), {"default": FLOWS}, caller)


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
def test_a_configured_model_goes_by_all_names_of_its_flow(name: str) -> None:
    config = ProxyConfig(models=(SUPPORT,))
    model = models(config).resolve(name)
    assert model.flow == A
    assert (model.id, model.name, model.description) == ("support", "Support", "Helps")
    assert (model.request_timeout, model.fallback, model.streams) == (7.0, "bot", True)
    assert (model.takes_audio, model.inputs) == (True, {"x": "y"})


@pytest.mark.parametrize(
    "pattern", ["support", "gpt-*", A, A.upper(), f"{A[:9].upper()}*", "sales-a", "sales-*"]
)
def test_a_key_for_one_name_of_a_flow_may_use_all_of_them(pattern: str) -> None:
    mine = models(ProxyConfig(models=(SUPPORT,)), Caller("x", models=(pattern,)))
    assert [m.id for m in mine.listed()] == ["support"]
    for name in ("support", "gpt-4o", A, A.upper(), "sales-a"):
        assert mine.resolve(name).id == "support"


def test_a_key_for_a_name_from_before_scripts_were_read_opens_the_flow_still() -> None:
    flows = Listed(FlowProfile(B, "Größe", "grosse", "groe"))
    for name in ("groe", "grosse"):
        mine = Models(ProxyConfig(), {"default": flows}, Caller("x", models=(name,)))
        assert [m.id for m in mine.listed()] == ["grosse"]
    taken = ProxyConfig(models=(ModelConfig("groe", A),))
    with pytest.raises(ModelNotFound):
        Models(taken, {"default": flows}, Caller("x", models=("groe",))).resolve(B)


def test_of_two_models_of_a_flow_its_other_names_lead_to_one_that_the_caller_may_use() -> None:
    config = ProxyConfig(models=(SUPPORT, ModelConfig("second", A)))
    for caller, found in ((ANONYMOUS, "support"), (Caller("x", models=("second",)), "second")):
        mine = models(config, caller)
        assert {mine.resolve(name).id for name in (A, "sales-a")} == {found}
    with pytest.raises(ModelNotFound):
        models(config, Caller("x", models=("bot",))).resolve(A)


def test_a_slug_that_the_file_gives_to_another_flow_opens_nothing() -> None:
    config = ProxyConfig(models=(ModelConfig("bot", C),))
    mine = models(config, Caller("x", models=("bot",)))
    assert mine.resolve("bot").flow == C
    with pytest.raises(ModelNotFound):
        mine.resolve(B)


def test_a_slug_that_is_no_name_opens_nothing() -> None:
    caller = Caller("x", models=("bot",))
    for discovery in (DiscoveryConfig(enabled=False), DiscoveryConfig(types=("CHATFLOW",))):
        with pytest.raises(ModelNotFound):
            models(ProxyConfig(discovery=discovery), caller).resolve(B)


def test_a_flow_known_by_its_public_side_alone_goes_by_its_id() -> None:
    flows = Listed(FlowProfile(A, ""), FlowProfile(B, ""))
    bare = Models(ProxyConfig(models=(ModelConfig("m", A),)), {"default": flows}, ANONYMOUS)
    assert (bare.resolve(A).id, bare.resolve(A).name) == ("m", "m")
    assert (bare.resolve(B).id, bare.resolve(B).name) == (B, B)
    assert bare.resolve(B).names == {B, f"default/{B}"}


def test_a_caller_whose_own_key_flowise_refuses_is_told_so() -> None:
    refused = Listed()
    refused.error = FlowiseRefused("no")
    config = ProxyConfig(models=(SUPPORT,))
    theirs = Models(config, {"default": refused}, Caller("x", flowise_key="k"))
    for ask in (theirs.listed, lambda: theirs.resolve("bot"), lambda: theirs.known("support")):
        with pytest.raises(FlowiseRefused):
            ask()
    assert theirs.resolve(A).flow == A, "Flowise itself judges a run"
    assert [m.id for m in Models(config, {"default": refused}, ANONYMOUS).listed()] == ["support"]
    off = ProxyConfig(models=(SUPPORT,), discovery=DiscoveryConfig(enabled=False))
    passing = Caller("x", flowise_key="k")
    assert [m.id for m in Models(off, {"default": refused}, passing).listed()] == ["support"]


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


@pytest.mark.parametrize("error", [FlowiseUnavailable("gone"), FlowiseRefused("the key may not list")])
def test_a_list_that_could_never_be_had_is_no_empty_one(error: ProxyError) -> None:
    unlisted = Listed()
    unlisted.error = error
    for config, caller in (
        (ProxyConfig(), ANONYMOUS),
        (ProxyConfig(models=(SUPPORT,)), Caller("x", models=("sales-*",))),
    ):
        with pytest.raises(type(error)):
            Models(config, {"default": unlisted}, caller).listed()
    assert [
        m.id for m in Models(ProxyConfig(models=(SUPPORT,)), {"default": unlisted}, ANONYMOUS).listed()
    ] == ["support"]
    off = ProxyConfig(discovery=DiscoveryConfig(enabled=False))
    assert Models(off, {"default": unlisted}, ANONYMOUS).listed() == []
    assert Models(ProxyConfig(), {"default": unlisted}, ANONYMOUS).known(A).flow == A
    kept = Listed(FlowProfile(B, "Bot", "bot"))
    kept.error = error
    assert Models(ProxyConfig(), {"default": kept}, Caller("x", models=("sales-*",))).listed() == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("поддержка", "поддержка"),
        ("客户支持 ", "客户支持 "),
        ("a\nb\x1b[1m\u202e\ud800", "ab[1m"),
        ("я" * 99, "я" * 40),
    ],
)
def test_a_name_that_is_unknown_is_told_as_it_was_sent(name: str, shown: str) -> None:
    with pytest.raises(ModelNotFound, match=re.escape(f"`{shown}`")):
        models().resolve(name)


def test_a_name_is_not_unknown_while_no_listing_could_ever_be_had() -> None:
    unlisted = Listed()
    unlisted.error = FlowiseUnavailable("gone")
    with pytest.raises(FlowiseUnavailable):
        Models(ProxyConfig(), {"default": unlisted}, ANONYMOUS).resolve("bot")
    assert Models(ProxyConfig(), {"default": unlisted}, ANONYMOUS).resolve(A).flow == A
    unlisted.error = FlowiseRefused("the key may not list")
    with pytest.raises(ModelNotFound):
        Models(ProxyConfig(), {"default": unlisted}, ANONYMOUS).resolve("bot")


# Several Flowises


def several(*, caller: Caller = ANONYMOUS, config: ProxyConfig | None = None, **catalogs: Listed) -> Models:
    """The models over Flowises of these names, the first one the default."""
    return Models(config or ProxyConfig(), catalogs, caller)


def unread() -> Listed:
    """A Flowise that has never been reached."""
    catalog = Listed()
    catalog.error = FlowiseUnavailable("away")
    return catalog


ONE = Listed(FlowProfile(A, "Support", "support"), FlowProfile(B, "Bot", "bot"))
TWO = Listed(FlowProfile(C, "Support", "support"), FlowProfile(B, "Copy of bot", "bot-2"))


def test_an_id_is_bare_if_no_other_flowise_has_it_and_all_lead_to_their_own() -> None:
    both = several(default=ONE, hr=TWO)
    assert [model.id for model in both.listed()] == ["default/support", "bot", "hr/support", "bot-2"]
    for name, found in {
        "support": ("default", A),
        "hr/support": ("hr", C),
        "default/support": ("default", A),
        "bot-2": ("hr", B),
        B: ("default", B),
        f"hr/{B}": ("hr", B),
        C.upper(): ("hr", C),
        "dddddddd-0000-4000-8000-000000000000": ("default", "dddddddd-0000-4000-8000-000000000000"),
    }.items():
        model = both.resolve(name)
        assert (model.flowise, model.flow) == found, name
    for name in ("hr/bot", "it/support", "hr/", "/support", "hr/hr/support"):
        with pytest.raises(ModelNotFound):
            both.resolve(name)


def test_flows_of_the_same_id_have_names_of_their_own_where_ids_are_the_names() -> None:
    config = ProxyConfig(discovery=DiscoveryConfig(ids="uuid"))
    listed = [model.id for model in several(config=config, default=ONE, hr=TWO).listed()]
    assert listed == [A, f"default/{B}", C, f"hr/{B}"]


def test_a_key_of_one_flowise_has_its_bare_names_and_nothing_of_another() -> None:
    mine = several(caller=Caller("x", flowises=("hr",)), default=ONE, hr=TWO)
    assert [model.id for model in mine.listed()] == ["hr/support", "bot-2"]
    assert mine.resolve("support").flow == C
    assert mine.resolve(B).flowise == "hr"
    for name in ("bot", A, "default/support", f"default/{C}", "dddddddd-0000-4000-8000-000000000000"):
        with pytest.raises(ModelNotFound):
            mine.resolve(name)


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("support", {"default"}),
        ("hr/*", {"hr"}),
        ("hr/support", {"hr"}),
        (f"HR/{C}".lower(), {"hr"}),
        (C, {"hr"}),
        ("*/support", {"default", "hr"}),
    ],
)
def test_a_keys_pattern_means_what_its_name_leads_to(pattern: str, places: set[str]) -> None:
    mine = several(caller=Caller("x", models=(pattern,)), default=ONE, hr=TWO)
    assert {model.flowise for model in mine.listed()} == places


def test_a_name_goes_to_no_later_flowise_while_an_earlier_one_has_never_been_read() -> None:
    both = several(default=unread(), hr=TWO)
    for name in ("support", C):
        with pytest.raises(FlowiseUnavailable):
            both.resolve(name)
    assert both.resolve("hr/support").flow == C
    assert both.resolve(A).flowise == "default"
    assert [model.id for model in both.listed()] == ["hr/support", "hr/bot-2"]
    assert (
        several(caller=Caller("x", flowises=("hr",)), default=unread(), hr=TWO).resolve("support").flow == C
    )
    refused = Listed()
    refused.error = FlowiseRefused("no")
    assert several(default=refused, hr=TWO).resolve("support").flow == C, (
        "what may not be listed has no names"
    )


def test_one_that_is_down_hides_nothing_of_those_before_it() -> None:
    both = several(default=ONE, hr=unread())
    assert [model.id for model in both.listed()] == ["support", "bot"]
    assert both.resolve("support").flow == A
    with pytest.raises(FlowiseUnavailable):
        both.resolve("only-there")
    with pytest.raises(FlowiseUnavailable):
        several(default=unread(), hr=unread()).listed()


def test_a_configured_model_is_of_the_flowise_that_it_names_or_that_lists_its_flow() -> None:
    config = ProxyConfig(
        models=(
            ModelConfig("named", B, flowise="hr"),
            ModelConfig("first", B),
            ModelConfig("found", C),
            ModelConfig("unknown", "dddddddd-0000-4000-8000-000000000000"),
        )
    )
    both = several(config=config, default=ONE, hr=TWO)
    places = {model.id: model.flowise for model in both.listed()}
    assert places == {
        "named": "hr",
        "first": "default",
        "found": "hr",
        "unknown": "default",
        "default/support": "default",
    }
    assert both.resolve("bot-2").id == "named"
    assert both.resolve(B).id == "first"
    mine = several(caller=Caller("x", flowises=("hr",)), config=config, default=ONE, hr=TWO)
    assert [model.id for model in mine.listed()] == ["named", "found"]
    for name in ("first", "unknown"):
        with pytest.raises(ModelNotFound):
            mine.resolve(name)


def test_a_configured_model_goes_to_no_later_flowise_while_an_earlier_one_has_never_been_read() -> None:
    config = ProxyConfig(models=(ModelConfig("bot", B), ModelConfig("named", C, flowise="hr")))
    for name in ("bot", B):  # the same flow, as an import made it, may be the default one's
        with contextlib.suppress(FlowiseUnavailable):
            assert several(config=config, default=unread(), hr=TWO).resolve(name).flowise == "default"
    assert several(config=config, default=unread(), hr=TWO).resolve("named").flowise == "hr"
    mine = several(caller=Caller("x", flowises=("hr",)), config=config, default=unread(), hr=TWO)
    with pytest.raises(ModelNotFound):
        mine.resolve("bot")


def test_an_id_that_would_be_too_long_ends_with_the_flows_own() -> None:
    long = "s" * 120
    both = several(
        default=Listed(FlowProfile(A, "x", long)), another_flowise_of_ours=Listed(FlowProfile(C, "x", long))
    )
    listed = [model.id for model in both.listed()]
    assert listed == [f"default/{long}", f"another_flowise_of_ours/{C}"]
    assert [both.resolve(name).flow for name in listed] == [A, C]
