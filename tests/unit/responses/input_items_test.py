"""The input of a Responses request into turns: messages, calls, references, earlier responses, attachments."""

from __future__ import annotations

from typing import Any

import pytest

from flowise_gateway.flow.errors import (
    BadRequest,
)
from flowise_gateway.responses.request import parse_response
from tests.support.openai_check import valid
from tests.support.response_cases import (
    CALL,
    CALLED,
    CASES,
    HELLO,
    OUTPUT,
    Case,
    ids,
    message,
    numbered_ids,
    parsed,
)


def turned(*items: Any, **more: Any) -> tuple[str, list[tuple[str, str]], str]:
    """What input items become: question, history, instructions."""
    [turn] = parse_response({"model": "m", "input": list(items), **more}).turns
    return (
        turn.question,
        [(message.role, message.content) for message in turn.history],
        turn.instructions,
    )


def test_a_text_becomes_a_turn() -> None:
    request = parsed(instructions="Be brief", stream=True, store=None)
    [turn] = request.turns
    assert (turn.flow, turn.question, turn.instructions, turn.stream) == (
        "support",
        HELLO["input"],
        "Be brief",
        True,
    )
    assert (request.model, request.stream, request.store, request.background) == (
        "support",
        True,
        True,
        False,
    )
    assert (request.previous_response_id, request.conversation_id, request.parameters) == ("", "", {})
    [item] = request.input_items
    assert item["content"] == [{"type": "input_text", "text": HELLO["input"]}]
    assert parse_response({**HELLO, "model": None}, "deployed").turns[0].flow == "deployed"


def test_reasoning_that_comes_back_as_an_answer_is_no_part_of_the_conversation() -> None:
    question, history, _ = turned(
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "<think>Two and two.</think>"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Sure?"},
    )
    assert question == "Sure?"
    assert history == [("userMessage", "What is 2+2?"), ("apiMessage", "4")]


def test_messages_need_no_type_and_parts_no_list() -> None:
    assert turned(
        {"role": "developer", "content": "Rules"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "c"}]},
        instructions="First",
    ) == ("c", [("userMessage", "a"), ("apiMessage", "b")], "First\n\nRules")


def test_an_assistants_phase_refusal_and_thoughts_are_taken() -> None:
    refusal = {"type": "refusal", "refusal": "No."}
    question, history, _ = turned(
        {"role": "user", "content": "a"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "t"}],
            "encrypted_content": "x",
        },
        {"type": "message", "role": "assistant", "phase": "final_answer", "content": [refusal]},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
    )
    assert (question, history) == ("c", [("userMessage", "a"), ("apiMessage", "No.")])


def test_calls_join_the_answer_before_them_and_outputs_are_told() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Bonn"}'}
    output = {"type": "function_call_output", "call_id": "c1", "output": "Rain"}
    question, history, _ = turned(
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "Let me see."},
        call,
        {**call, "call_id": "c2", "name": "time"},
        output,
        {**output, "call_id": "c2", "output": [{"type": "input_text", "text": "Noon"}]},
    )
    assert question == "Tool result of weather: Rain\n\nTool result of time: Noon"
    assert history == [
        ("userMessage", "a"),
        (
            "apiMessage",
            'Let me see.\n<tool_call>{"name":"weather","arguments":{"city":"Bonn"}}</tool_call>\n<tool_call>{"name":"time","arguments":{"city":"Bonn"}}</tool_call>',
        ),
    ]
    alone = turned({"role": "user", "content": "a"}, call, output)
    assert alone[1][1] == (
        "apiMessage",
        '<tool_call>{"name":"weather","arguments":{"city":"Bonn"}}</tool_call>',
    )


def test_an_output_without_a_call_is_told_by_its_tools_name() -> None:
    output = {"type": "function_call_output", "output": "Rain"}
    for item, tool in (({**output, "name": "weather"}, "weather"), ({**output, "call_id": None}, "the tool")):
        assert turned({"role": "user", "content": "a"}, item)[0] == f"a\n\nTool result of {tool}: Rain"
        [_, listed] = parse_response(
            {"model": "m", "input": [{"role": "user", "content": "a"}, item]}
        ).input_items
        assert "call_id" not in listed


FOREIGN: list[dict[str, Any]] = [
    {"type": "additional_tools", "role": "developer", "tools": []},
    {"type": "configuration_update", "reasoning": {"effort": "low"}},
    {"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "SELECT 1"},
    {"type": "custom_tool_call_output", "call_id": "c", "output": "1"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
    {"type": "mcp_approval_request", "id": "mcpr_1", "arguments": "{}", "name": "n", "server_label": "s"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {"type": "mcp_call", "id": 5, "arguments": "{}", "name": "n", "server_label": "s", "output": None},
    {"type": "compaction_trigger"},
    {"type": "a_type_of_next_year", "id": "", "depth": [{"x": 1}]},
]


def test_what_another_model_has_made_is_kept_but_not_told() -> None:
    items = [
        {"role": "user", "content": "a"},
        *FOREIGN,
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        FOREIGN[4],
    ]
    request = parse_response({"model": "m", "input": items}, make_id=numbered_ids())
    [turn] = request.turns
    assert (turn.question, [message.content for message in turn.history]) == ("c", ["a", "b"])
    assert list(request.parameters) == [f"input.{item['type']}" for item in FOREIGN]
    kept = request.input_items[1 : len(FOREIGN) + 1]
    assert [{**item, "id": 0} for item in kept] == [{**item, "id": 0} for item in FOREIGN]
    assert all(isinstance(item["id"], str) and item["id"] for item in kept)
    assert kept[4]["id"] == "ws_1"
    # As a part of an earlier response they are not named again.
    later = parse_response(
        {"model": "m", "input": "d", "previous_response_id": "r"}, earlier={"r": request.input_items}.get
    )
    assert (later.turns[0].question, later.parameters) == ("c\n\nd", {})


def test_only_a_few_types_of_what_is_not_told_are_named() -> None:
    items = [{"type": f"kind_{n}"} for n in range(1000)]
    request = parse_response({"model": "m", "input": [{"role": "user", "content": "a"}, *items, *items]})
    assert list(request.parameters) == [f"input.kind_{n}" for n in range(16)]


@pytest.mark.parametrize(
    ("item", "advice"),
    [(FOREIGN[7], "waits for an approval"), (FOREIGN[9], "/v1/responses/compact")],
    ids=["mcp_approval_response", "compaction_trigger"],
)
def test_what_asks_for_an_action_is_refused_until_it_is_history(item: dict[str, Any], advice: str) -> None:
    question = {"role": "user", "content": "a"}
    for items in (
        [question, item],
        [{"role": "assistant", "content": "b"}, question, item, FOREIGN[-1]],
    ):
        with pytest.raises(BadRequest, match=advice) as caught:
            parse_response({"model": "m", "input": items})
        assert (caught.value.param, caught.value.code) == (
            f"input[{items.index(item)}]",
            "unsupported_content",
        )
    for answer in (FOREIGN[8], CALLED, {"role": "assistant", "content": "b"}):
        parse_response({"model": "m", "input": [question, item, answer, question]})


def test_calls_of_other_models_are_told_whatever_their_names_and_ids_are() -> None:
    call = {"type": "function_call", "call_id": "c" * 200, "name": "mcp.search files", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c" * 200, "output": "x"}
    assert turned({"role": "user", "content": "a"}, call, output)[0] == "Tool result of mcp.search files: x"


def test_the_flows_own_tools_are_no_calls_of_the_clients() -> None:
    items = CASES[3].whole()["output"]
    sent_back = turned({"role": "user", "content": "a"}, *items, {"role": "user", "content": "b"})
    assert sent_back == ("b", [("userMessage", "a"), ("apiMessage", "It is 42.")], "")


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_whatever_an_answer_holds_can_be_sent_back_and_listed(case: Case) -> None:
    items = [*case.whole()["output"], {"role": "user", "content": "Go on"}]
    request = parse_response({"model": "m", "input": items})
    assert request.turns[0].question.endswith("Go on")
    assert [item["id"] for item in request.input_items[:-1]] == [item["id"] for item in items[:-1]]
    valid("response.request", {"model": "m", "input": items})


def test_input_is_kept_whole_and_can_be_listed() -> None:
    items = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "phase": "commentary", "id": "msg_mine"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x", "id": None},
        {"type": "reasoning", "summary": []},
    ]
    listed = parse_response({"model": "m", "input": items}, make_id=numbered_ids()).input_items
    ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]}
    valid("response.items", {"object": "list", "data": list(listed), "has_more": False, **ends})
    assert [item["id"][:4] for item in listed] == ["msg_", "msg_", "fc_0", "fco_", "rs_0"]
    assert (listed[1]["id"], listed[1]["phase"]) == ("msg_mine", "commentary")


@pytest.mark.parametrize(
    "reference", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}, {"type": None, "id": "msg_1"}]
)
def test_a_reference_stands_for_its_item(reference: dict[str, Any]) -> None:
    kept = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "b"}],
    }
    items = [{"role": "user", "content": "a"}, reference, {"role": "user", "content": "c"}]
    request = parse_response({"model": "m", "input": items}, resolve={"msg_1": kept}.get)
    assert [message.content for message in request.turns[0].history] == ["a", "b"]
    assert request.input_items[1]["id"] == "msg_1"
    with pytest.raises(BadRequest) as caught:
        parse_response({"model": "m", "input": items})
    assert (caught.value.param, caught.value.code) == ("input[1].id", "item_not_found")


def test_an_earlier_response_goes_before_the_input() -> None:
    kept = [{"type": "message", "role": "user", "content": "a"}, *Case("e", [CALL]).whole()["output"]]
    output = {"type": "function_call_output", "call_id": "call_1", "output": "Rain"}
    body = {"model": "m", "input": [output], "previous_response_id": "resp_1"}
    request = parse_response(body, earlier={"resp_1": kept}.get)
    assert request.turns[0].question == "Tool result of weather: Rain"
    assert [message.role for message in request.turns[0].history] == ["userMessage", "apiMessage"]
    assert (request.previous_response_id, len(request.input_items)) == ("resp_1", 1)
    assert parse_response({**body, "input": None}, earlier={"resp_1": kept}.get).input_items == ()
    with pytest.raises(BadRequest) as caught:
        parse_response(body)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")
    assert caught.value.message == "Previous response with id 'resp_1' not found."


def test_in_a_conversation_a_calls_output_may_come_alone() -> None:
    body = {"model": "m", "input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}
    for conversation in ("conv_1", {"id": "conv_1"}):
        assert parse_response({**body, "conversation": conversation}).conversation_id == "conv_1"
    with pytest.raises(BadRequest) as caught:
        parse_response(body)
    assert caught.value.param == "input[0].call_id"


def test_images_and_files_become_parts_of_a_chat() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}
    for part in (image, file, {"type": "input_file", "file_data": "AA=="}):
        items = [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "input_text", "text": "b"}, part]},
        ]
        valid("response.request", {"model": "m", "input": items})
        [attached] = parse_response({"model": "m", "input": items}).attachments
        assert attached.position == 0
        assert attached.param.startswith("input[1].content[1]")
        assert parse_response({"model": "m", "input": items}).input_items[1]["content"][1] == part


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "input_image", "image_url": "file:///a.png"}, "image_url"),
        ({"type": "input_file", "file_data": "?"}, "file_data"),
        (
            {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,/w=="},
            "file_data",
        ),
        ({"type": "input_file", "file_url": "data:image/heic;base64,AAAA"}, "file_data"),
    ],
)
def test_a_part_that_cannot_be_read_is_named_by_its_place_in_the_input(
    part: dict[str, Any], field: str
) -> None:
    question = {"role": "user", "content": [{"type": "input_text", "text": "b"}, part]}
    output = {"type": "function_call_output", "call_id": "c", "output": [part]}
    for items, place in (
        ([CALLED, question], "input[1].content[1]"),
        ([CALLED, output], "input[1].output[0]"),
    ):
        with pytest.raises(BadRequest) as caught:
            parse_response({"model": "m", "input": items, "instructions": "Be brief"})
        assert caught.value.param == f"{place}.{field}"
        assert "messages" not in caught.value.message


def test_an_attachment_of_an_earlier_response_is_named_by_the_field_that_names_the_response() -> None:
    image = {"type": "input_image", "image_url": "https://a.example/b.png"}
    stored = [{"type": "message", "role": "user", "content": [image]}]
    body = {"model": "m", "previous_response_id": "r", "instructions": "Be brief"}
    [attached] = parse_response(body, earlier={"r": stored}.get).attachments
    assert (attached.param, attached.is_newest) == ("previous_response_id", True)


def test_audio_and_addresses_are_taken_as_the_chat_takes_them() -> None:
    def attached(part: dict[str, Any]) -> tuple[str, str, str, str]:
        request = parse_response({"model": "m", **message({"type": "input_text", "text": "a"}, part)})
        [one] = request.attachments
        return one.upload.type, one.upload.mime, one.upload.data, one.param

    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "ogg"}}
    place = "input[0].content[1]"
    assert attached(audio) == (
        "audio",
        "audio/ogg",
        "data:audio/ogg;base64,AA==",
        f"{place}.input_audio.data",
    )
    image = {"type": "input_file", "file_url": "https://a.example/b.png?c=d"}
    assert attached(image) == ("url", "image/png", image["file_url"], f"{place}.image_url")
    text = {"type": "input_file", "filename": "a.txt", "file_url": "data:text/plain;base64,SGk="}
    assert attached(text)[:3] == ("file:full", "text/plain", "Hi")


# Earlier turns


def item_of(role: str, content: Any) -> dict[str, Any]:
    """A message item."""
    return {"type": "message", "role": role, "content": content}


@pytest.mark.parametrize(
    ("item", "said", "left_out"),
    [
        (
            item_of("user", [{"type": "input_video"}, {"type": "input_text", "text": "a"}]),
            "[part left out]\na",
            "part",
        ),
        (item_of("user", [{"type": "input_image", "image_url": "file:///x"}]), "[image left out]", "image"),
        (item_of("user", [{"type": "input_image", "file_id": "file-1"}]), "[image left out]", "image"),
        (item_of("user", [{"type": "input_file", "file_id": "file-1"}]), "[file left out]", "file"),
        (item_of("user", [None]), "[part left out]", "part"),
        ({"role": "user", "content": 5}, "[message left out]", "message"),
    ],
)
def test_what_cannot_be_read_of_an_earlier_item_is_a_note(item: Any, said: str, left_out: str) -> None:
    with pytest.raises(BadRequest):
        parse_response({**HELLO, "input": [item]})
    for between in ([item_of("assistant", "b")], []):
        asked = parse_response({**HELLO, "input": [item, *between, item_of("user", "c")]})
        history = asked.turns[0].history
        assert (history[0].content if between else asked.user_text.removesuffix("\n\nc")) == said
        assert asked.left_out == (left_out,)
        # The item is whole: it can be kept, listed and gone on from.
        again = parse_response({**HELLO, "input": list(asked.input_items)})
        assert again.user_text == asked.user_text


def test_a_tool_may_give_nothing() -> None:
    asked = parse_response({**HELLO, "input": [CALLED, {**OUTPUT, "output": None}]})
    assert asked.user_text == f"Tool result of {CALLED['name']}: "


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "name": "f"},
        {"type": "function_call_output", "call_id": "c9", "output": "42"},
        {"type": "function_call_output", "call_id": "c9", "output": None},
        item_of("user", None),
        item_of("narrator", "x"),
        {"type": "reasoning"},
        5,
        None,
    ],
)
def test_no_earlier_item_is_a_reason_to_refuse(item: Any) -> None:
    asked = parse_response({**HELLO, "input": [item, item_of("assistant", "b"), item_of("user", "c")]})
    assert (asked.user_text, asked.turns[0].history[-1].content) == ("c", "b")
