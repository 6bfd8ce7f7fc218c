"""aider, as its command line starts it: a coder for each case, which is told one message after the other."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any

from asking import Json, answer_cases, converse  # type: ignore[import-not-found]

# Both libraries load a list of prices from the internet when they are imported, unless they find one.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # type: ignore[import-not-found]

CACHE = Path.home() / ".aider/caches/model_prices_and_context_window.json"
CACHE.parent.mkdir(parents=True, exist_ok=True)
shutil.copy(Path(litellm.__file__).with_name("model_prices_and_context_window_backup.json"), CACHE)

from aider.main import main  # type: ignore[import-not-found]  # noqa: E402

OPTIONS = (
    *("--no-git", "--yes-always", "--no-pretty", "--no-check-update", "--no-analytics", "--no-gitignore"),
    "--no-show-model-warnings",
    "--no-show-release-notes",
    "--no-detect-urls",
    "--no-suggest-shell-commands",
    "--no-auto-lint",
)
THOUGHTS = re.compile(r"-+\s*► \*\*THINKING\*\*(.*?)-+\s*► \*\*ANSWER\*\*", re.DOTALL)
TOKENS = re.compile(r"Tokens: (\S+) sent, (\S+) received")


class Printed(io.StringIO):
    """What aider prints, and how many pieces of it are of the answer."""

    encoding = "utf-8"

    def __init__(self, coder: Any) -> None:
        super().__init__()
        self._coder, self.pieces = coder, 0

    def write(self, text: str) -> int:
        """Take a piece."""
        self.pieces += bool(self._coder.partial_response_content)
        return super().write(text)


def ask(base_url: str, case: Json) -> Json:
    """Its answer to the last message of a case."""
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    files = [file for turn in case["turns"] for file in files_of(turn, folder)]
    files += ["greeting.py"] if case.get("tools") else []
    metadata = folder / "models.json"
    capabilities = {
        "supports_vision": True,
        "supports_pdf_input": True,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    metadata.write_text(json.dumps({f"openai/{case['model']}": capabilities}))
    options = [f"--model=openai/{case['model']}", f"--weak-model=openai/{case['model']}"]
    options += [
        f"--edit-format={'whole' if case.get('tools') else 'ask'}",
        "--stream" if case["stream"] else "--no-stream",
    ]
    options += [
        f"--model-metadata-file={metadata}",
        f"--openai-api-base={base_url}/v1",
        "--openai-api-key=any",
    ]
    options = [*OPTIONS, *options, *files]
    if "stopAfter" in case:
        return stopped([*options, f"--message={case['turns'][0]['text']}"], case["stopAfter"])
    with contextlib.chdir(folder):
        coder = main(options, return_coder=True)

        def turn(history: list[Any], asked: Json) -> Json:
            printed, error = Printed(coder), io.StringIO()
            coder.partial_response_content = ""
            coder.io.tool_error = lambda text="", **_: error.write(f"{text}\n")
            with contextlib.redirect_stdout(printed):
                coder.run(with_message=asked["text"])
            history.append(asked)
            shown, text = printed.getvalue(), coder.partial_response_content
            thoughts, tokens = THOUGHTS.search(shown), TOKENS.search(shown)
            answer: Json = {
                "text": text,
                "pieces": printed.pieces,
                "reasoning": thoughts[1] if thoughts else "",
                "usage": [thousands(number) for number in tokens.groups()] if tokens else None,
            }
            return answer | {"error": error.getvalue()} if error.getvalue() else answer

        answer = converse(case, turn)
    written = folder / "greeting.py"
    return {**answer, "file": written.read_text() if written.exists() else None}


def stopped(options: list[str], pieces: int) -> Json:
    """What the command has printed of the answer when Ctrl-C is pressed after so many words of it."""
    command = [sys.executable, "-u", "-m", "aider", *options]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        printed = ""
        while len(printed.partition("**ANSWER**")[2].split()) < pieces:
            piece = os.read(process.stdout.fileno(), 1000)
            assert piece, printed
            printed += piece.decode(errors="replace")
        process.send_signal(signal.SIGINT)
    return {"text": printed.partition("**ANSWER**")[2].strip()}


def thousands(number: str) -> int:
    """A number of tokens, which aider shortens."""
    return int(float(number.removesuffix("k")) * (1000 if number.endswith("k") else 1))


def files_of(turn: Json, folder: Path) -> list[str]:
    """The names of a message's files, as they are given on the command line."""
    files = {}
    if "image" in turn:
        files["image.png"] = turn["image"].split(",")[1]
    if "document" in turn:
        files[turn["document"]["name"]] = turn["document"]["data"]
    for name, data in files.items():
        (folder / name).write_bytes(b64decode(data))
    return list(files)


answer_cases(ask)
