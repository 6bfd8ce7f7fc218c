"""Runs a program's text as a user would who has copied it, in the environment of its client."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.clients.environments import HERE, install
from tests.support.processes import clean_environment

PROGRAM_SECONDS = 120


def run_program(text: str, environment: str | None, folder: Path) -> str:
    """What the program prints; it must end well. Without an environment it is the shell's."""
    interpreter, ending = "sh", "sh"
    if environment is not None:
        installed = install(environment)
        interpreter, ending = str(installed.program), "py" if installed.is_python else "mjs"
        modules = folder / "node_modules"
        if not installed.is_python and not modules.exists():
            modules.symlink_to(installed.folder / "node_modules")
    program = folder / f"program.{ending}"
    program.write_text(text)
    done = subprocess.run(
        [interpreter, str(program)],
        cwd=folder,
        env=clean_environment(folder),
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def agent_settings(language: str, base_url: str) -> str:
    """What the page of the coding agents shows in a language, for this gateway."""
    page = (HERE.parents[1] / "docs/coding-agents.md").read_text()
    [text] = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert "http://localhost:8000/v1" in text
    return str(text).replace("http://localhost:8000", base_url)


def run_agent(command: Sequence[str], folder: Path, **variables: str) -> str:
    """What an agent's command prints; it must end well."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(folder, NO_PROXY="127.0.0.1,localhost", **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
