"""What the Python scripts share: `SCRIPT BASE_URL CASES` prints one JSON line for each case."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]


def asks(ask: Callable[[str, Json], Json]) -> None:
    """Asks each case in turn."""
    base_url, cases = sys.argv[1:]
    for case in json.loads(cases):
        try:
            answer = ask(base_url, case)
        except Exception:  # noqa: BLE001 - any failure of the client is the finding
            answer = {"error": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
