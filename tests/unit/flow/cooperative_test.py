"""Long work in turns: others run in between, and what is packed in slices is what it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from flowise_gateway.flow.cooperative import (
    LONG_TEXT,
    SLICE_SECONDS,
    compressed,
    decompressed,
    slices,
    yield_between,
)

IN_A_LOOP = """
from gevent import monkey
monkey.patch_all()
import socket, threading
from flowise_gateway.flow.cooperative import yield_now

SENT_AT = 20
ours, theirs = socket.socketpair()
turns, seen = [], []

def ready_one(number):
    while not seen and len(turns) < 1000:
        turns.append(number)
        if len(turns) == SENT_AT:
            theirs.send(b"x")
        yield_now()

def waiting_one():
    ours.recv(1)
    seen.append(len(turns))

waiting = threading.Thread(target=waiting_one)
waiting.start()
for number in range(8):
    threading.Thread(target=ready_one, args=(number,)).start()
waiting.join(10)
# Not after fifty turns, nor after one of each of those whose work is there.
assert seen and seen[0] - SENT_AT <= 3, seen
assert set(turns) == set(range(8)), turns
"""


def test_work_that_is_there_lets_the_loop_look_at_its_sockets_and_takes_turns() -> None:
    # In a process of its own: threads are patched before anything else is imported, as when serving.
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_LOOP],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When others had their turn."""
    taken: list[float] = []
    sleep = time.sleep

    def asleep(seconds: float) -> None:
        taken.append(time.monotonic())
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", asleep)
    return taken


def test_items_are_given_with_a_turn_of_others_after_each_few_milliseconds(turns: list[float]) -> None:
    for _ in yield_between(range(10)):
        end = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < end:
            pass
    assert len(turns) == 9
    assert list(yield_between("abc")) == ["a", "b", "c"]
    assert list(yield_between([])) == []
    assert len(turns) == 9


@pytest.mark.parametrize("text", ["", "abc", "abcdefgh", "abcdefghi"])
def test_slices_are_the_whole(turns: list[float], text: str) -> None:
    parts = list(slices(text, 4))
    assert "".join(parts) == text
    assert [len(part) for part in parts[:-1]] == [4] * len(parts[:-1])
    assert len(turns) == max(0, len(parts) - 1)
    assert b"".join(slices(text.encode(), 4)) == text.encode()


@pytest.mark.parametrize("size", [0, 1, 1000, 2 * LONG_TEXT, 3 * LONG_TEXT + 1])
@pytest.mark.parametrize("level", [1, 6])
def test_what_was_packed_is_what_it_was(size: int, level: int) -> None:
    raw = os.urandom(size // 2) + b"x" * (size - size // 2)
    packed = compressed(raw, level)
    assert zlib.decompress(packed) == raw
    assert decompressed(packed) == raw
    assert decompressed(zlib.compress(raw), size) == raw


def test_what_is_too_large_or_cut_off_is_not_unpacked(turns: list[float]) -> None:
    packed = zlib.compress(b"x" * 10 * LONG_TEXT)
    with pytest.raises(zlib.error):
        decompressed(packed, 3 * LONG_TEXT)
    assert len(turns) == 3
    for broken in (packed[:-1], packed[:20], b"", b"no zlib"):
        with pytest.raises(zlib.error):
            decompressed(broken)
