"""Installs the client libraries under test into a cache folder, once per set of pinned versions."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.live.flowise_install import find_node

HERE = Path(__file__).resolve().parent
# Each folder is an environment of its own: what LibreChat and LlamaIndex need is not what the others need.
# LibreChat's library loads only with versions of its day: the overrides of its package.json hold them.
ENVIRONMENTS = (".", "librechat", "llama_index")
RECIPE = tuple(
    path.relative_to(HERE)
    for environment in ENVIRONMENTS
    for name in ("package.json", "package-lock.json", "requirements.txt")
    if (path := HERE / environment / name).is_file()
)
PYTHONS = {"langchain_client.py": "venv", "llama_index_client.py": "llama_index/venv"}
# `npm ci` takes the lock as it is; no install script is needed, and one of LibreChat's reports the install.
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--prefer-offline")
STEP_SECONDS = 10 * 60
MARKER = "complete"


@dataclass(frozen=True, slots=True)
class Clients:
    """A folder with the libraries and the scripts that use them."""

    folder: Path
    node: Path

    def command(self, script: str) -> list[str]:
        """Runs a script with the interpreter and the libraries it is for."""
        program = self.node if script.endswith(".mjs") else self.folder / PYTHONS[script] / "bin/python"
        return [str(program), str(self.folder / script)]


def install() -> Clients:
    """The installed libraries; installs them first when the folder of these versions is not whole."""
    cache = _cache()
    folder = cache / f"clients-{_recipe_hash()}"
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        node = find_node(cache)
        if not (folder / MARKER).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            _build(folder, node.bin_dir)
        # Modules are looked for beside the script, so the scripts go where the modules are.
        for script in (
            *(script for environment in ENVIRONMENTS for script in (HERE / environment).glob("*.mjs")),
            HERE / "asking.py",
            *map(HERE.joinpath, PYTHONS),
        ):
            shutil.copy(script, folder / script.relative_to(HERE))
    return Clients(folder, node.program)


def install_librechat_config() -> list[str]:
    """The command that reads a configuration as LibreChat does; its library is small and has a folder of its own."""
    source = HERE / "librechat_config"
    lock_text = (source / "package-lock.json").read_bytes()
    folder = _cache() / f"librechat-config-{hashlib.sha256(lock_text).hexdigest()[:12]}"
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        node = find_node(folder.parent)
        if not (folder / MARKER).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            _step([str(node.bin_dir / "npm"), *NPM_CI], folder, node.bin_dir)
            (folder / MARKER).touch()
        shutil.copy(source / "check.mjs", folder)
    return [str(node.program), str(folder / "check.mjs")]


def _cache() -> Path:
    cache = (
        Path(os.environ.get("CLIENTS_CACHE") or HERE.parents[1] / ".cache/clients").expanduser().absolute()
    )
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _recipe_hash() -> str:
    parts = [(HERE / name).read_bytes() for name in RECIPE]
    return hashlib.sha256(b"\0".join([*parts, sys.version.encode()])).hexdigest()[:12]


def _build(folder: Path, node_bin: Path) -> None:
    """Fills the folder from nothing; the marker comes last, so a half-done folder is never used."""
    for path in RECIPE:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / path, folder / path)
    for path in RECIPE:
        place = folder / path.parent
        if path.name == "package-lock.json":
            _step([str(node_bin / "npm"), *NPM_CI], place, node_bin)
        elif path.name == "requirements.txt":
            _step([sys.executable, "-m", "venv", "venv"], place, node_bin)
            _step(["venv/bin/pip", "install", "--quiet", "-r", path.name], place, node_bin)
    (folder / MARKER).touch()


def _step(command: Sequence[str], folder: Path, node_bin: Path) -> None:
    """Runs one command; its output is in the error if it fails."""
    path = os.pathsep.join((str(node_bin), os.environ.get("PATH", os.defpath)))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:2])} failed:\n{(done.stdout + done.stderr)[-3000:]}")
