"""Installs Haystack, and the JavaScript clients of the tests, into a cache folder, once per set of pinned versions.

`python -m tests.pipelines.environment` prints the interpreter that has Haystack and what serving needs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path

from tests.clients.environments import run_step
from tests.live.flowise_install import find_node

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
SERVING = PROJECT / "requirements-serve.txt"
RECIPE = (SERVING, HERE / "requirements.txt", HERE / "package.json", HERE / "package-lock.json")
MARKER = "complete"


def install() -> Path:
    """The folder with `venv` and `node_modules`; installs them first when it is not whole."""
    cache = Path(os.environ.get("CLIENTS_CACHE") or PROJECT / ".cache/clients").expanduser().absolute()
    cache.mkdir(parents=True, exist_ok=True)
    parts = [file.read_bytes() for file in RECIPE]
    name = f"pipelines-{hashlib.sha256(b''.join([*parts, sys.version.encode()])).hexdigest()[:12]}"
    folder = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / MARKER).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for file in RECIPE:
                shutil.copy(file, folder)
            run_step([sys.executable, "-m", "venv", "venv"], folder)
            pip = ["venv/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
            run_step([*pip, "-r", SERVING.name], folder)
            run_step([*pip, "--no-deps", "-r", "requirements.txt"], folder)
            npm = str(node(cache).with_name("npm"))
            npm_ci = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"]
            run_step(npm_ci, folder, Path(npm).parent)
            (folder / MARKER).touch()
    return folder


def node(cache: Path) -> Path:
    """The program `node`, beside which `npm` stands."""
    return find_node(cache).bin_dir / "node"


def python() -> str:
    """The interpreter with Haystack."""
    return os.environ.get("PIPELINES_PYTHON") or str(install() / "venv/bin/python")


if __name__ == "__main__":
    sys.stdout.write(python() + "\n")
