"""What `proxy.yaml` may hold, and the one line for each fault."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowise_gateway.config.config_file import load_config
from flowise_gateway.config.flowises import upstreams, variables_of
from flowise_gateway.config.schema import (
    Allowance,
    DiscoveryConfig,
    KeyConfig,
    ModelConfig,
    ProxyConfig,
    TasksConfig,
)
from flowise_gateway.config.settings import Settings
from flowise_gateway.config.yaml_document import ConfigError

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
OTHER_SHA = "0" * 63 + "1"
SECRET = "sk-flowise-hunter2"
ID_RULE = "a model id: 1 to 128 of A-Z a-z 0-9 . _ : / @ - (quote a number)"
SHA_RULE = "the SHA-256 of a key, 64 hexadecimal digits (flowise-gateway keys new)"
NAME_RULE = "1 to 64 letters, digits, spaces or . _ @ : / - (quote a number)"
ALIAS_RULE = "*name must repeat an &name before it; a text that begins with * needs quotes"
PLAIN_RULE = "literal keys are not allowed here; set sha256 to the key's SHA-256 (flowise-gateway keys new)"
KEY_FIELDS = (
    "name, sha256, models, requests_per_minute, max_in_flight, single_user, overrides, expires, admin, "
    "flowises, requests_per_day, tokens_per_day, per_user, max_websockets, stored_bytes_per_day"
)
KNOWN_KEY_FIELDS = f"known fields are {KEY_FIELDS}"
MODEL_FIELDS = (
    "id, flow, name, description, aliases, history, system, steps, sources, usage, tools, request_timeout, "
    "fallback, flowise, requests_per_minute, max_in_flight, requests_per_day, tokens_per_day"
)
WHOLE = f"""
models:
  - id: support
    flow: {FLOW.upper()}
    name: Support assistant
    description: "Answers\\nquestions"
    aliases: [gpt-4o, team/gpt@1:x]
    history: session
    system: drop
    steps: off
    sources: footer
    usage: always
    tools: prompt
    request_timeout: 120
    fallback: support-small
  - {{id: support-small, flow: {FLOW}, request_timeout: .5}}
keys:
  - name: Librechat Zürich
    sha256: {SHA.upper()}
    models: [support, "sales-*", "*"]
    requests_per_minute: 120
    max_in_flight: 20
    single_user: true
    overrides: true
  - {{name: other, sha256: {OTHER_SHA}}}
discovery: {{enabled: false, types: [CHATFLOW, ASSISTANT], refresh_seconds: 2.5, ids: uuid}}
tasks: {{model: support-small}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file goes."""
    return tmp_path / "proxy.yaml"


def error_of(file: Path, content: str | bytes) -> str:
    """The fault of a file of this content."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What it may hold


def test_every_field_is_read(file: Path) -> None:
    file.write_text(WHOLE)
    assert load_config(file) == ProxyConfig(
        models=(
            ModelConfig(
                *("support", FLOW, "Support assistant", "Answers\nquestions"),
                aliases=("gpt-4o", "team/gpt@1:x"),
                request_timeout=120.0,
                fallback="support-small",
                history="session",
                system="drop",
                steps="off",
                sources="footer",
                usage="always",
                tools="prompt",
            ),
            ModelConfig("support-small", FLOW, request_timeout=0.5),
        ),
        keys=(
            KeyConfig("Librechat Zürich", (SHA,), ("support", "sales-*", "*"), 120, 20, True, True),
            KeyConfig("other", (OTHER_SHA,)),
        ),
        discovery=DiscoveryConfig(False, ("CHATFLOW", "ASSISTANT"), 2.5, "uuid"),
        tasks=TasksConfig("support-small"),
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# nothing yet\n",
        "---\n",
        "null",
        "{}",
        "models:\nkeys:\ndiscovery:\ntasks:\n",
        "\ufeffmodels: []",
    ],
)
def test_a_file_that_says_nothing_means_the_defaults(file: Path, content: str) -> None:
    file.write_text(content, "utf-8")
    config = load_config(file)
    assert config == ProxyConfig()
    assert config.discovery.types == ("CHATFLOW", "AGENTFLOW", "MULTIAGENT", "ASSISTANT")
    assert (config.discovery.enabled, config.discovery.refresh_seconds, config.discovery.ids) == (
        True,
        60,
        "name",
    )
    assert config.tasks.model == "builtin"


def test_lines_may_end_as_on_windows(file: Path) -> None:
    file.write_bytes(WHOLE.replace("\n", "\r\n").encode())
    assert len(load_config(file).models) == 2
    assert error_of(file, b"tasks:\r\n  model: flow\r\n  x: 1\r\n").startswith("proxy.yaml:3: tasks.x: ")


def test_a_digest_that_looks_like_a_number_is_still_a_digest(file: Path) -> None:
    digits = "1" * 64
    file.write_text(f"keys: [{{name: a, sha256: {digits}}}]")
    assert load_config(file).keys[0].sha256 == (digits,)


def test_aliases_of_yaml_may_repeat_values(file: Path) -> None:
    file.write_text(
        f"keys:\n- {{name: a, sha256: {SHA}, models: &m [x, &y 'z-*']}}\n"
        f"- {{name: b, sha256: {OTHER_SHA}, models: *m}}\n- {{name: c, sha256: {'2' * 64}, models: [*y]}}\n"
    )
    assert [key.models for key in load_config(file).keys] == [("x", "z-*"), ("x", "z-*"), ("z-*",)]


def test_a_fallback_and_a_task_model_may_be_flows_that_are_discovered_later(file: Path) -> None:
    file.write_text(f"models: [{{id: a, flow: {FLOW}, fallback: later}}]\ntasks: {{model: much/later}}")
    config = load_config(file)
    assert (config.models[0].fallback, config.tasks.model) == ("later", "much/later")


def test_fallbacks_may_form_a_long_chain_and_meet(file: Path) -> None:
    models = [
        {"id": f"m{n}", "flow": f"{n:08x}-0000-4000-8000-000000000000", "fallback": f"m{n + 1}"}
        for n in range(2000)
    ]
    models.append({"id": "side", "flow": FLOW, "fallback": "m1000"})
    file.write_text(f"models: {models}")
    assert len(load_config(file).models) == 2001


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.1", 0.1), ("86400", 86400), ("1.50", 1.5), ("86400.0", 86400)]
)
def test_numbers_may_reach_their_bounds(file: Path, text: str, seconds: float) -> None:
    file.write_text(f"models: [{{id: a, flow: {FLOW}, request_timeout: {text}}}]")
    assert load_config(file).models[0].request_timeout == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-31", 1_801_353_600),
        ("'2027-01-31'", 1_801_353_600),
        ("2027-01-31T18:00:00Z", 1_801_418_400),
        ("2027-01-31 18:00:00", 1_801_418_400),
        ("2027-01-31T19:00+01:00", 1_801_418_400),
    ],
)
def test_a_key_expires_at_a_moment_in_utc(file: Path, text: str, seconds: float) -> None:
    file.write_text(key(f"expires: {text}"))
    assert load_config(file).keys[0].expires == seconds


def test_limits_of_keys_their_users_and_models(file: Path) -> None:
    file.write_text(
        f"models: [{{id: a, flow: {FLOW}, max_in_flight: 3, tokens_per_day: 4000}}]\n"
        f"keys:\n- name: a\n  sha256: {SHA}\n  requests_per_day: 9\n"
        "  per_user: {requests_per_minute: 2, tokens_per_day: 9999999999}\n"
    )
    config = load_config(file)
    assert config.models[0].allowance == Allowance(max_in_flight=3, tokens_per_day=4000)
    assert config.keys[0].allowance == Allowance(requests_per_day=9)
    assert config.keys[0].per_user == Allowance(requests_per_minute=2, tokens_per_day=9_999_999_999)


def test_a_key_may_have_several_digests(file: Path) -> None:
    file.write_text(f"keys:\n- name: a\n  sha256: [{SHA}, {OTHER_SHA.upper()}]\n  admin: true\n")
    (found,) = load_config(file).keys
    assert (found.sha256, found.admin, found.expires) == ((SHA, OTHER_SHA), True, math.inf)


# The one line for each fault


def model(fields: str) -> str:
    """A file with one model, its further fields on line 4."""
    return f"models:\n- id: a\n  flow: {FLOW}\n  {fields}\n"


def key(fields: str) -> str:
    """A file with one key, its further fields on line 4."""
    return f"keys:\n- name: a\n  sha256: {SHA}\n  {fields}\n"


TEXT = "a string of at most {} characters (quote a number)"
WHOLE_FILE = [
    ("[]", "1: must be a mapping with models, keys, discovery, tasks, pipelines, flowises, flowise_mode"),
    (
        "\n\njust text",
        "3: must be a mapping with models, keys, discovery, tasks, pipelines, flowises, flowise_mode",
    ),
    (
        "!odd {}",
        "1: must be a mapping with models, keys, discovery, tasks, pipelines, flowises, flowise_mode",
    ),
    ("tasks: {}\nmodles: []", "2: modles: is not a known field; did you mean models?"),
    (
        "servers: []",
        "1: servers: is not a known field; known fields are models, keys, discovery, tasks, pipelines, flowises, flowise_mode",
    ),
    (
        "Sk9x: []",
        "1: has a field that is not known; known fields are models, keys, discovery, tasks, pipelines, flowises, flowise_mode",
    ),
    (
        f"{'a' * 33}: []",
        "1: has a field that is not known; known fields are models, keys, discovery, tasks, pipelines, flowises, flowise_mode",
    ),
    ("[a]: []", "1: must have plain names as fields"),
    ("tasks: {}\nkeys: []\ntasks: {}", "3: tasks: is given twice (first on line 1)"),
    ("models: {}", "1: models: must be a list of models"),
    ("keys: yes", "1: keys: must be a list of keys"),
    ("discovery: []", "1: discovery: must be a mapping with enabled, types, refresh_seconds, ids"),
    ("tasks: flow", "1: tasks: must be a mapping with model"),
    ("tasks:\n  model: 5", "2: tasks.model: must be builtin, flow or a model id"),
    ("tasks:\n  model: a b", "2: tasks.model: must be builtin, flow or a model id"),
]
MODELS = [
    (
        "models:\n- a",
        f"2: models[0]: must be a mapping with {MODEL_FIELDS}",
    ),
    ("models:\n- id: a", "2: models[0].flow: is missing; it must be a flow id (a UUID)"),
    (f"models:\n-\n  flow: {FLOW}", f"3: models[0].id: is missing; it must be {ID_RULE}"),
    ("models:\n- id: a\n  flow: support", "3: models[0].flow: must be a flow id (a UUID)"),
    ("models:\n- id: a\n  flow:\n", "3: models[0].flow: must be a flow id (a UUID)"),
    (f"models:\n- id: a\n  flow: [{FLOW}]", "3: models[0].flow: must be a flow id (a UUID)"),
    (f"models:\n- id: a\n  flow: {FLOW}/x", "3: models[0].flow: must be a flow id (a UUID)"),
    (model("id: b"), "4: models[0].id: is given twice (first on line 2)"),
    (model("flwo: x"), "4: models[0].flwo: is not a known field; did you mean flow?"),
    (model("colour: red"), f"4: models[0].colour: is not a known field; known fields are {MODEL_FIELDS}"),
    (model("history: all"), "4: models[0].history: must be one of auto, session, messages, question"),
    (model("tools: yes"), "4: models[0].tools: must be one of report, prompt, reject"),
    (model("name: 5"), f"4: models[0].name: must be {TEXT.format(256)}"),
    (model(f"name: {'n' * 257}"), f"4: models[0].name: must be {TEXT.format(256)}"),
    (model(r'name: "\x07"'), f"4: models[0].name: must be {TEXT.format(256)}"),
    (model("description: [x]"), f"4: models[0].description: must be {TEXT.format(4096)}"),
    (model("aliases: gpt-4o"), "4: models[0].aliases: must be a list of model ids"),
    (model("aliases: !odd [x]"), "4: models[0].aliases: must be a list of model ids"),
    (model("aliases:\n  - x\n  - y z"), f"6: models[0].aliases[1]: must be {ID_RULE}"),
    (model("fallback: null"), f"4: models[0].fallback: must be {ID_RULE}"),
    (model("fallback: a"), "4: models[0].fallback: must not refer back to the model itself"),
    (model("aliases: [b]\n  fallback: b"), "5: models[0].fallback: must not refer back to the model itself"),
    (model(f"fallback: {FLOW}"), "4: models[0].fallback: must not refer back to the model itself"),
    *(
        (model(f"request_timeout: {bad}"), "4: models[0].request_timeout: must be a number from 0.1 to 86400")
        for bad in (
            "0",
            "86401",
            "-1",
            ".inf",
            ".nan",
            "'5'",
            "060",
            "1:30",
            "0x10",
            "",
            "5s",
            "!!float .",
            "[1]",
        )
    ),
    *(
        (f"models: [{{id: {bad}, flow: {FLOW}}}]", f"1: models[0].id: must be {ID_RULE}")
        for bad in ("''", "é", "a b", "7", "yes", "a" * 129, '"a\\n"', "'../..?'", "null")
    ),
]
TWO = f"models:\n- id: a\n  flow: {FLOW}\n  aliases: [c, d]\n- flow: {FLOW}\n"
NAMES = [
    (f"{TWO}  id: a", "6: models[1].id: must differ from models[0].id (line 2)"),
    (f"{TWO}  id: d", "4: models[0].aliases[1]: must differ from models[1].id (line 6)"),
    (f"{TWO}  aliases: [e, a]\n  id: b", "6: models[1].aliases[1]: must differ from models[0].id (line 2)"),
    (
        f"{TWO}  aliases: [c]\n  id: b",
        "6: models[1].aliases[0]: must differ from models[0].aliases[0] (line 4)",
    ),
    (f"{TWO}  aliases: [b]\n  id: b", "6: models[1].aliases[0]: must differ from models[1].id (line 7)"),
    (
        f"{TWO}  aliases: [e, e]\n  id: b",
        "6: models[1].aliases[1]: must differ from models[1].aliases[0] (line 6)",
    ),
    (
        f"models:\n- {{id: a, flow: {FLOW}, fallback: b}}\n- {{id: b, flow: {FLOW}, fallback: c}}\n"
        f"- {{id: c, flow: {FLOW}, aliases: [x], fallback: d}}\n- {{id: d, flow: {FLOW}, fallback: x}}\n",
        "4: models[2].fallback: must not refer back to the model itself",
    ),
]
KEYS = [
    (
        f"keys:\n- {SECRET}",
        f"2: keys[0]: must be a mapping with {KEY_FIELDS}",
    ),
    (f"keys:\n- {SECRET}: x", f"2: keys[0]: has a field that is not known; {KNOWN_KEY_FIELDS}"),
    ("keys:\n- name: a\n  hunter: x", f"3: keys[0]: has a field that is not known; {KNOWN_KEY_FIELDS}"),
    (key("model: [x]"), "4: keys[0].model: is not a known field; did you mean models?"),
    *(
        (f"keys:\n- name: a\n  {name}: {SECRET}", f"3: keys[0].{name}: {PLAIN_RULE}")
        for name in ("key", "secret", "token", "api_key", "password")
    ),
    (f"keys:\n- name: a\n  sha256: {SECRET}", f"3: keys[0].sha256: must be {SHA_RULE}"),
    (f"keys:\n- name: a\n  sha256: {SHA}0", f"3: keys[0].sha256: must be {SHA_RULE}"),
    (f"keys:\n- name: a\n  sha256: {SHA[1:]}g", f"3: keys[0].sha256: must be {SHA_RULE}"),
    ("keys:\n- name: a", f"2: keys[0].sha256: is missing; it must be {SHA_RULE}"),
    (f"keys:\n- sha256: {SHA}", f"2: keys[0].name: is missing; it must be {NAME_RULE}"),
    (f"keys:\n- sha256: {SHA}\n  name: 12", f"3: keys[0].name: must be {NAME_RULE}"),
    (f'keys:\n- sha256: {SHA}\n  name: "a\\nb"', f"3: keys[0].name: must be {NAME_RULE}"),
    (key("models:"), "4: keys[0].models: must be a list of model ids and patterns"),
    (key('models: "*"'), "4: keys[0].models: must be a list of model ids and patterns"),
    (
        key("models: [a, '[!a]']"),
        "4: keys[0].models[1]: must be a model id, or a pattern with * and ?",
    ),
    (key("models: [*]"), f"4: must be valid YAML: {ALIAS_RULE}"),
    (key("models: [*-mini]"), f"4: must be valid YAML: {ALIAS_RULE}"),
    *(
        (
            key(f"requests_per_minute: {bad}"),
            "4: keys[0].requests_per_minute: must be a whole number from 1 to 1000000",
        )
        for bad in ("0", "1000001", "-1", "1.0", "'5'", "true", "null", "1_000", "010", "9" * 5000)
    ),
    (key("max_in_flight: 100001"), "4: keys[0].max_in_flight: must be a whole number from 1 to 100000"),
    (
        key(f"max_in_flight: 1\n- name: a\n  sha256: {OTHER_SHA}"),
        "5: keys[1].name: must differ from keys[0].name (line 2)",
    ),
    (
        key(f"max_in_flight: 1\n- name: b\n  sha256: {SHA.upper()}"),
        "6: keys[1].sha256: must differ from keys[0].sha256 (line 3)",
    ),
    (
        f"keys:\n- name: a\n  sha256: [{OTHER_SHA},\n    {OTHER_SHA}]",
        "4: keys[0].sha256[1]: must differ from keys[0].sha256[0] (line 3)",
    ),
    ("keys:\n- name: a\n  sha256: []", f"3: keys[0].sha256: must be {SHA_RULE}"),
    (f"keys:\n- name: a\n  sha256: [{SHA}, x]", f"3: keys[0].sha256[1]: must be {SHA_RULE}"),
    (
        key("per_user: {requests: 1}"),
        "4: keys[0].per_user.requests: is not a known field; did you mean requests_per_day?",
    ),
    (key("tokens_per_day: 0"), "4: keys[0].tokens_per_day: must be a whole number from 1 to 9999999999"),
    *(
        (
            key(f"expires: {bad}"),
            "4: keys[0].expires: must be a day such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z",
        )
        for bad in (
            "soon",
            "2027",
            "2027-02-30",
            "1999-01-01",
            "[2027-01-01]",
            "2027-01-01T25:00:00Z",
            "true",
        )
    ),
]
FLOWISE_FIELDS = (
    "name, base_url, base_urls, sticky, api_key, connect_timeout, request_timeout, stream_idle_timeout, run_timeout, "
    "max_attempts, mode"
)
NAME_OF_FLOWISE = "1 to 24 of A-Z a-z 0-9 . _ - (quote a number)"
ADDRESS = "an address such as https://flows.example.com/api/v1, without user name, query and fragment"
KEY_PLACE = "must be env:NAME or file:PATH; literal keys are not allowed in this file"


def flowise(fields: str) -> str:
    """A file with one Flowise, its further fields on line 4."""
    return f"flowises:\n- name: hr\n  base_url: https://hr\n  {fields}\n"


FLOWISES = [
    ("flowises: {}", "1: flowises: must be a list of Flowises"),
    ("flowises:\n- hr", f"2: flowises[0]: must be a mapping with {FLOWISE_FIELDS}"),
    ("flowises:\n- base_url: https://x", f"2: flowises[0].name: is missing; it must be {NAME_OF_FLOWISE}"),
    *(
        (
            f"flowises:\n- name: hr\n{more}",
            "2: flowises[0].name: must come with either base_url or base_urls, a list of at least one",
        )
        for more in ("", "  base_urls: []", "  base_url: https://a\n  base_urls: ['https://b']")
    ),
    (
        "flowises:\n- name: hr\n  base_urls:\n  - https://a\n  - https://a/api/v1",
        "5: flowises[0].base_urls[1]: must differ from flowises[0].base_urls[0] (line 4)",
    ),
    (flowise("sticky: yes"), "4: flowises[0].sticky: must be one of session, none"),
    (
        f"flowises:\n- {SECRET}: x",
        f"2: flowises[0]: has a field that is not known; known fields are {FLOWISE_FIELDS}",
    ),
    *(
        (f"flowises:\n- name: hr\n  base_url: {bad}", f"3: flowises[0].base_url: must be {ADDRESS}")
        for bad in (
            "hr",
            f"https://u:{SECRET}@hr",
            f"https://hr?key={SECRET}",
            "'https://hr https://it'",
            "[]",
        )
    ),
    *(
        (
            flowise(f"name: {bad}").replace("- name: hr\n ", "-"),
            f"3: flowises[0].name: must be {NAME_OF_FLOWISE}",
        )
        for bad in ("h/r", "'a b'", "é", "-x", "n" * 25, "5")
    ),
    *(
        (flowise(f"api_key: {bad}"), f"4: flowises[0].api_key: {KEY_PLACE}")
        for bad in (SECRET, "'env:'", "5")
    ),
    (
        flowise("api_key: env:NOT_SET"),
        "4: flowises[0].api_key: names an environment variable that is not set",
    ),
    (
        flowise("api_key: file:/not/there"),
        "4: flowises[0].api_key: names a file that cannot be read, is empty or is too long",
    ),
    *(
        (flowise(f"{name}: {SECRET}"), f"4: flowises[0].{name}: is called api_key: env:NAME or file:PATH")
        for name in ("key", "secret", "token", "password")
    ),
    (flowise("request_timeout: 0"), "4: flowises[0].request_timeout: must be a number from 0.1 to 86400"),
    (flowise("mode: main"), "4: flowises[0].mode: must be one of auto, queue"),
    (
        flowise("mode: auto\n- {name: hr, base_url: 'https://x'}"),
        "5: flowises[1].name: must differ from flowises[0].name (line 2)",
    ),
    (
        "flowises:\n- {name: default, base_url: 'https://x'}",
        "2: flowises[0].name: must not be default, the name of the one of FLOWISE_BASE_URL",
    ),
    (model("flowise: hr"), "4: models[0].flowise: must be default or the name of an entry of flowises"),
    (
        key("flowises: [default, hr]"),
        "4: keys[0].flowises[1]: must be default or the name of an entry of flowises",
    ),
    (key("flowises: hr"), "4: keys[0].flowises: must be a list of names of Flowises"),
]
DISCOVERY = [
    *(
        (f"discovery:\n  enabled: {bad}", "2: discovery.enabled: must be true or false")
        for bad in ("yes", "on", "1", "'true'", "null", "[true]")
    ),
    (
        "discovery:\n  types: CHATFLOW",
        "2: discovery.types: must be a list of CHATFLOW, AGENTFLOW, MULTIAGENT, ASSISTANT",
    ),
    (
        "discovery:\n  types:\n  - chatflow",
        "3: discovery.types[0]: must be one of CHATFLOW, AGENTFLOW, MULTIAGENT, ASSISTANT",
    ),
    ("discovery:\n  ids: slug", "2: discovery.ids: must be one of name, uuid"),
    ("discovery:\n  refresh_seconds: 0.9", "2: discovery.refresh_seconds: must be a number from 1 to 86400"),
]
_PIPELINE = "pipelines:\n- {id: a, source: a.yaml}\n- {id: "
PIPELINES = [
    (
        "flowises:\n- {name: pipelines, base_url: 'http://a'}",
        "2: flowises[0].name: must not be pipelines, the name of the pipeline host",
    ),
    (
        "pipelines:\n- {id: a}",
        "2: pipelines[0].source: is missing; it must be a YAML file next to proxy.yaml, or "
        "module:function that returns a pipeline",
    ),
    *(
        (
            f"{_PIPELINE}{bad}, source: b.yml}}",
            "3: pipelines[1].id: must be 1 to 64 of a-z 0-9 - (quote a number)",
        )
        for bad in ("A", "a/b", "-a", "1")
    ),
    *(
        (
            f"{_PIPELINE}b, source: '{bad}'}}",
            "3: pipelines[1].source: must be a YAML file next to proxy.yaml, or module:function that returns a pipeline",
        )
        for bad in ("a.json", "module", "module:", "a b:c", "a:b:c", "")
    ),
    (f"{_PIPELINE}a, source: b.yml}}", "3: pipelines[1].id: must differ from pipelines[0].id (line 2)"),
    (
        f"{_PIPELINE}b, source: 'm:f', question: [query]}}",
        "3: pipelines[1].question[0]: must be an input or output: component.socket",
    ),
]
YAML = [
    (
        f"tasks: {{}}\nkeys: '{SECRET}",
        "2: must be valid YAML: while scanning a quoted scalar, found unexpected end of stream",
    ),
    ("models:\n\t- id: a", "2: must be valid YAML: a line must be indented with spaces, not with tabs"),
    (
        "tasks: {}\n---\ntasks: {}",
        "2: must be valid YAML: expected a single document in the stream, but found another document",
    ),
    (f"tasks: *{SECRET}", f"1: must be valid YAML: {ALIAS_RULE}"),
    ("models: &a [*a]", f"1: must be valid YAML: {ALIAS_RULE}"),
    ("[" * 100_000, "1: must not nest deeper than 16 levels"),
    ("ééé:\n- \x01\n\n\n", "2: must not hold control characters"),
    ("models:\n- [" + "a," * 200_001 + "]", "2: must hold at most 200000 values, aliases included"),
    (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{c}: &{c} [{','.join([f'*{of}'] * 10)}]\n" for of, c in itertools.pairwise("abcdefghij")),
        "6: must hold at most 200000 values, aliases included",
    ),
]


@pytest.mark.parametrize(
    ("content", "fault"), [*WHOLE_FILE, *MODELS, *NAMES, *KEYS, *FLOWISES, *DISCOVERY, *PIPELINES, *YAML]
)
def test_a_fault_is_one_line_with_its_place_and_what_is_allowed(file: Path, content: str, fault: str) -> None:
    found = error_of(file, content)
    assert found == f"proxy.yaml:{fault}"
    assert SECRET not in found


def test_flowises_have_their_own_settings_and_else_those_of_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HR_KEY", " of-hr ")
    (tmp_path / "it.key").write_text("of-it\n")
    file.write_text(
        flowise("api_key: env:HR_KEY\n  request_timeout: 7\n  mode: queue")
        + f"- {{name: it, base_url: 'https://it/x/prediction/y', api_key: 'file:{tmp_path}/it.key'}}\n"
        + f"keys: [{{name: k, sha256: '{SHA}', flowises: [hr, default]}}]\n"
        + f"models: [{{id: m, flow: {FLOW}, flowise: it}}]\n"
    )
    config = load_config(file)
    assert (config.keys[0].flowises, config.models[0].flowise) == (("hr", "default"), "it")
    assert "of-hr" not in repr(config)
    settings = Settings(flowise_base_url="https://first/api/v1", flowise_api_key="k", flowise_run_timeout=9)
    first, hr, it = upstreams(settings, config.flowises)
    assert (first.name, first.settings) == ("default", settings)
    assert (hr.name, hr.is_queued, hr.settings.flowise_request_timeout) == ("hr", True, 7)
    assert (hr.settings.flowise_base_url, hr.settings.flowise_api_key) == ("https://hr/api/v1", "of-hr")
    assert (it.settings.flowise_base_url, it.settings.flowise_api_key) == ("https://it/x", "of-it")
    assert (it.settings.flowise_run_timeout, it.settings.flowise_request_timeout) == (9, 30)
    assert [each.name for each in upstreams(Settings(), config.flowises)] == ["hr", "it"]
    beside = Settings(proxy_pipelines_url="http://127.0.0.1:8100/api/v1", proxy_pipelines_key="k")
    *_, last = upstreams(beside, config.flowises)
    own = (last.name, last.settings.flowise_base_url, last.settings.flowise_api_key)
    assert own == ("pipelines", "http://127.0.0.1:8100/api/v1", "k")
    assert variables_of(config.flowises) == {"HR_KEY"}
    (tmp_path / "it.key").write_text("no key é")
    assert error_of(file, file.read_text()).endswith(
        "api_key: refers to an invalid key: it must be printable ASCII without spaces, since it "
        "is sent in a header"
    )


def test_a_file_must_be_utf_8(file: Path) -> None:
    assert error_of(file, b"tasks: {}\n# caf\xe9\n") == "proxy.yaml:2: must be UTF-8"
    assert error_of(file, "tasks: {}".encode("utf-16")) == "proxy.yaml:1: must be UTF-8"


def test_a_file_has_a_longest_length(file: Path) -> None:
    file.write_bytes(b"#" * 1024**2)
    assert load_config(file) == ProxyConfig()
    assert error_of(file, b"#" * (1024**2 + 1)) == "proxy.yaml: must be at most 1 MiB long"


def outcome_of(file: Path) -> ProxyConfig | str:
    """What a file says, or its fault."""
    try:
        return load_config(file)
    except ConfigError as error:
        return str(error)


@given(st.text() | st.binary())
def test_any_content_is_a_configuration_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = outcome_of(file)
    assert isinstance(outcome, ProxyConfig) or (outcome.isprintable() and outcome.startswith("any.yaml"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a", "b", FLOW, SHA, "*"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "models",
                    "keys",
                    "tasks",
                    "discovery",
                    "id",
                    "flow",
                    "name",
                    "sha256",
                    "aliases",
                    "fallback",
                    "types",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
)


@given(VALUES)
def test_any_values_are_a_configuration_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, values: object
) -> None:
    file = tmp_path_factory.getbasetemp() / "values.yaml"
    file.write_text(repr(values).replace("None", "null"))
    outcome = outcome_of(file)
    assert isinstance(outcome, ProxyConfig) or outcome.isprintable()
