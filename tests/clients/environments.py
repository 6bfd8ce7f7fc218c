"""Installs each client into an environment of its own in a cache folder, once per set of pinned versions."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.live.flowise_install import Node, find_node, wheel_node

HERE = Path(__file__).resolve().parent
# `npm ci` takes the lock as it is; no install script is needed, and one of LibreChat's reports the install.
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress")
# What has no code for each machine in its package is compiled: a script that would rather download it is not let to.
NPM_BUILD = ("rebuild", "--build-from-source")
LOCKS = ("requirements.txt", "package-lock.json", "package-lock.json.gz")
STEP_SECONDS = 30 * 60
MARKER = "complete"


@dataclass(frozen=True, slots=True)
class Environment:
    """The installed libraries of one folder of clients, and the interpreter for its scripts."""

    folder: Path
    program: Path

    @property
    def is_python(self) -> bool:
        """Whether the clients are Python's."""
        return (self.folder / "venv").is_dir()

    def version(self, package: str) -> str:
        """The version of a package that is installed here."""
        if not self.is_python:
            text = (self.folder / "node_modules" / package / "package.json").read_text()
            return str(json.loads(text)["version"])
        name = re.sub(r"[-_.]+", "[-_.]", package)
        for info in self.folder.glob("venv/lib/python*/site-packages/*.dist-info"):
            if found := re.fullmatch(rf"{name}-(.+)\.dist-info", info.name, re.IGNORECASE):
                return found[1]
        raise LookupError(f"{package} is not installed in {self.folder}")

    def script(self, source: Path, workplace: Path) -> list[str]:
        """The command that runs a script; modules of Node.js are looked for beside it, so it goes beside them."""
        if self.is_python:
            return [str(self.program), str(source)]
        beside = workplace / source.parent.name
        if not beside.exists():
            shutil.copytree(HERE / "shared", workplace / "shared", dirs_exist_ok=True)
            shutil.copytree(source.parent, beside)
            (beside / "node_modules").symlink_to(self.folder / "node_modules")
        return [str(self.program), str(beside / source.name)]


class InstallError(Exception):
    """A client's environment cannot be made."""


_RESULTS: dict[str, Environment | InstallError] = {}


def install(name: str) -> Environment:
    """The environment of a folder beside this file; what failed once in a run is not tried for each cell."""
    if name not in _RESULTS:
        try:
            _RESULTS[name] = _install(name)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            _RESULTS[name] = InstallError(f"{name} cannot be installed: {error}")
    result = _RESULTS[name]
    if isinstance(result, InstallError):
        raise result
    return result


def _install(name: str) -> Environment:
    """Installs when the folder of these versions is not whole."""
    source, cache = HERE / name, _cache()
    lock = next(path for path in (source / name for name in LOCKS) if path.exists())
    folder = cache / f"{name}-{hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]}"
    with _only_one(folder):
        node = _node(cache)
        if not (folder / MARKER).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            if lock.name == "requirements.txt":
                _install_python(lock, folder)
            else:
                _install_node(lock, folder, node)
            (folder / MARKER).touch()
    is_python = lock.name == "requirements.txt"
    return Environment(folder, folder / "venv/bin/python" if is_python else node.program)


def _node(cache: Path) -> Node:
    """The pinned Node.js of requirements-dev.txt, since some clients need a new one; else the machine's."""
    return wheel_node(cache) or find_node(cache)


def _install_python(lock: Path, folder: Path) -> None:
    """A virtual environment with what the lock names; uv links files from its cache, so that many share them."""
    uv = str(Path(sys.executable).with_name("uv"))
    run_step([uv, "venv", "--quiet", "--no-project", "--python", sys.executable, "venv"], folder)
    install_it = [uv, "pip", "install", "--quiet", "--no-deps", "--python", "venv/bin/python"]
    run_step([*install_it, "-r", str(lock)], folder)


def _install_node(lock: Path, folder: Path, node: Node) -> None:
    """The packages of the lock; those that `allowScripts` names are compiled."""
    shutil.copy(lock.with_name("package.json"), folder)
    (folder / "package-lock.json").write_bytes(lock_content(lock))
    npm = str(node.bin_dir / "npm")
    run_step([npm, *NPM_CI], folder, node.bin_dir)
    if compiled := json.loads((folder / "package.json").read_text()).get("allowScripts"):
        run_step([npm, *NPM_BUILD, *compiled], folder, node.bin_dir, npm_config_nodedir=str(node.prefix))


def lock_content(lock: Path) -> bytes:
    """A lock's text; those of whole applications are compressed."""
    content = lock.read_bytes()
    return gzip.decompress(content) if lock.suffix == ".gz" else content


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    default = HERE.parents[1] / ".cache/clients"
    cache = Path(os.environ.get("CLIENTS_CACHE") or default).expanduser().absolute()
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def run_step(command: Sequence[str], folder: Path, *programs: Path, **settings: str) -> None:
    """Runs one command, with further settings in its environment; its output is in the error if it fails."""
    path = os.pathsep.join((*map(str, programs), os.environ.get("PATH", os.defpath)))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "UV_CACHE_DIR": str(_cache() / "uv"), **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:2])} failed:\n{(done.stdout + done.stderr)[-3000:]}")
