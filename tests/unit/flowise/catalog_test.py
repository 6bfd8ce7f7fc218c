"""Which flows there are: how a listing stays fresh, and what is asked of single flows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from flowise_gateway.flow.errors import (
    FlowiseMisconfigured,
    FlowiseRefused,
    FlowiseUnavailable,
    ModelNotFound,
    ProxyError,
)
from flowise_gateway.flowise.catalog import Catalog
from flowise_gateway.flowise.profiles import FlowProfile
from tests.support.flow_rows import flow_id, row
from tests.support.processes import wait_for


class Flowise:
    """A source whose rows and capabilities the test changes."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows: list[dict[str, Any]] = list(rows)
        self.error: Exception | None = None
        self.probe_error: ProxyError | None = None
        self.streams: bool | None = True
        self.config_error: Exception | None = None
        self.config: dict[str, Any] = {}
        self.listings = 0
        self.probed: list[str] = []
        self.configs: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def flows(self) -> Iterable[Mapping[str, Any]]:
        """List the rows."""
        self.listings += 1
        self.gate.wait(10)
        if self.error:
            raise self.error
        return list(self.rows)

    def capabilities(self, flow: str) -> tuple[bool | None, Mapping[str, Any]]:
        """Tell what a flow can do."""
        self.probed.append(flow)
        if self.probe_error:
            raise self.probe_error
        return self.streams, {"isImageUploadAllowed": True, "fileUploadSizeAndTypes": []}

    def public_config(self, flow: str) -> Mapping[str, Any]:
        """Tell what anybody may know of a flow."""
        self.configs.append(flow)
        if self.config_error:
            raise self.config_error
        return self.config


class Clock:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def settled(catalog: Catalog, flowise: Flowise, listings: int) -> None:
    """Wait until that many listings were asked for and taken over."""
    catalog.profiles()
    assert wait_for(lambda: flowise.listings == listings and not catalog._is_refreshing, 5)


def test_a_listing_is_asked_once_in_its_time_and_kept_while_there_is_no_newer() -> None:
    clock, flowise = Clock(), Flowise(row(1, "a"))
    catalog = Catalog(flowise, 60, clock)
    assert [profile.slug for profile in catalog.profiles()] == ["a"]
    settled(catalog, flowise, 1)
    flowise.rows = [row(1, "a"), row(2, "b")]
    assert [profile.slug for profile in catalog.profiles()] == ["a"]
    clock.now = 61
    settled(catalog, flowise, 2)
    assert [profile.slug for profile in catalog.profiles()] == ["a", "b"]
    flowise.error, clock.now = FlowiseUnavailable("gone"), 122
    settled(catalog, flowise, 3)
    assert [profile.slug for profile in catalog.profiles()] == ["a", "b"]
    assert catalog.error is flowise.error
    flowise.error, clock.now = None, 128
    settled(catalog, flowise, 4)
    assert catalog.error is None


def test_a_thousand_readers_wait_for_one_listing() -> None:
    flowise = Flowise(row(1, "a"))
    flowise.gate.clear()
    catalog = Catalog(flowise)
    seen: list[int] = []
    readers = [threading.Thread(target=lambda: seen.append(len(catalog.profiles()))) for _ in range(100)]
    for reader in readers:
        reader.start()
    flowise.gate.set()
    for reader in readers:
        reader.join()
    assert seen == [1] * 100
    assert flowise.listings <= 2


def test_a_flows_id_never_waits_for_a_listing_that_hangs() -> None:
    flowise = Flowise(row(1, "a"))
    flowise.gate.clear()
    catalog = Catalog(flowise)
    assert catalog.by_flow(flow_id(1)) is None
    flowise.gate.set()
    assert wait_for(lambda: catalog.by_flow(flow_id(1)) is not None, 5)


def test_a_bug_in_reading_a_listing_is_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    flowise = Flowise()
    flowise.error = ZeroDivisionError()
    catalog = Catalog(flowise, clock=Clock())
    assert catalog.profiles() == []
    assert wait_for(lambda: not catalog._is_refreshing, 5)
    assert "could not be read" in caplog.text
    assert isinstance(catalog.failure(), FlowiseUnavailable)


def test_a_thread_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, flowise = Clock(), Flowise(row(1, "a"))
    catalog = Catalog(flowise, 60, clock)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert catalog.profiles() == []
        assert catalog.by_flow(flow_id(2)) is None
    assert isinstance(catalog.failure(), FlowiseUnavailable)
    clock.now = 6
    settled(catalog, flowise, 1)
    assert [profile.slug for profile in catalog.profiles()] == ["a"]
    assert wait_for(lambda: catalog.by_flow(flow_id(2)) is not None, 5)


def test_a_listing_that_has_not_come_yet_is_a_failure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowise_gateway.flowise.catalog.FIRST_WAIT_SECONDS", 0.01)
    flowise = Flowise()
    flowise.gate.clear()
    catalog = Catalog(flowise)
    assert catalog.profiles() == []
    assert isinstance(catalog.failure(), FlowiseUnavailable)
    flowise.gate.set()
    assert wait_for(lambda: catalog.failure() is None, 5)


def test_a_key_that_flowise_refuses_is_told_although_there_was_a_listing() -> None:
    clock, flowise = Clock(), Flowise(row(1, "a"))
    catalog = Catalog(flowise, 60, clock)
    settled(catalog, flowise, 1)
    flowise.error, clock.now = FlowiseUnavailable("gone"), 61
    settled(catalog, flowise, 2)
    assert catalog.failure() is None
    flowise.error, clock.now = FlowiseRefused("no"), 67
    settled(catalog, flowise, 3)
    assert catalog.failure() is flowise.error


def test_the_same_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock, flowise = Clock(), Flowise()
    flowise.error = FlowiseRefused("no key")
    catalog = Catalog(flowise, 60, clock)
    for n in range(1, 4):
        clock.now = n * 10
        settled(catalog, flowise, n)
    assert caplog.text.count("no key") == 1


def test_a_former_name_works_until_another_flow_claims_it() -> None:
    clock, flowise = Clock(), Flowise(row(1, "old"))
    catalog = Catalog(flowise, 60, clock)
    settled(catalog, flowise, 1)
    flowise.rows, clock.now = [row(1, "new", updatedDate="2")], 61
    settled(catalog, flowise, 2)
    for slug in ("old", "new"):
        profile = catalog.find(slug)
        assert profile is not None
        assert profile.flow == flow_id(1)
    flowise.rows, clock.now = [row(1, "new"), row(2, "old")], 122
    settled(catalog, flowise, 3)
    claimed = catalog.find("old")
    assert claimed is not None
    assert claimed.flow == flow_id(2)
    flowise.rows, clock.now = [], 183
    settled(catalog, flowise, 4)
    assert catalog.find("new") is None
    assert catalog.find("never") is None


def test_a_name_of_another_script_is_found_by_what_it_was_before_scripts_were_read() -> None:
    flowise = Flowise(row(1, "Поддержка"), row(2, "Größe"))
    catalog = Catalog(flowise)
    assert [profile.slug for profile in catalog.profiles()] == ["grosse", "podderzhka"]
    for slug, number in ((f"flow-{flow_id(1)[:8]}", 1), ("groe", 2), ("grosse", 2), ("podderzhka", 1)):
        profile = catalog.find(slug)
        assert profile is not None
        assert profile.flow == flow_id(number)


def test_former_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowise_gateway.flowise.catalog.MAX_FORMER_SLUGS", 2)
    clock, flowise = Clock(), Flowise(row(1, "name 0"))
    catalog = Catalog(flowise, 60, clock)
    for n in range(1, 6):
        settled(catalog, flowise, n)
        flowise.rows, clock.now = [row(1, f"name {n}")], n * 61
    settled(catalog, flowise, 6)
    assert [catalog.find(f"name-{n}") is not None for n in range(6)] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]


def test_abilities_are_asked_once_for_each_state_of_a_flow() -> None:
    clock, flowise = Clock(), Flowise(row(1, "a"))
    flowise.probe_error = FlowiseUnavailable("busy")
    catalog = Catalog(flowise, 60, clock)
    settled(catalog, flowise, 1)
    assert catalog.profiles()[0].streams is None
    flowise.probe_error, clock.now = None, 61
    settled(catalog, flowise, 2)
    first = catalog.profiles()[0]
    assert (first.streams, first.takes_images, first.takes_files) == (True, True, False)
    clock.now = 122
    settled(catalog, flowise, 3)
    assert catalog.profiles()[0].streams is True
    assert len(flowise.probed) == 2
    flowise.rows, clock.now = [row(1, "a", updatedDate="2")], 183
    settled(catalog, flowise, 4)
    assert len(flowise.probed) == 3


def test_a_changed_flow_keeps_its_abilities_until_it_has_been_asked_again() -> None:
    clock, flowise = Clock(), Flowise(row(1, "a"))
    catalog = Catalog(flowise, 60, clock)
    settled(catalog, flowise, 1)
    for number, error in enumerate([FlowiseUnavailable("busy"), ModelNotFound("odd")], 2):
        flowise.rows, flowise.probe_error = [row(1, "b", updatedDate=str(number))], error
        clock.now = number * 61
        settled(catalog, flowise, number)
        profile = catalog.profiles()[0]
        assert (profile.name, profile.streams, profile.takes_images) == ("b", True, True)
    flowise.probe_error, flowise.streams, clock.now = None, None, 250
    settled(catalog, flowise, 4)
    assert catalog.profiles()[0].streams is True, "a probe that tells nothing changes nothing"
    flowise.streams, clock.now = False, 311
    settled(catalog, flowise, 5)
    assert catalog.profiles()[0].streams is False


AGENT = {"flowData": json.dumps({"nodes": [{"data": {"category": "Agent Flows"}}]})}


def asked(catalog: Catalog, flow: str) -> FlowProfile:
    """The profile of an unlisted flow, once it is known."""
    assert wait_for(lambda: catalog.by_flow(flow) is not None, 5)
    profile = catalog.by_flow(flow)
    assert profile is not None
    return profile


@pytest.mark.parametrize("error", [FlowiseRefused("no"), FlowiseMisconfigured("forbidden"), None])
def test_a_flow_in_no_listing_is_known_by_what_is_public(error: ProxyError | None) -> None:
    flowise = Flowise()
    flowise.error, flowise.config = error, AGENT
    catalog = Catalog(flowise)
    catalog.profiles()
    profile = asked(catalog, flow_id(7))
    assert (profile.type, profile.has_memory, profile.inputs) == ("AGENTFLOW", False, None)
    assert (profile.streams, profile.takes_images, profile.takes_files) == (True, True, False)
    assert catalog.profiles() == []
    assert flowise.configs == [flow_id(7)]


def test_an_unlisted_flow_is_asked_again_in_time_and_kept_while_it_cannot_be() -> None:
    clock, flowise = Clock(), Flowise()
    catalog = Catalog(flowise, 60, clock)
    settled(catalog, flowise, 1)
    assert asked(catalog, flow_id(7)).type == ""
    flowise.config, clock.now = AGENT, 61
    assert wait_for(lambda: asked(catalog, flow_id(7)).type == "AGENTFLOW", 5)
    flowise.config_error = FlowiseUnavailable("gone")
    for now, calls in ((122, 3), (124, 3), (128, 4)):
        clock.now = now
        assert asked(catalog, flow_id(7)).type == "AGENTFLOW"
        assert wait_for(lambda: not catalog._unlisted._is_probing, 5)
        assert len(flowise.configs) == calls
    flowise.config_error, clock.now = ModelNotFound("gone"), 134
    assert wait_for(lambda: catalog.by_flow(flow_id(7)) is None, 5)
    assert wait_for(lambda: not catalog._unlisted._is_probing, 5)
    assert catalog.by_flow(flow_id(7)) is None
    assert len(flowise.configs) == 5


def test_a_bug_in_reading_a_flow_is_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    clock, flowise = Clock(), Flowise()
    catalog = Catalog(flowise, 60, clock)
    settled(catalog, flowise, 1)
    flowise.config_error = ZeroDivisionError()
    assert catalog.by_flow(flow_id(7)) is None
    assert wait_for(lambda: "could not be read" in caplog.text, 5)
    flowise.config_error, clock.now = None, 6
    assert asked(catalog, flow_id(7)).flow == flow_id(7)


def test_unlisted_flows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowise_gateway.flowise.catalog.MAX_UNLISTED", 2)
    monkeypatch.setattr("flowise_gateway.flowise.catalog.MAX_WAITING", 3)
    flowise = Flowise()
    catalog = Catalog(flowise, 60, Clock())
    settled(catalog, flowise, 1)
    for number in range(1, 5):
        asked(catalog, flow_id(number))
    assert wait_for(lambda: not catalog._unlisted._is_probing, 5)
    assert len(catalog._unlisted._known) == 2
    for number in range(100, 200):
        catalog.by_flow(flow_id(number))
        assert len(catalog._unlisted._waiting) <= 3


def test_names_work_from_what_was_saved_while_flowise_is_down() -> None:
    clock, flowise, kept = Clock(), Flowise(row(1, "old"), row(2, "b", [])), list[bytes]()
    catalog = Catalog(flowise, 60, clock, save=kept.append)
    settled(catalog, flowise, 1)
    assert wait_for(lambda: len(kept) == 1, 5)
    clock.now = 61
    settled(catalog, flowise, 2)
    flowise.rows, clock.now = [row(1, "new"), row(2, "b", [])], 122
    settled(catalog, flowise, 3)
    assert wait_for(lambda: len(kept) == 2, 5), "saved when something changed, and only then"
    down = Flowise()
    down.gate.clear()
    restarted = Catalog(down, saved=lambda: kept[-1])
    assert restarted.profiles() == catalog.profiles()
    for slug in ("old", "new"):
        named = restarted.find(slug)
        assert named is not None
        assert (named.flow, named.streams) == (flow_id(1), True)
    down.error = FlowiseUnavailable("gone")
    down.gate.set()
    assert wait_for(lambda: restarted.failure() is down.error, 5)
    assert [profile.slug for profile in restarted.profiles()] == ["b", "new"]


def test_a_flow_that_changed_meanwhile_is_asked_again_after_a_start() -> None:
    clock, flowise, kept = Clock(), Flowise(row(1, "a")), list[bytes]()
    catalog = Catalog(flowise, 60, clock, save=kept.append)
    settled(catalog, flowise, 1)
    flowise.rows, flowise.probe_error, clock.now = [row(1, "b", updatedDate="2")], ModelNotFound("odd"), 61
    settled(catalog, flowise, 2)
    assert wait_for(lambda: len(kept) == 2, 5)
    flowise.probe_error, flowise.probed = None, []
    restarted = Catalog(flowise, saved=lambda: kept[-1])
    assert restarted.profiles()[0].streams is True
    assert wait_for(lambda: flowise.probed == [flow_id(1)], 5)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"{}", b'{"fields":[]}', b'{"fields":["flow"],"flows":[5]}']
)
def test_a_saved_listing_that_is_none_is_no_listing(content: bytes | None) -> None:
    assert [p.slug for p in Catalog(Flowise(row(1, "a")), saved=lambda: content).profiles()] == ["a"]


def test_a_store_that_fails_costs_no_listing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: bytes) -> bytes:
        raise OSError("disk")

    def save(content: bytes) -> None:
        fail(content)

    catalog = Catalog(Flowise(row(1, "a")), saved=fail, save=save)
    assert [profile.slug for profile in catalog.profiles()] == ["a"]
    assert wait_for(lambda: "could not be saved" in caplog.text, 5)
    assert catalog.failure() is None
