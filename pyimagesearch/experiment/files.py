"""Files that are written as a whole: at no moment is one torn."""

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path


def write_json(path: Path, results: dict) -> None:
    """Write a JSON file."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(results, file, indent=2, allow_nan=False)
        file.write("\n")


def write_table(path: Path, rows: list[dict]) -> None:
    """Write a CSV file; where a row lacks a column it stays empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> list[dict]:
    """Return the rows of a CSV file."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


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
