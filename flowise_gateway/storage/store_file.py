"""The file of a SQLite store, as its operator sees it: who may read it, and a copy of it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

from flowise_gateway.storage.protocol import StoreError

SQLITE = "sqlite:///"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def store_file(address: str) -> Path | None:
    """The file that PROXY_STORE names, if it names one."""
    return Path(address.removeprefix(SQLITE)) if address.startswith(SQLITE) else None


def open_to_others(path: Path) -> str:
    """The mode of a file that other users of the machine may use, such as `644`; empty for none."""
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(path.stat().st_mode)
        return f"{mode:o}" if mode & _OTHERS else ""
    return ""


def back_up(source: Path, target: Path) -> int:
    """Copy the store's file into a new one while servers use it; how many entries the copy has.

    The copy is one file, as the store was at one moment, which its owner alone may read. Raises StoreError,
    FileExistsError for a target that exists, OSError for one that cannot be written.
    """
    if not source.is_file():
        raise StoreError(f"there is no store to copy at {source}: PROXY_STORE names its file")
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(source)) as live,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            # In one step: a copy in several begins anew whenever a server has written in between.
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # else the copy would need a log file beside it
            if copy.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise StoreError(f"the copy of {source} is incomplete: the file is damaged")
            return int(copy.execute("SELECT count(*) FROM entries").fetchone()[0])
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"{source} could not be copied: {error}") from error
        raise
