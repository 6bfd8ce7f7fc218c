"""A new user's first minute: `python -m benchmarks.new_user [run|install ...]`, printed; 1 for one too long.

From an empty folder to the first streamed text on the page, in a Chromium without a window:

- `run`: a fresh clone, `make run` on a terminal, the address that it prints opened, a flow asked;
- `install`: a fresh clone, `pip install .` into an empty environment, `flowise-gateway serve`, the same.

Packages come from the index that pip is set up with, without pip's cache. Needs Chromium and Playwright
(`make browser` installs them).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.browser.browsing import chromium
from tests.support.processes import clean_environment, free_port

PROJECT = Path(__file__).resolve().parents[1]
MAX_SECONDS = 60
START_SECONDS = 600
ADDRESS = re.compile(r"http://localhost:\d+")
PYTHON = getattr(sys, "_base_executable", sys.executable)

WAYS = {
    "run": "make run",
    "install": f"{PYTHON} -m venv own && own/bin/pip install -q ./clone && own/bin/flowise-gateway serve",
}
"""What is typed, in the clone for `run`, beside it for `install`."""


@contextlib.contextmanager
def on_a_terminal(command: str, folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """Run a command as a person does; gives the terminal's other end, and ends the command by Ctrl-C."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield ours
    finally:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(OSError):
            while os.read(ours, 65536):
                pass
        process.wait(timeout=60)
        os.close(ours)


def printed_address(terminal: int) -> str:
    """Read the terminal until it shows where to open the gateway."""
    shown, deadline = "", time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            shown += os.read(terminal, 65536).decode(errors="replace")
        except OSError:
            break
        if found := ADDRESS.search(shown):
            return found[0]
    raise RuntimeError(f"no address was printed:\n{shown[-3000:]}")


def first_text(page: Any, address: str) -> str:
    """Open the page, ask the first flow, and wait for the beginning of its answer."""
    page.goto(f"{address}/#/try")
    page.get_by_label("Model").select_option("demo-assistant")
    page.get_by_label("Message", exact=True).fill("What can you do?")
    page.get_by_label("Message", exact=True).press("Enter")
    answer = page.locator(".answer .markdown", has_text=re.compile(r"\S"))
    answer.wait_for()
    return str(answer.inner_text())


def processor_seconds() -> float:
    """The processor time of all ended children: near the figure of a machine with nothing else to do."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tried(way: str, browser: Any, folder: Path) -> float:
    """Seconds from the first command to the first text."""
    port = free_port()
    index = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    own = {"PORT": str(port), "PIP_NO_CACHE_DIR": "1", "TERM": "xterm"}
    environment = clean_environment(folder, **index, **own)
    began, used = time.monotonic(), processor_seconds()
    subprocess.run(["git", "clone", "--quiet", PROJECT, folder / "clone"], check=True)
    place = folder / "clone" if way == "run" else folder
    with on_a_terminal(WAYS[way], place, environment) as terminal:
        address = printed_address(terminal)
        printed = time.monotonic() - began
        page = browser.new_page()
        page.set_default_timeout(30_000)
        text = first_text(page, address)
        took = time.monotonic() - began
        page.close()
    used = processor_seconds() - used
    print(f"{way:8} address after {printed:.1f} s, first text after {took:.1f} s ({text[:20]!r} …), ", end="")
    print(f"{used:.1f} s of processor time", flush=True)
    return took


def main() -> int:
    """Try each way once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("ways", nargs="*", metavar="way", help=" or ".join(WAYS))
    ways = parser.parse_args().ways or [*WAYS]
    with chromium() as browser:
        times = []
        for way in ways:
            with tempfile.TemporaryDirectory(prefix="new-user-") as folder:
                times.append(tried(way, browser, Path(folder)))
    print(f"on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; the target is {MAX_SECONDS} s")
    return int(max(times) > MAX_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
