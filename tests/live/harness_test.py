"""The harness alone: the Flowise that the other tests rely on is real, filled, and answers."""

from __future__ import annotations

import gzip

import pytest
import requests

from tests.live.flowise_install import RECIPE, VERSION
from tests.live.real_flowise import RealFlowise

pytestmark = pytest.mark.live


def test_flowise_answers_ping(flowise: RealFlowise) -> None:
    assert requests.get(f"{flowise.base_url}/ping", timeout=5).text == "pong"


def test_flowise_is_the_release_that_was_asked_for(flowise: RealFlowise) -> None:
    assert flowise.version == VERSION


def test_all_flows_are_there_for_a_key_that_may_list_them(flowise: RealFlowise) -> None:
    headers = {"Authorization": f"Bearer {flowise.keys['all']}"}
    rows = requests.get(f"{flowise.base_url}/chatflows", headers=headers, timeout=5).json()
    assert {row["name"]: row["id"] for row in rows} == flowise.flows
    assert len(flowise.flows) >= (20 if VERSION.startswith("2.") else 38)


def test_a_prediction_reaches_the_fake_model(flowise: RealFlowise) -> None:
    answer = flowise.predict("conv", "Is the harness there?")
    assert answer["text"] == "Reply to [Is the harness there?] after 2 messages: system,user. "
    bodies = [entry.get("body", {}) for entry in flowise.llm_log()]
    asked = [body["messages"][-1]["content"] for body in bodies if "messages" in body]
    assert "Is the harness there?" in asked


def test_no_lock_file_names_a_registry() -> None:
    for path in RECIPE.glob("*/package-lock.json.gz"):
        lock = gzip.decompress(path.read_bytes())
        assert b'"resolved"' not in lock
        assert b"://" not in lock
