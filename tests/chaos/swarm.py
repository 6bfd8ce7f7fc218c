"""Opens many connections that each do little, slowly, and prints how many the server closed: a program."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

AT_ONCE = 50


def main(path: str) -> None:
    """Play what the file describes, and print what became of the connections."""
    plan: dict[str, Any] = json.loads(Path(path).read_text())
    address = urlsplit(plan["url"])
    opening, piece = plan["opening"].encode("latin-1"), plan["piece"].encode("latin-1")
    began = time.monotonic()
    due: dict[socket.socket, float] = {}
    closed, last = 0, 0.0
    with selectors.DefaultSelector() as ready:
        while time.monotonic() < began + plan["is_closed_within"] and closed < plan["count"]:
            for _ in range(min(AT_ONCE, plan["count"] - len(due) - closed)):
                connection = _connected(address.hostname, address.port, opening)
                if plan["upgraded"]:
                    connection.recv(1000)
                    connection.sendall(plan["upgraded"].encode("latin-1"))
                connection.setblocking(False)
                ready.register(connection, selectors.EVENT_READ)
                due[connection] = time.monotonic()
            readable: list[Any] = [key.fileobj for key, _ in ready.select(0.02)]
            gone = {each for each in readable if _is_closed(each, reads=plan["reads"])}
            now = time.monotonic()
            for sending in [each for each, when in due.items() if piece and now >= when and each not in gone]:
                due[sending] = now + plan["pause_seconds"]
                try:
                    sending.send(piece)
                except BlockingIOError:
                    continue
                except OSError:
                    gone.add(sending)
            for each in gone:
                ready.unregister(each)
                each.close()
                del due[each]
                closed += 1
                last = time.monotonic() - began
        if not plan[
            "reads"
        ]:  # What the server has cut is seen by reading, which the swarm does not do before.
            for connection in due:
                closed += _was_cut(connection)
                last = time.monotonic() - began
    sys.stdout.write(json.dumps({"closed": closed, "seconds": last}))


def _connected(host: str | None, port: int | None, opening: bytes) -> socket.socket:
    connection = socket.socket()
    # A small window: what nobody reads waits in the server's buffers, not in those of this system.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect((host or "", port or 0))
    connection.sendall(opening)
    return connection


def _is_closed(connection: Any, *, reads: bool) -> bool:
    if not reads:
        return False
    try:
        return not connection.recv(65_536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _was_cut(connection: socket.socket) -> bool:
    """Read to the end; whether it ended without the stream's own end."""
    connection.settimeout(5)
    tail = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(262_144):
            tail = (tail + data)[-200:]
    return b"[DONE]" not in tail


if __name__ == "__main__":
    main(sys.argv[1])
