"""The output folder: held by one run at a time, its files replaced as a whole."""

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

NETWORKS = ("trained.keras", "defended.keras")
STATE, HISTORY, RESULTS = "state.npz", "history.csv", "results.json"
ACCURACY, ROBUSTNESS = "accuracy.png", "robustness.json"


def hold(folder: Path) -> object:
    """Make an output folder and hold it, or raise a ValueError.

    A database's lock does it: it needs no clean-up after a run that was killed, and
    every system has it.

    Returns:
        What holds the folder as long as it exists.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"must be a folder to write to: {error}") from error
    lock = sqlite3.connect(folder / ".lock", timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        is_held = "locked" in str(error)
        why = "another run writes to it at the moment" if is_held else error
        raise ValueError(f"{folder} cannot be used: {why}") from error
    return lock


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at once when it is written.

    So no file is ever half there, whenever the run is killed.
    """
    temporary = path.with_name(f".partial-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # on the disk before it gets the name
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
