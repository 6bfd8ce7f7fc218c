"""Fuzzing that looks for new ways through the code: `python -m tests.fuzz [--seconds N] [--findings FOLDER]`.

Each target runs in a process of its own (libFuzzer ends the process it runs in), begins with the samples of
`tests/wire` and what earlier runs found, and fails with the input that broke it. `tests/fuzz/found` has such
inputs of earlier runs: they are tried first, so that what was mended stays so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ("sse", "events", "tool_calls", "chat", "completion", "responses")
HERE = Path(__file__).parent
WIRE = HERE.parent / "wire"
MAX_INPUT_BYTES = 20_000


def seeds(target: str, folder: Path) -> None:
    """Write the samples that are of the target's kind."""
    endings = {"sse": ("sse",), "events": ("sse",), "tool_calls": ("sse", "json")}.get(
        target, ("json", "http")
    )
    for number, path in enumerate(sorted(WIRE.rglob("*"))):
        if path.suffix[1:] in endings and path.stat().st_size < MAX_INPUT_BYTES:
            raw = path.read_bytes()
            if target == "events":  # what comes after `data:` is its input
                raw = max(raw.split(b"data:"), key=len).split(b"\n")[0]
            elif path.suffix == ".http":
                raw = raw.partition(b"\r\n\r\n")[2] or raw.partition(b"\n\n")[2]
            (folder / f"{number}").write_bytes(b"\x07" + raw)


def fuzzed(target: str, seconds: int, findings: Path) -> bool:
    """Run one target; whether nothing broke."""
    with tempfile.TemporaryDirectory() as folder:
        seeds(target, Path(folder))
        found = HERE / "found" / target
        command = [sys.executable, "-m", "tests.fuzz.targets", target, f"-max_total_time={seconds}"]
        command += [f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={findings}/{target}-", "-timeout=30"]
        command += [folder, *([str(found)] if found.exists() else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"WRONG: {target}: {(done.stdout + done.stderr)[-3000:]}")
            return False
    runs = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
    print(f"{target}: {runs[-1] if runs else 'no count'}")
    return bool(runs)


def main() -> int:
    """Fuzz each target; 1 if anything broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="for each target")
    parser.add_argument("--findings", type=Path, default=Path("build"), help="where a breaking input is put")
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    results = [fuzzed(target, options.seconds, options.findings) for target in TARGETS]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
