"""The vendor key and the metadata of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from flowise_gateway.flow.events import (
    ArtifactMade,
    FlowEvent,
    FlowToolCalled,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolUsed,
    UsageReported,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.flowise_details import (
    MAX_ENTRIES,
    MAX_VALUE,
    answer_metadata,
    flowise_details,
)
from tests.support.flow_events import transcript_of


def run(*events: FlowEvent) -> Transcript:
    """A run that said something and reported these events."""
    return transcript_of((*events, TextDelta("x"), UsageReported(1, 1)), "c")


def test_a_plain_answer_has_its_id_and_time() -> None:
    assert flowise_details([run()]) == {"chat_id": "c"}
    assert flowise_details([run()], 1.23456) == {"chat_id": "c", "execution_time_seconds": 1.235}


def test_nodes_are_told_with_state_and_time_as_far_as_known() -> None:
    told = flowise_details(
        [
            run(
                StepStarted("Agent"),
                StepEnded("Agent", "FINISHED", 0.5),
                StepStarted(""),
                StepStarted("Worker"),
                StepEnded("Reply", "STOPPED"),
            )
        ]
    )
    assert told["nodes"] == [
        {"name": "Agent", "state": "FINISHED", "seconds": 0.5},
        {"name": "Worker"},
        {"name": "Reply", "state": "STOPPED"},
    ]


def test_tools_that_ran_are_told_for_all_choices() -> None:
    one = run(FlowToolCalled("a", 1), ToolUsed("a", {"q": 1}, "out"))
    two = run(ToolUsed("b", None, None, "boom"), ToolUsed("b", None, None, "again"))
    told = flowise_details([one, two])
    assert told["used_tools"] == [
        {"name": "a", "input": {"q": 1}, "output": "out"},
        {"name": "b", "input": None, "output": None, "error": "boom"},
        {"name": "b", "input": None, "output": None, "error": "again"},
    ]
    assert told["warnings"] == ["The tool b failed."]


def test_large_values_are_cut_and_long_lists_too() -> None:
    big = {"rows": ["x" * 100] * 1000}
    tool = ToolUsed("a", big, "y" * (MAX_VALUE + 1))
    told = flowise_details([run(*[tool] * (MAX_ENTRIES + 1))])
    assert len(told["used_tools"]) == MAX_ENTRIES
    assert told["used_tools"][0]["input"].startswith('{"rows":["xxx')
    assert len(told["used_tools"][0]["input"]) == MAX_VALUE + 1
    assert told["used_tools"][0]["output"] == "y" * MAX_VALUE + "…"
    assert told["warnings"] == [f"Lists are truncated after {MAX_ENTRIES} entries."]


def test_a_value_that_no_json_can_hold_is_left_out() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert flowise_details([run(ToolUsed("a", deep, ""))])["used_tools"][0]["input"] == "…"


def test_sources_are_told_without_what_is_flowises_own() -> None:
    metadata = {
        "source": "/root/.flowise/storage/1/2/report.pdf",
        "title": "Report",
        "loc": {"pageNumber": 3, "lines": {"from": 1}},
        "files": ["C:\\Users\\me\\a.txt", "https://a.example/b/c", "a/b"],
        "flowise_chatId": "1",
        "FLOWISE_CREDENTIAL_ID": "2",
        "chatflowid": "3",
        "sessionId": "4",
        "openAIApiKey": "5",
        "_private": "6",
    }
    documents = (
        {"pageContent": "p" * 3000, "metadata": metadata, "id": 7},
        {"metadata": "odd"},
        {"pageContent": 5},
    )
    told = flowise_details([run(SourcesFound(documents))])
    assert told["source_documents"] == [
        {
            "pageContent": "p" * MAX_VALUE + "…",
            "metadata": {
                "source": "report.pdf",
                "title": "Report",
                "loc": {"pageNumber": 3, "lines": {"from": 1}},
                "files": ["a.txt", "https://a.example/b/c", "a/b"],
            },
        },
        {"pageContent": "", "metadata": {}},
        {"pageContent": "5", "metadata": {}},
    ]


def test_files_that_can_be_fetched_are_told() -> None:
    told = flowise_details([run(ArtifactMade({}, "a.png", "https://x"), ArtifactMade({"type": "html"}))])
    assert told["files"] == [{"name": "a.png", "url": "https://x"}]


def test_metadata_tells_agents_time_and_steps_as_strings() -> None:
    steps = run(StepStarted("researcher"), StepStarted("Müller"), StepStarted("researcher"), StepStarted(""))
    assert answer_metadata([steps, run(StepStarted("writer"))], 3.456) == {
        "agents_used": '["researcher","Müller","writer"]',
        "execution_time_seconds": "3.46",
        "iterations": "4",
    }
    assert answer_metadata([run()], 0) == {
        "agents_used": "[]",
        "execution_time_seconds": "0.00",
        "iterations": "0",
    }


@pytest.mark.parametrize("count", [0, 1])
def test_an_answer_is_empty_only_if_all_choices_are(count: int) -> None:
    runs = [Transcript("c"), *[run()] * count]
    warnings = flowise_details(runs).get("warnings", [])
    assert ("The flow returned an empty answer." in warnings) is (count == 0)
