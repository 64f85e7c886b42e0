"""The output folder: held by one run at a time, its files replaced as a whole."""

import contextlib
import csv
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

NETWORKS = ("trained.keras", "defended.keras")
STATE, HISTORY, RESULTS = "state.npz", "history.csv", "results.json"
ACCURACY, ROBUSTNESS = "accuracy.png", "robustness.json"

_locks = []


def hold(folder: Path) -> None:
    """Make an output folder and hold it until `release`, or raise a ValueError.

    A database's lock does it: every system has one, and it ends with its process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
        lock = sqlite3.connect(folder / ".lock", timeout=0, isolation_level=None)
        _locks.append(lock)
        lock.execute("BEGIN EXCLUSIVE")
    except (OSError, sqlite3.Error) as error:
        is_held = "locked" in str(error)
        why = "another run writes to it at the moment" if is_held else error
        raise ValueError(f"{folder} must be a folder to write to: {why}") from error


def release() -> None:
    """Release the folders that are held."""
    while _locks:
        _locks.pop().close()


def write_json(path: Path, results: dict) -> None:
    """Write a JSON file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")


def write_table(path: Path, rows: list[dict]) -> None:
    """Write a CSV file; where a row lacks a column it stays empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` as a whole when it is written."""
    temporary = path.with_name(f".partial-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # on the disk before it gets the name
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
