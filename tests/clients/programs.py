"""Runs a program's text as a user would who has copied it, in the environment of its client."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.clients.environments import install
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
