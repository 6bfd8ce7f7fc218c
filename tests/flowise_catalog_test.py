"""Which flows there are: how a listing stays fresh, and what is asked of single flows."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from flowise_catalog import Catalog
from proxy_errors import FlowiseUnavailable, ProxyError
from tests.flow_rows import flow_id, row
from tests.processes import wait_for


class Flowise:
    """A source whose rows and abilities the test changes."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows: list[dict[str, Any]] = list(rows)
        self.error: Exception | None = None
        self.probe_error: ProxyError | None = None
        self.listings = 0
        self.probed: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def flows(self) -> Iterable[Mapping[str, Any]]:
        """List the rows."""
        self.listings += 1
        self.gate.wait(10)
        if self.error:
            raise self.error
        return list(self.rows)

    def abilities(self, flow: str) -> tuple[bool, Mapping[str, Any]]:
        """Tell what a flow can do."""
        self.probed.append(flow)
        if self.probe_error:
            raise self.probe_error
        return True, {"isImageUploadAllowed": True, "fileUploadSizeAndTypes": []}


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


def test_a_former_name_works_until_another_flow_claims_it() -> None:
    clock, flowise = Clock(), Flowise(row(1, "old"))
    catalog = Catalog(flowise, 60, clock)
    settled(catalog, flowise, 1)
    flowise.rows, clock.now = [row(1, "new", updatedDate="2")], 61
    settled(catalog, flowise, 2)
    for slug in ("old", "new"):
        profile = catalog.by_slug(slug)
        assert profile is not None
        assert profile.flow == flow_id(1)
    flowise.rows, clock.now = [row(1, "new"), row(2, "old")], 122
    settled(catalog, flowise, 3)
    claimed = catalog.by_slug("old")
    assert claimed is not None
    assert claimed.flow == flow_id(2)
    flowise.rows, clock.now = [], 183
    settled(catalog, flowise, 4)
    assert catalog.by_slug("new") is None
    assert catalog.by_slug("never") is None


def test_former_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowise_catalog.MOST_FORMER_SLUGS", 2)
    clock, flowise = Clock(), Flowise(row(1, "name 0"))
    catalog = Catalog(flowise, 60, clock)
    for n in range(1, 6):
        settled(catalog, flowise, n)
        flowise.rows, clock.now = [row(1, f"name {n}")], n * 61
    settled(catalog, flowise, 6)
    assert [catalog.by_slug(f"name-{n}") is not None for n in range(6)] == [
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
