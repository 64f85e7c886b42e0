"""The run folder: a state from which a killed run goes on, and the run's results.

Every file is written under a temporary name and then renamed, so that none is ever half
there, whenever the run is killed.
"""

import contextlib
import csv
import hashlib
import json
import os
import platform
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyimagesearch import checks
from pyimagesearch.datasets import Split

if TYPE_CHECKING:
    import keras

NETWORKS = ("trained.keras", "defended.keras")
STATE, HISTORY, RESULTS = "state.npz", "history.csv", "results.json"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at once when it is written."""
    temporary = path.with_name(f".partial-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # on the disk before it gets the name
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Run:
    """A script's run, and in its folder what it has done by the end of an epoch.

    Attributes:
        options: The script's options.
        history: A dictionary an epoch: `phase`, `epoch` from 1 on, `seconds`, and what
            Keras logged.
        figures: The losses and accuracies that were printed, by what they are of.
    """

    def __init__(self, options: Namespace, data: tuple[Split, Split]):
        """Read the state in the folder `options.output` if there is one.

        Args:
            options: The script's options. With `force` a finished run is replaced, and
                one of other options; without `output` nothing is written.
            data: Training and test data.

        Raises:
            ValueError: If the state cannot be read or is that of other options.
        """
        self.options, self.history, self.figures = options, [], {}
        self._folder, self._arrays, seconds = options.output, {}, 0.0
        if not self._folder:
            return
        self._path = self._folder / STATE
        self._settings, self._versions = _settings(options, data), _versions()
        if self._path.exists():
            try:
                self._arrays, self.history, seconds = self._read()
            except ValueError:
                if not options.force:
                    raise
        self._started = time.perf_counter() - seconds

    def _read(self):
        try:
            arrays = {}
            with (
                self._path.open("rb") as file,
                np.load(file, allow_pickle=False) as archive,
            ):
                meta = json.loads(archive["meta"].item())
                for name in sorted(set(archive.files) - {"meta"}):
                    kind, _, _ = name.rpartition("_")
                    arrays.setdefault(kind, []).append(archive[name])
            wanted = self._settings | self._versions
            different = [
                f"{name} {meta['settings'].get(name)}, not {value}"
                for name, value in wanted.items()
                if meta["settings"].get(name) != value
            ]
            history, seconds = list(meta["history"]), float(meta["seconds"])
        except Exception as error:  # zip, JSON and NumPy raise a dozen kinds
            reason = checks.one_line(error)
            raise ValueError(f"{self._path} cannot be read: {reason}") from error
        if different:
            was = "; ".join(different)
            raise ValueError(f"{self._folder} holds an interrupted run with {was}")
        return arrays, history, seconds

    def restore(self, model: "keras.Model", phase: str) -> int:
        """Bring a compiled model to where it was in `phase`; return the epochs done."""
        done = sum(row["phase"] == phase for row in self.history)
        if done:
            model.set_weights(self._arrays[phase])
        if done and self.history[-1]["phase"] == phase:
            model.optimizer.build(model.trainable_variables)
            variables = model.optimizer.variables
            for variable, array in zip(
                variables, self._arrays["optimizer"], strict=True
            ):
                variable.assign(array)
        return done

    def save(self, model: "keras.Model", epoch: dict) -> None:
        """Save the model, its optimizer and the history at the end of an epoch.

        Args:
            model: The compiled model.
            epoch: The epoch's row of the history.
        """
        if not self._folder:
            return
        self.history.append(epoch)
        optimizer = [variable.numpy() for variable in model.optimizer.variables]
        self._arrays |= {epoch["phase"]: model.get_weights(), "optimizer": optimizer}
        named = {
            # NumPy's files know no bfloat16.
            f"{kind}_{i:05}": array.astype("f4") if array.dtype.kind == "V" else array
            for kind, arrays in self._arrays.items()
            for i, array in enumerate(arrays)
        }
        meta = {
            "settings": self._settings | self._versions,
            "history": self.history,
            "seconds": time.perf_counter() - self._started,
        }
        with replacing(self._path) as path:
            np.savez(path, meta=json.dumps(meta), **named)
        (self._folder / RESULTS).unlink(missing_ok=True)  # of a run before --force
        self._write_history()

    def finish(self) -> None:
        """Save the results; the run needs no state from then on."""
        self._write_history()  # which lacks a row if the run was killed just before
        seconds = Counter(run=time.perf_counter() - self._started)
        for row in self.history:
            seconds[row["phase"]] += row["seconds"]
        results = {
            "settings": self._settings,
            "versions": self._versions,
            "seconds": seconds,
            "figures": self.figures,
        }
        with replacing(self._folder / RESULTS) as path:
            path.write_text(json.dumps(results, indent=2) + "\n")
        self._path.unlink(missing_ok=True)

    def _write_history(self):
        names = dict.fromkeys(name for row in self.history for name in row)
        with replacing(self._folder / HISTORY) as path, path.open("w") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)


def _settings(options, data):
    """Return what decides a run's figures; files and data by their checksums."""
    free = ("output", "force", "quiet", "verbose")
    settings = {"script": Path(sys.argv[0]).name}
    for name, value in vars(options).items():
        if name not in free:
            settings[f"--{name.replace('_', '-')}"] = value
    digest = hashlib.sha256()
    for array in (*data[0], *data[1]):
        digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    settings["--data sha256"] = digest.hexdigest()
    if options.model:
        digest = hashlib.sha256(Path(options.model).read_bytes())
        settings["--model sha256"] = digest.hexdigest()
    return settings


def _versions():
    """Return the versions that decide them, too."""
    packages = ("tensorflow", "keras", "numpy")
    versions = {package: sys.modules[package].__version__ for package in packages}
    return {"python": platform.python_version(), **versions}
