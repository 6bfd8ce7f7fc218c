"""Starts the demo Flowise and starts it again, at the same port, when it was killed. Demo.

The arguments are those of `python -m flowise_demo`, `--exit-with-stdin` among them. It is a process of its
own, since gunicorn's master, patched by gevent, cannot start any.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from types import FrameType
from urllib.parse import urlsplit

PAUSE_SECONDS = 0.2


def main() -> int:
    """Keep the demo running until it ends by itself, with our standard input, or we are told to end."""
    arguments = sys.argv[1:]
    demo = _started(arguments)

    def end(_number: int, _frame: FrameType | None) -> None:
        demo.terminate()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    line = demo.stdout.readline() if demo.stdout else b""
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
    if line:
        arguments = [*arguments, "--port", str(urlsplit(json.loads(line)["base_url"]).port)]
    while line and demo.wait():
        time.sleep(PAUSE_SECONDS)
        demo = _started(arguments)
    return demo.wait()


def _started(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-P", "-m", "flowise_demo", *arguments], stdout=subprocess.PIPE)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
