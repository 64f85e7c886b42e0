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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyimagesearch import checks
from pyimagesearch.datasets import Split

if TYPE_CHECKING:
    import keras

_STATE, _HISTORY, _RESULTS = "state.npz", "history.csv", "results.json"


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


def check_folder(folder: Path) -> None:
    """Raise a ValueError if a run in `folder` would overwrite anything."""
    if (folder / _RESULTS).exists():
        raise ValueError(f"{folder} holds a finished run")
    if not (folder / _STATE).exists():
        for name in ("trained.keras", "defended.keras", _HISTORY):
            if (folder / name).exists():
                raise ValueError(f"{folder} holds a {name} that is not this run's")


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
        self._path = self._folder / _STATE
        self._settings = _settings(options, data)
        if options.force:
            (self._folder / _RESULTS).unlink(missing_ok=True)
        if self._path.exists():
            try:
                self._arrays, self.history, seconds = self._read()
            except ValueError:
                if not options.force:
                    raise
        self._started = time.perf_counter() - seconds

    def _read(self):
        try:
            with (
                self._path.open("rb") as file,
                np.load(file, allow_pickle=False) as archive,
            ):
                arrays = dict(archive)
            meta = json.loads(arrays.pop("meta").item())
            settings, history = meta["settings"], meta["history"]
            seconds = meta["seconds"]
        except Exception as error:  # zip, JSON and NumPy raise a dozen kinds
            reason = checks.one_line(error)
            raise ValueError(f"{self._path} cannot be read: {reason}") from error
        different = [
            f"{name} {settings.get(name)}, not {value}"
            for name, value in self._settings.items()
            if settings.get(name) != value
        ]
        if different:
            was = "; ".join(different)
            raise ValueError(f"{self._folder} holds an interrupted run with {was}")
        return arrays, history, seconds

    def restore(self, model: "keras.Model", phase: str) -> int:
        """Bring a compiled model to where it was in `phase`; return the epochs done."""
        done = sum(row["phase"] == phase for row in self.history)
        if done:
            self._assign(model.weights, f"{phase}_weight")
        if done and self.history[-1]["phase"] == phase:
            model.optimizer.build(model.trainable_variables)
            self._assign(model.optimizer.variables, "optimizer")
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
        for kind, variables in [
            (f"{epoch['phase']}_weight", model.weights),
            ("optimizer", model.optimizer.variables),
        ]:
            for name in self._names(kind):
                del self._arrays[name]
            for i, variable in enumerate(variables):
                self._arrays[f"{kind}_{i:05}"] = variable.value.numpy()
        meta = {
            "settings": self._settings,
            "history": self.history,
            "seconds": time.perf_counter() - self._started,
        }
        with replacing(self._path) as path:
            np.savez(path, meta=json.dumps(meta), **self._arrays)
        self._write_history()

    def finish(self) -> None:
        """Save the results; the run needs no state from then on."""
        self._write_history()  # which lacks a row if the run was killed just before
        seconds = {"run": time.perf_counter() - self._started}
        for row in self.history:
            phase = row["phase"]
            seconds[phase] = seconds.get(phase, 0.0) + row["seconds"]
        versions = {"python": platform.python_version()}
        for package in ("tensorflow", "keras", "numpy"):
            versions[package] = sys.modules[package].__version__
        results = {
            "settings": self._settings,
            "versions": versions,
            "seconds": seconds,
            "figures": self.figures,
        }
        with replacing(self._folder / _RESULTS) as path:
            path.write_text(json.dumps(results, indent=2) + "\n")
        self._path.unlink(missing_ok=True)

    def _write_history(self):
        names = dict.fromkeys(name for row in self.history for name in row)
        with replacing(self._folder / _HISTORY) as path, path.open("w") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)

    def _assign(self, variables, kind):
        for variable, name in zip(variables, self._names(kind), strict=True):
            variable.assign(self._arrays[name])

    def _names(self, kind):
        return sorted(name for name in self._arrays if name.startswith(f"{kind}_"))


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
    settings["--data"] = f"sha256 {digest.hexdigest()}"
    if options.model:
        digest = hashlib.sha256(Path(options.model).read_bytes())
        settings["--model"] = f"sha256 {digest.hexdigest()}"
    return settings
