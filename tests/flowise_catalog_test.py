"""Flows as models: names, listing, what happens while Flowise gives none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow_turn import Model
from flowise_catalog import LISTING_TTL_SECONDS, MODEL_ID, RETRY_SECONDS, Catalog, named, slug_of
from proxy_errors import FlowiseUnavailable, ModelNotFound

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
C = "cccccccc-0000-4000-8000-000000000003"


def row(flow: str, name: str, date: Any = "2026-11-21T03:18:16.000Z") -> dict[str, Any]:
    """A flow as Flowise lists it."""
    return {"id": flow, "name": name, "createdDate": date, "flowData": "{}"}


class Flowise:
    """A listing that counts how often it is fetched and fails when told to."""

    def __init__(self, *rows: Mapping[str, Any]) -> None:
        self.rows: list[Mapping[str, Any]] = list(rows)
        self.fetches = 0
        self.error: Exception | None = None
        self.now = 1000.0

    def __call__(self) -> Iterable[Mapping[str, Any]]:
        self.fetches += 1
        if self.error:
            raise self.error
        return self.rows

    def catalog(self) -> Catalog:
        """A catalog over this listing, with this clock."""
        return Catalog(self, lambda: self.now)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Support assistant", "support-assistant"),
        ("  Größe & Café!  ", "groe-cafe"),
        ("ＦＵＬＬ width", "full-width"),
        ("a__b--c", "a-b-c"),
        ("GPT-4o", "gpt-4o"),
        ("日本語", ""),
        ("🙂", ""),
        ("", ""),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_name_becomes_a_slug(name: str, slug: str) -> None:
    assert slug_of(name) == slug


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_a_slug_is_empty_or_a_model_id(name: str) -> None:
    slug = slug_of(name)
    assert not slug or MODEL_ID.fullmatch(slug)
    assert slug == slug.lower()


@pytest.mark.parametrize(
    ("date", "created"),
    [
        ("2026-11-21T03:18:16.000Z", 1795231096),
        ("2026-11-21T03:18:16+00:00", 1795231096),
        ("yesterday", 0),
        ("", 0),
        (None, 0),
        (1795231096, 0),
    ],
)
def test_a_flow_becomes_a_model_with_the_seconds_it_was_made_at(date: Any, created: int) -> None:
    assert named([row(A.upper(), "My Flow", date)]) == [Model("my-flow", A, "My Flow", created)]


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"id": A},
        {"name": "x"},
        {"id": 1, "name": "x"},
        {"id": A, "name": None},
        {"id": "not-a-uuid", "name": "x"},
        {"id": A + "0", "name": "x"},
        {"id": "../" + A[3:], "name": "x"},
    ],
)
def test_a_row_that_is_no_flow_is_left_out(broken: dict[str, Any]) -> None:
    assert [model.flow for model in named([broken, row(B, "good")])] == [B]


def test_the_oldest_flow_of_a_name_keeps_it_in_whatever_order_they_are_listed() -> None:
    rows = [row(A, "Bot", "2026-03-01"), row(B, "bot", "2026-01-01"), row(C, "BOT!", "2026-02-01")]
    expected = {"bot": B, "bot-cccccccc": C, "bot-aaaaaaaa": A}
    for listed in (rows, rows[::-1]):
        assert {model.id: model.flow for model in named(listed)} == expected


def test_flows_without_a_date_are_ordered_by_id() -> None:
    assert [m.flow for m in named([row(B, "Bot", None), row(A, "Bot", None)]) if m.id == "bot"] == [A]


def test_a_name_without_any_letter_gets_the_beginning_of_the_id() -> None:
    assert named([row(A, "日本語")])[0].id == "flow-aaaaaaaa"


def test_models_are_listed_by_id() -> None:
    assert [model.id for model in named([row(A, "z"), row(B, "a"), row(C, "m")])] == ["a", "m", "z"]


@pytest.mark.parametrize(
    "rows",
    [
        [row(A, "Bot bbbbbbbb", "2026-01-01"), row(C, "Bot", "2026-01-02"), row(B, "Bot", "2026-01-03")],
        [row(A, "Bot", "1"), row(B, "Bot", "2"), row(B[:-1] + "9", "Bot", "3")],
    ],
    ids=["a name like a made-up one", "ids that begin alike"],
)
def test_no_flow_is_lost_whatever_their_names(rows: list[dict[str, Any]]) -> None:
    assert {model.flow for model in named(rows)} == {listed["id"] for listed in rows}


def test_every_listed_model_resolves_to_its_own_flow() -> None:
    catalog = Flowise(row(A, B), row(B, "other")).catalog()
    assert {model.id: catalog.resolve(model.id).flow for model in catalog.models()} == {
        model.id: model.flow for model in catalog.models()
    }


def test_a_listing_is_kept_for_a_minute() -> None:
    flowise = Flowise(row(A, "one"))
    catalog = flowise.catalog()
    assert [model.id for model in catalog.models()] == ["one"]
    flowise.rows = [row(B, "two")]
    flowise.now += LISTING_TTL_SECONDS - 0.01
    assert [model.id for model in catalog.models()] == ["one"]
    assert flowise.fetches == 1
    flowise.now += 0.01
    assert [model.id for model in catalog.models()] == ["two"]
    assert flowise.fetches == 2


def test_the_last_good_listing_is_kept_while_flowise_gives_none(caplog: pytest.LogCaptureFixture) -> None:
    flowise = Flowise(row(A, "one"))
    catalog = flowise.catalog()
    catalog.models()
    flowise.error = FlowiseUnavailable("down")
    flowise.now += LISTING_TTL_SECONDS
    with caplog.at_level(logging.WARNING, "flowise_catalog"):
        assert [model.id for model in catalog.models()] == ["one"]
        assert catalog.resolve("one").flow == A
    assert [record.getMessage() for record in caplog.records] == ["Flowise gave no list of flows: down"]


def test_a_failed_listing_is_tried_again_soon_but_not_at_once() -> None:
    flowise = Flowise(row(A, "one"))
    flowise.error = FlowiseUnavailable("down")
    catalog = flowise.catalog()
    assert catalog.models() == []
    assert catalog.models() == []
    assert flowise.fetches == 1
    flowise.error = None
    flowise.now += RETRY_SECONDS
    assert [model.id for model in catalog.models()] == ["one"]


def test_an_error_that_nobody_foresaw_is_raised_and_does_not_block_the_next_call() -> None:
    flowise = Flowise(row(A, "one"))
    flowise.error = ZeroDivisionError()
    catalog = flowise.catalog()
    with pytest.raises(ZeroDivisionError):
        catalog.models()
    flowise.error = None
    flowise.now += LISTING_TTL_SECONDS
    assert [model.id for model in catalog.models()] == ["one"]


def test_a_known_listing_answers_at_once_while_another_is_fetched() -> None:
    is_fetching, may_go_on = threading.Event(), threading.Event()
    flowise = Flowise(row(A, "one"))

    def fetch() -> Iterable[Mapping[str, Any]]:
        rows = list(flowise())
        if flowise.fetches > 1:
            is_fetching.set()
            assert may_go_on.wait(20)
        return rows

    catalog = Catalog(fetch, lambda: flowise.now)
    catalog.models()
    flowise.now += LISTING_TTL_SECONDS
    flowise.rows = [row(B, "two")]
    thread = threading.Thread(target=catalog.models)
    # The time is up for both: the first fetches, the second takes what there is.
    thread.start()
    assert is_fetching.wait(20)
    flowise.now += LISTING_TTL_SECONDS
    assert [model.id for model in catalog.models()] == ["one"]
    may_go_on.set()
    thread.join(20)
    flowise.now -= LISTING_TTL_SECONDS
    assert [model.id for model in catalog.models()] == ["two"]
    assert flowise.fetches == 2


def test_who_waited_for_another_fetch_does_not_fetch_again() -> None:
    times = iter([0.0, 0.0, 0.0, LISTING_TTL_SECONDS, LISTING_TTL_SECONDS - 1])
    flowise = Flowise(row(A, "one"))
    catalog = Catalog(flowise, lambda: next(times))
    catalog.models()
    assert [model.id for model in catalog.models()] == ["one"]
    assert flowise.fetches == 1


@pytest.mark.parametrize("find", [Catalog.resolve, Catalog.find])
@pytest.mark.parametrize(
    "name", ["", "none", "Bot", "bot ", "a b", "../etc", "x" * 129, "bot\n", "böt", "\ud800", A + "0"]
)
def test_an_unknown_name_is_refused_with_the_name_as_far_as_it_can_be_shown(
    find: Callable[[Catalog, str], Model], name: str
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        find(Flowise(row(A, "bot")).catalog(), name)
    assert caught.value.param == "model"
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 300


def test_a_flow_id_is_always_a_model_and_asks_flowise_nothing() -> None:
    flowise = Flowise()
    assert flowise.catalog().resolve(A.upper()) == Model(A.upper(), A, A.upper())
    assert flowise.fetches == 0


def test_a_name_is_resolved_to_its_flow() -> None:
    assert Flowise(row(A, "My Bot")).catalog().resolve("my-bot").flow == A


@pytest.mark.parametrize("name", ["my-bot", A, A.upper()])
def test_a_model_is_found_by_name_or_flow_id(name: str) -> None:
    assert Flowise(row(A, "My Bot")).catalog().find(name).id == "my-bot"


def test_an_unlisted_flow_id_is_found_as_itself() -> None:
    assert Flowise(row(A, "My Bot")).catalog().find(B) == Model(B, B, B)


def test_an_impossible_name_asks_flowise_nothing() -> None:
    flowise = Flowise(row(A, "bot"))
    with pytest.raises(ModelNotFound):
        flowise.catalog().resolve("no such name, for sure")
    assert flowise.fetches == 0
