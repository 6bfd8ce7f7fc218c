"""What rows of a listing tell of flows: names, memory, inputs, starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowise_gateway.flow.model import FLOW_ID
from flowise_gateway.flowise.profiles import (
    FlowProfile,
    flow_nodes,
    flow_profiles,
    pack_profiles,
    public_profile,
    slug_of,
    unpack_profiles,
    with_capabilities,
)
from tests.support.flow_rows import enabled, flow_id, overridable, row

RECORDED = Path(__file__).parents[2] / "wire/flowise-3.1.4/rows-overridable.json"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Sales Team", "sales-team"),
        ("  Größe & Co. ", "grosse-co"),
        ("Straße", "strasse"),
        ("Поддержка клиентов", "podderzhka-klientov"),
        ("客户支持", "kehuzhichi"),
        ("カスタマー サポート", "kasutama-sapoto"),
        ("دعم العملاء", "dm-lml"),
        ("고객 지원", "gogaeg-jiwon"),
        ("हिन्दी सहायता", "hindi-shayta"),
        ("cafe\u0301", "cafe"),
        ("½ fun²", "1-2-fun2"),
        ("🤖 Bot™ — “A”", "bottm-a"),
        ("🤖", ""),
        ("Bob's bot", "bob-s-bot"),
        ("Café", "cafe"),
        ("a__b--c", "a-b-c"),
        ("販売", "fanmai"),
        ("x" * 200, "x" * 100),
    ],
)
def test_a_slug_is_the_name_in_plain_letters(name: str, slug: str) -> None:
    assert slug_of(name) == slug


def test_a_name_of_another_script_takes_no_name_that_a_flow_has_had() -> None:
    rows = [row(1, "Größe"), row(2, "Groe"), row(3, "Подд"), row(4, "Podd"), row(5, "Grosse"), row(6, "подд")]
    profiles = flow_profiles(rows)
    slugs = {profile.flow: profile.slug for profile in profiles}
    assert [slugs[flow_id(n)] for n in (2, 4, 5)] == ["groe-aaaaaaaa", "podd", "grosse"], "as before"
    assert [slugs[flow_id(n)] for n in (1, 3, 6)] == [
        "grosse-aaaaaaaa",
        "podd-aaaaaaaa",
        f"podd-{flow_id(6)}",
    ]
    before = {profile.first_slug: profile.flow for profile in profiles}
    assert (before["groe"], before["groe-aaaaaaaa"]) == (flow_id(1), flow_id(2))
    assert before["flow-aaaaaaaa"] == flow_id(3)


def test_the_oldest_flow_of_a_name_keeps_it() -> None:
    profiles = flow_profiles([row(2, "Bot"), row(1, "Bot"), row(3, "bot")])
    slugs = {profile.flow: profile.slug for profile in profiles}
    assert slugs[flow_id(1)] == "bot"
    assert slugs[flow_id(2)] == "bot-aaaaaaaa"
    assert slugs[flow_id(3)] == f"bot-{flow_id(3)}"


def test_no_flow_is_lost_and_none_has_anothers_id_as_its_name() -> None:
    rows = [row(1, "販売"), row(2, flow_id(9)), row(3, "flow aaaaaaaa"), row(4, "")]
    slugs = [profile.slug for profile in flow_profiles(rows)]
    assert len(set(slugs)) == 4
    assert not any(FLOW_ID.fullmatch(slug) for slug in slugs)


def test_rows_that_are_none_are_left_out() -> None:
    assert flow_profiles([{}, {"id": "x", "name": "y"}, {"id": flow_id(1), "name": 5}]) == []


BUFFER = {"id": "bufferMemory_0", "category": "Memory"}


def drawing(*nodes: dict[str, Any], source: str = "bufferMemory_0") -> str:
    """A flow's drawing with one edge."""
    return json.dumps(
        {"nodes": [{"data": node} for node in nodes], "edges": [{"source": source, "target": "x"}]}
    )


def start(forgets: Any, *nodes: dict[str, Any]) -> str:
    """An agentflow whose start may let all of it forget what was before."""
    return drawing({"name": "startAgentflow", "inputs": {"startEphemeralMemory": forgets}}, *nodes)


@pytest.mark.parametrize(
    ("flow_data", "has_memory"),
    [
        (drawing(BUFFER), True),
        (drawing(BUFFER, source="chatOpenAI_0"), False),
        (drawing({"category": "Chains"}), False),
        (drawing({"name": "openAIAssistant"}), True),
        (drawing({"inputs": {"llmEnableMemory": True}}), True),
        (drawing({"inputs": {"agentEnableMemory": "true"}}), True),
        (drawing({"inputs": {"conditionAgentEnableMemory": True}}), True),
        (drawing({"inputs": {"llmEnableMemory": False}}, {"inputs": None}, {}), False),
        (start(False, {"inputs": {"llmEnableMemory": True}}), True),
        (start(True, {"inputs": {"llmEnableMemory": True}}), False),
        (start("true", BUFFER), False),
        ('{"nodes": []}', False),
        ("{", None),
        ("[]", None),
        ('{"nodes": 1}', None),
        ('{"nodes": [{"x": 1}, 5, {"data": 1}]}', False),
        ('{"nodes": [{"x": 1}, {"data": {"inputs": {"llmEnableMemory": true}}}], "edges": 5}', True),
    ],
)
def test_memory_is_read_from_the_flows_nodes(flow_data: str, has_memory: bool | None) -> None:
    assert flow_profiles([row(1, "a", flow_data)])[0].has_memory is has_memory


def chain(nodes: dict[str, str], *edges: str) -> str:
    """A drawing of nodes by id and name, and of edges such as `a b`."""
    ends = [edge.split() for edge in edges]
    return json.dumps(
        {
            "nodes": [{"data": {"id": node, "name": name}} for node, name in nodes.items()],
            "edges": [{"source": source, "target": target} for source, target in ends],
        }
    )


TWO = {"s": "startAgentflow", "a": "llmAgentflow", "r": "directReplyAgentflow", "b": "agentAgentflow"}


@pytest.mark.parametrize(
    ("flow_data", "chains"),
    [
        (chain(TWO, "s a", "a b"), True),
        (chain(TWO, "s a", "a r", "r b"), True),
        (chain({**TWO, "a": "conditionAgentAgentflow"}, "s a", "a b"), True),
        (chain(TWO, "s a", "s b"), False),  # two branches
        (chain(TWO, "s a", "a r"), False),
        (chain({"a": "llmAgentflow", "r": "loopAgentflow"}, "a r", "r a"), True),
        (chain({"a": "llmAgentflow", "r": "x", "q": "y"}, "a r", "r q", "q r"), False),
        (chain({"a": "chatOpenAI", "b": "toolAgent"}, "a b"), False),
        ("{", False),
        ('{"nodes": [{"data": {"name": "llmAgentflow"}}], "edges": [5, {}]}', False),
        ('{"nodes": [], "edges": 5}', False),
    ],
)
def test_models_one_after_the_other_are_seen_in_the_drawing(flow_data: str, chains: bool) -> None:
    assert flow_profiles([row(1, "a", flow_data)])[0].chains_models is chains
    assert public_profile("f", {"flowData": flow_data}).chains_models is chains


def test_an_assistant_of_flowise_always_remembers() -> None:
    assert flow_profiles([row(1, "a", "{", type="ASSISTANT")])[0].has_memory is True


def test_a_listing_without_drawings_tells_nothing_of_nodes() -> None:
    assert flow_nodes(None) is None
    bare = flow_profiles([{"id": flow_id(1), "name": "a", "type": None, "createdDate": "?"}])[0]
    assert (bare.type, bare.has_memory, bare.inputs) == ("CHATFLOW", None, None)


NODES = [
    {"name": "toolAgent", "label": "Tool Agent"},
    {"name": "chatOpenAI", "label": "OpenAI"},
    {"name": "chatOther", "label": "Other"},
]


@pytest.mark.parametrize(
    ("api_config", "inputs"),
    [
        (None, {}),
        ("", {}),
        ("{", {}),
        ("[]", {}),
        (overridable({"OpenAI": [enabled("temperature")]}, status=False), {}),
        ('{"overrideConfig": {"status": true}}', {}),
        (overridable({"Tool Agent": [enabled("systemMessage")]}), {"systemMessage": "toolAgent"}),
        (overridable({"Other": [enabled("t")], "OpenAI": [enabled("t")]}), {"t": "chatOpenAI"}),
        (overridable({"OpenAI": [enabled("temperature", is_enabled=False)]}), {}),
        (overridable({"Renamed": [enabled("temperature")]}), {}),
        (overridable({"OpenAI": 5, "Other": [5, {"name": 5, "enabled": True}]}), {}),
        (overridable([]), {}),
        (overridable({}, enabled("who"), enabled("no", is_enabled=False)), {"vars.who": "variable"}),
    ],
)
def test_the_inputs_that_callers_may_set_are_told(api_config: Any, inputs: dict[str, str]) -> None:
    assert flow_profiles([row(1, "a", NODES, apiConfig=api_config)])[0].inputs == inputs


def test_inputs_are_not_told_without_the_drawing_that_names_their_nodes() -> None:
    enabled_one = overridable({"OpenAI": [enabled("temperature")]})
    assert flow_profiles([row(1, "a", "{", apiConfig=enabled_one)])[0].inputs is None
    assert flow_profiles([row(1, "a", NODES)])[0].inputs is None
    assert flow_profiles([row(1, "a", "{", apiConfig=None)])[0].inputs == {}


def test_rows_of_a_real_flowise_are_read() -> None:
    read = {p.name: (p.has_memory, p.inputs) for p in flow_profiles(json.loads(RECORDED.read_text()))}
    assert read == {
        "conv_override": (
            True,
            {
                "modelName": "chatOpenAI",
                "temperature": "chatOpenAI",
                "sessionId": "bufferMemory",
                "systemMessagePrompt": "conversationChain",
                "vars.who": "variable",
            },
        ),
        "toolagent_override": (True, {"systemMessage": "toolAgent"}),
        "af_override": (
            True,
            {
                "startState": "startAgentflow",
                "llmModel": "llmAgentflow",
                "llmMessages": "llmAgentflow",
                "vars.who": "variable",
            },
        ),
        "af_llm_nomem": (False, {}),
        "llmchain": (False, {}),
    }


def test_a_name_that_utf_8_cannot_spell_is_a_name() -> None:
    profile = flow_profiles([row(1, "a\ud800b", type="x\udfff")])[0]
    assert (profile.name, profile.slug, profile.type) == ("a?b", "a-b", "x?")


@pytest.mark.parametrize(
    ("categories", "kind"),
    [
        (["Agent Flows"], "AGENTFLOW"),
        (["Chat Models", "Multi Agents"], "MULTIAGENT"),
        (["Sequential Agents"], "MULTIAGENT"),
        (["Chains", "Memory"], "CHATFLOW"),
        (None, ""),
    ],
)
def test_the_type_of_a_flow_is_guessed_from_what_is_public(categories: list[str] | None, kind: str) -> None:
    drawing = {"nodes": [{"data": {"category": category}} for category in categories or []]}
    profile = public_profile(flow_id(1), {"flowData": json.dumps(drawing)} if categories else {})
    assert (profile.type, profile.has_memory, profile.name) == (kind, False if categories else None, "")


def test_a_recorded_public_answer_is_read() -> None:
    config = {"flowData": json.loads(RECORDED.read_text())[0]["flowData"], "uploads": {}}
    profile = public_profile(flow_id(1), config)
    assert (profile.type, profile.has_memory, profile.is_hidden) == ("CHATFLOW", True, False)


def test_profiles_that_are_kept_come_back() -> None:
    profiles = flow_profiles(json.loads(RECORDED.read_text()))
    content = pack_profiles(profiles, {"old": "x"})
    assert unpack_profiles(content) == (sorted(profiles, key=lambda profile: profile.flow), {"old": "x"})
    assert pack_profiles(reversed(profiles), {"old": "x"}) == content
    assert unpack_profiles(b"") == ([], {})
    assert unpack_profiles(b'{"fields": ["flow"], "flows": [], "former": {}}') == ([], {})


def test_abilities_are_those_that_the_probes_tell() -> None:
    bare = FlowProfile(flow_id(1), "a")
    untold = with_capabilities(bare, None, {})
    assert untold == bare
    told = {"isImageUploadAllowed": True, "isSpeechToTextEnabled": True, "fileUploadSizeAndTypes": [{}]}
    yes = with_capabilities(bare, True, told)
    assert (yes.streams, yes.takes_images, yes.takes_files, yes.takes_audio) == (True, True, True, True)
    assert with_capabilities(yes, None, {}) == yes
    no = with_capabilities(yes, False, dict.fromkeys(told))
    assert (no.streams, no.takes_images, no.takes_files, no.takes_audio) == (False, False, False, False)


@pytest.mark.parametrize("start", ["webhookTrigger", "scheduleInput"])
def test_flows_that_no_chat_can_start_are_hidden(start: str) -> None:
    node = {"name": "startAgentflow", "inputs": {"startInputType": start}}
    chat = {"name": "startAgentflow", "inputs": {"startInputType": "chatInput"}}
    assert [p.name for p in flow_profiles([row(1, "hidden", [node]), row(2, "seen", [chat])])] == ["seen"]


def test_a_flow_on_two_pages_of_a_listing_is_one() -> None:
    assert [profile.slug for profile in flow_profiles([row(1, "Bot"), row(1, "Bot")])] == ["bot"]


def test_a_name_is_found_even_if_all_made_up_ones_are_taken() -> None:
    rows = [row(1, "bot"), row(2, "bot aaaaaaaa"), row(3, f"bot {flow_id(4)}"), row(4, "bot")]
    slugs = {profile.flow: profile.slug for profile in flow_profiles(rows)}
    assert len(set(slugs.values())) == 4
    assert slugs[flow_id(4)] == flow_id(4)
    assert all(
        len(slug) <= 128 for slug in (p.slug for p in flow_profiles([row(n, "x" * 200) for n in range(4)]))
    )
