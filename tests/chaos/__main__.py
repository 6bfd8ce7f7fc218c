"""The chaos suite: `python -m tests.chaos [--short] [--only R1,L4] [--table FILE]`.

Each scenario plays on a server and a misbehaving Flowise of its own and gives one row of the table. Only what
is wrong fails it (answers lost or faked, flows run twice or left behind), never a time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.report import line, page
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.world import Row, Scenario, World
from tests.support.processes import ended_in_order


def main() -> int:
    """Play, print, write the table if asked; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="small numbers, for CI: within five minutes")
    parser.add_argument("--only", default="", help="names of scenarios, with commas")
    parser.add_argument("--table", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    wanted = set(filter(None, arguments.only.split(",")))
    rows = []
    with ended_in_order(), tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), is_short=arguments.short)
        for name, scenario in SCENARIOS.items():
            if not wanted or name in wanted:
                rows.append(played(world, scenario, name))
        rows.append(world.health())
        print(line(rows[-1]), flush=True)
    if arguments.table:
        arguments.table.write_text(page(rows, is_short=arguments.short))
    return int(any(row.wrong for row in rows))


def played(world: World, scenario: Scenario, name: str) -> Row:
    """The scenario's row; one that breaks down is wrong, and the others go on."""
    began = time.monotonic()
    try:
        row: Row = asyncio.run(scenario(world))
    except Exception as error:  # noqa: BLE001 - whatever it is, the row says so
        row = Row(name, "", wrong=[f"{type(error).__name__}: {str(error)[:300]}"])
    print(line(row), f"({time.monotonic() - began:.1f} s)", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
