"""Installs Haystack, and the JavaScript clients of the tests, into a cache folder, once per set of pinned versions.

`python -m tests.pipelines.environment` prints the interpreter that has Haystack and what serving needs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.live.flowise_install import find_node

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
SERVING = PROJECT / "requirements-serve.txt"
RECIPE = (SERVING, HERE / "requirements.txt", HERE / "package.json", HERE / "package-lock.json")
STEP_SECONDS = 15 * 60
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
            _step([sys.executable, "-m", "venv", "venv"], folder)
            pip = ["venv/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
            _step([*pip, "-r", SERVING.name], folder)
            _step([*pip, "--no-deps", "-r", "requirements.txt"], folder)
            npm = str(node(cache).with_name("npm"))
            _step([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"], folder)
            (folder / MARKER).touch()
    return folder


def node(cache: Path) -> Path:
    """The program `node`, beside which `npm` stands."""
    return find_node(cache).bin_dir / "node"


def python() -> str:
    """The interpreter with Haystack."""
    return os.environ.get("PIPELINES_PYTHON") or str(install() / "venv/bin/python")


def _step(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:2])} failed:\n{(done.stdout + done.stderr)[-3000:]}")


if __name__ == "__main__":
    sys.stdout.write(python() + "\n")
