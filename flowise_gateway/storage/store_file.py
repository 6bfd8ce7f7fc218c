"""The file of a SQLite store: permissions and backup."""

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
    """The file in PROXY_STORE, if it is one."""
    return Path(address.removeprefix(SQLITE)) if address.startswith(SQLITE) else None


def open_to_others(path: Path) -> str:
    """The mode of a file if other users of the machine have access, such as `644`; otherwise empty."""
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(path.stat().st_mode)
        return f"{mode:o}" if mode & _OTHERS else ""
    return ""


def back_up(source: Path, target: Path) -> int:
    """Copy the store's file while servers use it; returns the number of entries in the copy.

    The copy is a single file, a consistent snapshot that only its owner may read. Raises StoreError,
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
            # In one step: a copy in several steps restarts whenever a server writes in between.
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # otherwise the copy would need a log file
            if copy.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise StoreError(f"the copy of {source} is incomplete: the file is damaged")
            return int(copy.execute("SELECT count(*) FROM entries").fetchone()[0])
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"{source} could not be copied: {error}") from error
        raise
