"""Asks /health twenty times a second until its standard input ends, then prints the times: a program."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

INTERVAL_SECONDS = 0.05


def main(url: str) -> None:
    """Print the milliseconds of the answers, and how many asked in vain."""
    address, ended = urlsplit(url), threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    times: list[float] = []
    failures = 0
    while not ended.wait(INTERVAL_SECONDS):
        began = time.monotonic()
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        try:
            connection.request("GET", "/health")
            failures += connection.getresponse().status != 200
            times.append((time.monotonic() - began) * 1000)
        except (OSError, http.client.HTTPException):
            failures += 1
        finally:
            connection.close()
    sys.stdout.write(json.dumps({"ms": times, "failures": failures}))


if __name__ == "__main__":
    main(sys.argv[1])
