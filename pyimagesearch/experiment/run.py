"""A script's run: what it has done so far, and its results.

With `--output` the folder holds a state from which a killed run goes on.
"""

import csv
import hashlib
import json
import platform
import sys
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.experiment.data import Split
from pyimagesearch.experiment.folder import HISTORY, RESULTS, STATE, replacing
from pyimagesearch.training.epochs import RepeatableEpochs

_PHASES = ("training", "fine-tuning")
# Options that make no difference to a run's figures, or count by their content.
_FREE = ("output", "force", "quiet", "verbose", "lock", "data", "model")


class Phase(NamedTuple):
    """What `model.fit` takes to go on where a phase of the run stands.

    Attributes:
        rng: The NumPy generator for what the epochs draw.
        settings: Arguments of `fit`: `initial_epoch`, how many epochs are done already;
            `callbacks`, which seed, save and stop the epochs; and how `fit` shows and
            validates them.
    """

    rng: np.random.Generator
    settings: dict[str, object]


class Run:
    """A script's run, and in its folder what it has done by the end of an epoch.

    Attributes:
        options: The script's options.
        history: A dictionary an epoch: `phase`, `epoch` from 1 on, `seconds`, and what
            Keras logged.
        figures: The losses and accuracies that were printed, by what they are of.
        published: The tutorial's, where they can be compared.
    """

    def __init__(self, options: Namespace, *data: Split):
        """Read the state in the folder `options.output` if there is one.

        Args:
            options: The script's options. With `force` a finished run is replaced, and
                one of other options; without `output` nothing is written.
            *data: Training and test data.

        Raises:
            ValueError: If the state cannot be read or is that of other options.
        """
        self.options, self.history, self.figures = options, [], {}
        self.published, self._arrays, self._before = {}, {}, 0.0
        self._started = time.perf_counter()
        if not options.output:
            return
        self._settings, self._versions = _settings(options, data), _versions()
        if (options.output / STATE).exists():
            try:
                self._read(options.output / STATE)
            except ValueError:
                if not options.force:
                    raise

    def _read(self, path):
        try:
            arrays = {}
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                meta = json.loads(archive["meta"].item())
                for name in sorted(set(archive.files) - {"meta"}):
                    kind, _, _ = name.rpartition("_")
                    arrays.setdefault(kind, []).append(archive[name])
            different = [
                f"{name} {meta['settings'].get(name)}, not {value}"
                for name, value in (self._settings | self._versions).items()
                if meta["settings"].get(name) != value
            ]
            history, seconds = list(meta["history"]), float(meta["seconds"])
        except Exception as error:  # zip, JSON and NumPy raise a dozen kinds
            reason = checks.one_line(error)
            raise ValueError(f"{path} cannot be read: {reason}") from error
        if different:
            was = "; ".join(different)
            raise ValueError(f"{path.parent} holds an interrupted run with {was}")
        self._arrays, self.history, self._before = arrays, history, seconds
        last = history[-1]
        print(f"[INFO] going on after epoch {last['epoch']} of {last['phase']}")

    def resume(self, phase: str, model: keras.Model) -> Phase:
        """Bring a compiled model to where it was in a phase; return what `fit` takes.

        Args:
            phase: "training" or "fine-tuning"; each has its own randomness.
            model: The model, whose weights are replaced if some epochs are done.
        """
        done = sum(row["phase"] == phase for row in self.history)
        if done:
            model.set_weights(self._arrays[phase])
        if done and self.history[-1]["phase"] == phase:
            model.optimizer.build(model.trainable_variables)
            saved = zip(
                model.optimizer.variables, self._arrays["optimizer"], strict=True
            )
            for variable, array in saved:
                variable.assign(array)
        seed = self.options.seed, _PHASES.index(phase)
        epochs = RepeatableEpochs(*seed, initial_epoch=done)
        stop = keras.callbacks.TerminateOnNaN()
        settings = {
            "initial_epoch": done,
            "callbacks": [epochs, stop, _Record(self, phase)],
            "shuffle": False,  # the data are
            "validation_batch_size": 512,
            "verbose": self.options.verbose,
        }
        return Phase(epochs.rng, settings)

    def save(self, model: keras.Model, epoch: dict) -> None:
        """Add an epoch to the history; save the model, its optimizer and the history.

        Args:
            model: The compiled model.
            epoch: The epoch's row of the history.
        """
        self.history.append(epoch)
        if not self.options.output:
            return
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
            "seconds": self._seconds(),
        }
        with replacing(self.options.output / STATE) as path:
            np.savez(path, meta=json.dumps(meta), **named)
        (self.options.output / RESULTS).unlink(missing_ok=True)  # from before --force
        self._write_history()

    def finish(self) -> None:
        """Save the results; the run needs no state from then on."""
        self._write_history()  # which lacks a row if the run was killed just before
        seconds = Counter(run=self._seconds())
        for row in self.history:
            seconds[row["phase"]] += row["seconds"]
        data, model = self.options.data, self.options.model
        results = {
            "settings": {"--data": data, "--model": model, **self._settings},
            "versions": self._versions,
            "seconds": seconds,
            "figures": self.figures,
            "published": self.published,
        }
        with replacing(self.options.output / RESULTS) as path:
            path.write_text(json.dumps(results, indent=2) + "\n")
        (self.options.output / STATE).unlink(missing_ok=True)

    def _seconds(self):
        return self._before + time.perf_counter() - self._started

    def _write_history(self):
        names = dict.fromkeys(name for row in self.history for name in row)
        path = self.options.output / HISTORY
        with replacing(path) as temporary, temporary.open("w") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)


class _Record(keras.callbacks.Callback):
    """Saves the run at the end of an epoch, unless its training has diverged."""

    def __init__(self, run, phase):
        super().__init__()
        self.run, self.phase = run, phase

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite(logs["loss"]):
            what = f"the loss in epoch {epoch + 1} of {self.phase} is {logs['loss']}"
            raise FloatingPointError(f"{what}: training has diverged")
        seconds = time.perf_counter() - self.started
        row = {"phase": self.phase, "epoch": epoch + 1, "seconds": seconds}
        self.run.save(self.model, row | logs)


def _settings(options, data):
    """Return what decides a run's figures; files and data by their checksums."""
    settings = {"script": Path(sys.argv[0]).name}
    for name, value in vars(options).items():
        if name not in _FREE:
            settings[f"--{name.replace('_', '-')}"] = value
    settings["data sha256"] = data_checksum(*data)
    if options.model:
        digest = hashlib.sha256(Path(options.model).read_bytes())
        settings["model sha256"] = digest.hexdigest()
    return settings


def data_checksum(train: Split, test: Split) -> str:
    """Return the SHA-256 of images and labels as they were loaded."""
    digest = hashlib.sha256()
    for array in (*train, *test):
        digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def _versions():
    """Return the versions that decide them, too, and Keras's number formats."""
    packages = ("tensorflow", "keras", "numpy")
    versions = {package: sys.modules[package].__version__ for package in packages}
    versions |= {"python": platform.python_version(), "floatx": keras.config.floatx()}
    return versions | {"dtype policy": keras.config.dtype_policy().name}
