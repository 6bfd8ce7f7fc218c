"""Around the application when served: that others get their turn."""

from __future__ import annotations

import gevent
from gevent import socket

from proxy_edge import take_turn

SENT_AT = 20


def test_work_that_is_there_lets_the_loop_look_at_its_sockets_and_takes_turns() -> None:
    ours, theirs = socket.socketpair()
    turns: list[int] = []
    seen: list[int] = []

    def ready_one(number: int) -> None:
        while not seen and len(turns) < 1000:
            turns.append(number)
            if len(turns) == SENT_AT:
                theirs.send(b"x")
            take_turn()

    def waiting_one() -> None:
        ours.recv(1)
        seen.append(len(turns))

    with ours, theirs:
        waiting = gevent.spawn(waiting_one)
        for number in range(8):
            gevent.spawn(ready_one, number)
        waiting.join(10)
    assert seen
    # Not after fifty turns, nor after one of each of those whose work is there.
    assert seen[0] - SENT_AT <= 3
    assert set(turns) == set(range(8))
