"""Who used what: what counts, how it is summed up and shown, and that its size is bounded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.request_summary import RequestSummary, TokenCount
from flowise_gateway.storage.counts import MemoryCounts
from flowise_gateway.telemetry.usage import MAX_USERS, OTHER, Usage
from flowise_gateway.telemetry.usage_report import UsageReport
from tests.support.processes import wait_for

NOON = 1_795_867_200.0  # 2026-11-28T12:00:00Z
DAY = 86_400


def finished(
    caller: str = "sales", user: str = "", model: str = "support", runs: int = 1, **more: object
) -> RequestSummary:
    """A request that has ended."""
    now = time.monotonic()
    summary = RequestSummary(caller=caller, user_hash=user, model=model, outcome="ok", started=now, ended=now)
    summary.chat_ids = tuple(f"chat-{n}" for n in range(runs))
    summary.tokens = TokenCount(10, 3, "reported")
    for name, value in more.items():
        setattr(summary, name, value)
    return summary


def report(counts: MemoryCounts, now: float = NOON, user: str = "", **asked: str) -> list[tuple[object, ...]]:
    """The rows of a report, as tuples."""
    asked = {name.rstrip("_"): text for name, text in asked.items()}
    made = UsageReport(asked, now)
    return [tuple(row.values()) for row in made.rows(counts.read(made.first, made.last), user)]


def test_requests_and_tokens_are_summed_up_by_what_is_asked_for() -> None:
    counts, now = MemoryCounts(), NOON
    usage = Usage(counts, 400, lambda: now)
    usage.add(finished(user="u1"))
    usage.add(finished(user="u2", model='a"b'))
    usage.add(finished(caller="hr", runs=2))
    now += DAY
    usage.add(finished(user="u1"))
    usage.write()
    assert report(counts, now) == [("2026-11-28", 4, 30, 9), ("2026-11-29", 1, 10, 3)]
    assert report(counts, now, by="model,key") == [
        ("hr", "support", 2, 10, 3),
        ("sales", 'a"b', 1, 10, 3),
        ("sales", "support", 2, 20, 6),
    ]
    assert report(counts, now, by="user", from_="2026-11-29", to="2026-11-29") == [("u1", 1, 10, 3)]
    assert report(counts, now, by="day,user", user="u1") == [
        ("2026-11-28", "u1", 1, 10, 3),
        ("2026-11-29", "u1", 1, 10, 3),
    ]
    assert report(counts, now + 29 * DAY) == [("2026-11-29", 1, 10, 3)], "the last thirty days"


@pytest.mark.parametrize(
    ("outcome", "tokens", "runs"),
    [
        ("ok", TokenCount(1, 1, "reported"), 1),
        ("flow_failed", TokenCount(1, 1, "estimated"), 1),
        ("client_gone", None, 1),  # its run has begun
        ("cancelled", None, 1),
        ("flowise_unavailable", None, 0),
        ("rate_limit_exceeded", None, 0),
    ],
)
def test_what_an_error_prevented_costs_nothing(outcome: str, tokens: TokenCount | None, runs: int) -> None:
    assert finished(outcome=outcome, tokens=tokens).runs == runs
    assert finished(outcome=outcome, tokens=tokens, chat_ids=()).runs == 0
    counts = MemoryCounts()
    usage = Usage(counts, 400, lambda: NOON)
    usage.add(finished(outcome=outcome, tokens=tokens))
    usage.write()
    assert len(report(counts)) == runs


def test_a_request_belongs_to_the_day_on_which_it_began() -> None:
    counts = MemoryCounts()
    usage = Usage(counts, 400, lambda: NOON)
    usage.add(finished(started=time.monotonic() - DAY, ended=time.monotonic()))
    usage.write()
    assert report(counts) == [("2026-11-27", 1, 10, 3)]


def test_users_that_a_client_makes_up_take_bounded_room() -> None:
    counts, now = MemoryCounts(), NOON
    usage = Usage(counts, 400, lambda: now)
    for number in range(MAX_USERS + 50):
        usage.add(finished(user=f"{number:016x}"))
    usage.add(finished(user=f"{0:016x}"))
    usage.add(finished(caller="hr", user="own"))
    usage.write()
    rows = {row[0]: row[1] for row in report(counts, by="user")}
    assert len(rows) == MAX_USERS + 2
    assert (rows[OTHER], rows[f"{0:016x}"], rows["own"]) == (50, 2, 1)
    now += DAY
    usage.add(finished(user="new"))
    usage.write()
    assert ("new", 1, 10, 3) in report(counts, now, by="user")


class Noting(MemoryCounts):
    """Numbers that tell what was forgotten."""

    forgotten = ""

    def forget_before(self, day: str) -> None:
        super().forget_before(day)
        self.forgotten = day


def test_all_is_written_in_the_background_and_old_days_are_forgotten() -> None:
    counts = Noting()
    counts.add("2026-01-01", {"x": 1})
    Usage(counts, 30, lambda: NOON).add(finished())
    deadline = time.monotonic() + 30
    while not (report(counts) and counts.forgotten):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert counts.forgotten == "2026-10-29"
    assert not list(counts.read("2026-01-01", "2026-01-01"))


def test_a_failure_to_write_is_not_the_end_of_writing(caplog: pytest.LogCaptureFixture) -> None:
    class FailingOnce(MemoryCounts):
        has_failed = False

        def add(self, day: str, amounts: Mapping[str, int]) -> None:
            if not self.has_failed:
                self.has_failed = True
                raise OverflowError
            super().add(day, amounts)

    counts = FailingOnce()
    usage = Usage(counts, 30, lambda: NOON)
    usage.add(finished())
    assert wait_for(lambda: counts.has_failed, 30)
    usage.add(finished())
    assert wait_for(lambda: bool(report(counts)), 30)
    assert "usage was not written" in caplog.text


def test_budgets_of_days_that_are_over_are_forgotten_also_where_no_usage_is_kept() -> None:
    counts = Noting()
    counts.add("2026-11-27", {"requests of user|sales|made up": 1})
    usage = Usage(counts, 0, lambda: NOON)
    usage.add(finished())
    deadline = time.monotonic() + 30
    while not counts.forgotten:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    usage.write()
    assert not list(counts.read("2026-11-01", "2026-12-31"))


def test_a_report_as_json_and_as_csv() -> None:
    counts = MemoryCounts()
    usage = Usage(counts, 400, lambda: NOON)
    usage.add(finished(model='a,"b'))
    usage.write()
    counts.add("2026-11-28", {"requests of sales": 5})  # a budget's number is no usage
    made = UsageReport({"by": "model, day"}, NOON)
    rows = made.rows(counts.read(made.first, made.last))
    assert made.body(rows) == {
        "object": "list",
        "from": "2026-10-30",
        "to": "2026-11-28",
        "by": ("day", "model"),
        "data": [
            {"day": "2026-11-28", "model": 'a,"b', "requests": 1, "input_tokens": 10, "output_tokens": 3}
        ],
    }
    assert made.csv(rows) == (
        'day,model,requests,input_tokens,output_tokens\r\n2026-11-28,"a,""b",1,10,3\r\n'
    )


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"from": "28.11.2026"}, "from"),
        ({"from": "2026-02-30"}, "from"),
        ({"from": "2026-2-3"}, "from"),
        ({"to": "x" * 100_000}, "to"),
        ({"to": "0001-01-15"}, "to"),  # thirty days before it there is no day
        ({"from": "2026-11-29", "to": "2026-11-28"}, "from"),
        ({"from": "1026-11-29", "to": "2026-11-28"}, "from"),
        ({"by": "hour"}, "by"),
    ],
)
def test_a_report_that_cannot_be_made_names_its_parameter(asked: Mapping[str, str], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        UsageReport(asked, NOON)
    assert caught.value.param == param
    assert len(caught.value.message) < 200


def test_many_numbers_are_summed_up() -> None:
    def endless() -> Iterator[tuple[str, str, int]]:
        for number in range(20_000):
            yield "2026-11-28", f'["usage","k","{number % 50}","m","requests"]', 1

    rows = UsageReport({"by": "user"}, NOON).rows(endless())
    assert [row["requests"] for row in rows] == [400] * 50
