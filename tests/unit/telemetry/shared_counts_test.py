"""The rows of a worker, and how workers show them to each other."""

from __future__ import annotations

import mmap

import pytest

from flowise_gateway.telemetry.shared_counts import HALF_BYTES, Board, Rows, add_up

ROWS: Rows = {("requests_total", "a", "/v1/models"): [3], ("lag",): [1, 0, 0.25]}


def taken(board: Board, slot: int) -> Board:
    """The board as the process of this slot has it after the fork."""
    board.take(set(range(slot)))
    assert board.slot == slot
    return board


def test_a_worker_takes_the_first_slot_that_no_other_one_has() -> None:
    board = Board(3)
    assert [board.take({None, 0, 2}), board.take(set()), board.take({0, 1, 2})] == [1, 0, None]


def test_workers_see_what_the_others_show_but_not_their_own() -> None:
    board = taken(Board(3), 1)
    board.show(ROWS)
    assert [rows for rows, _ in board.others()] == [{}, {}]
    assert list(taken(board, 0).others()) == [(ROWS, True), ({}, False)]


def test_what_an_ended_worker_counted_stays_and_its_successor_counts_on() -> None:
    board = taken(Board(2), 1)
    board.show(ROWS)
    board.leave(1)
    board.leave(None)
    assert list(taken(board, 0).others()) == [(ROWS, False)]
    assert taken(board, 1).own() == ROWS
    board.show(ROWS)
    assert list(taken(board, 0).others()) == [(ROWS, True)]


def test_a_process_without_a_slot_shows_nothing_and_sees_all() -> None:
    board = taken(Board(1), 0)
    board.show(ROWS)
    board.take({0})
    board.show({("other",): [1]})
    assert board.own() == {}
    assert list(board.others()) == [(ROWS, True)]


@pytest.mark.parametrize("times", [1, 2, 255, 256, 257])
def test_what_is_shown_last_is_seen_however_often_it_was_shown(times: int) -> None:
    board = taken(Board(1), 0)
    for number in range(times):
        board.show({("n" * (number % 7),): [number]})
    assert board.own() == {("n" * ((times - 1) % 7),): [times - 1]}


def test_a_worker_that_is_killed_while_it_writes_loses_no_more_than_that() -> None:
    board = taken(Board(1), 0)
    board.show(ROWS)
    # The first shows are those of halves 1, 0, 1 …: what is half written is the other half, not yet valid.
    start = mmap.PAGESIZE
    board._memory[start : start + 9] = b"\xff\xff\xff\xff[[[[["
    assert board.own() == ROWS


def test_rows_beyond_the_room_of_a_slot_are_not_shown() -> None:
    board = taken(Board(1), 0)
    board.show(ROWS)
    board.show({("x" * HALF_BYTES,): [1]})
    assert board.own() == ROWS


def test_rows_are_added_number_by_number_and_left_as_they_were() -> None:
    first: Rows = {("a",): [1], ("h",): [1, 2]}
    total: Rows = {}
    second: Rows = {("h",): [10, 20], ("b",): [5]}
    for rows in (first, second):
        add_up(total, rows.items())
    assert total == {("a",): [1], ("h",): [11, 22], ("b",): [5]}
    assert first == {("a",): [1], ("h",): [1, 2]}
