"""A script's run: its figures, and with `--output` a state from which it goes on."""

import hashlib
import json
import platform
import sys
import time
from argparse import Namespace
from pathlib import Path

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.experiment.data import Split
from pyimagesearch.experiment.folder import (
    HISTORY,
    RESULTS,
    STATE,
    replacing,
    write_json,
    write_table,
)
from pyimagesearch.training.epochs import RepeatableEpochs
from pyimagesearch.training.robust import WatchRobustness

_PHASES = ("training", "fine-tuning")
# Options that make no difference to a run's figures, or count by their content.
_FREE = ("output", "force", "quiet", "verbose", "data", "model")


class Run(keras.callbacks.Callback):
    """A script's run, as a callback of each of its trainings.

    `figures` are the losses and accuracies that were printed, by what they are of;
    `history` has a dictionary an epoch.
    """

    def __init__(self, options: Namespace, *data: Split):
        """Read the state in the folder `options.output` if there is one, or raise.

        With `options.force` a state that does not fit is replaced.
        """
        super().__init__()
        self.options, self.history, self.figures = options, [], {}
        self.checksum = checksum(*data)
        self._arrays, self._started = {}, time.perf_counter()
        self._settings, self._versions = _settings(options, self.checksum), _versions()
        if options.output and (options.output / STATE).exists():
            try:
                self._read(options.output / STATE)
            except ValueError:
                if not options.force:
                    raise

    def _read(self, path):
        arrays, now = {}, self._settings | self._versions
        try:
            with np.load(path, allow_pickle=False) as archive:
                meta = json.loads(archive["meta"].item())
                for name in sorted(set(archive.files) - {"meta"}):
                    arrays.setdefault(name[:-6], []).append(archive[name])
            was, history, seconds = meta["settings"], meta["history"], meta["seconds"]
            last = history[-1]
        except Exception as error:  # zip, JSON and NumPy raise a dozen kinds
            reason = checks.one_line(error)
            raise ValueError(f"{path} cannot be read: {reason}") from error
        different = [
            f"{k} {was.get(k)}, not {v}" for k, v in now.items() if was.get(k) != v
        ]
        if different:
            differences = "; ".join(different)
            raise ValueError(f"{path.parent} holds an interrupted run: {differences}")
        self._arrays, self.history = arrays, history
        self._started -= seconds
        print(f"[INFO] going on after epoch {last['epoch']} of {last['phase']}")

    def resume(
        self, phase: str, model: keras.Model, watch: WatchRobustness | None = None
    ) -> tuple[np.random.Generator, dict]:
        """Bring a compiled model, and what watches it, to where they were in a phase.

        Returns the generator for what the epochs draw, and arguments of `fit`.
        """
        rows = [row for row in self.history if row["phase"] == phase]
        self._phase, self._watch, done = phase, watch, len(rows)
        if done:
            model.set_weights(self._arrays[phase])
        if done and self.history[-1]["phase"] == phase:
            model.optimizer.build(model.trainable_variables)
            variables = model.optimizer.variables
            for pair in zip(variables, self._arrays["optimizer"], strict=True):
                pair[0].assign(pair[1])
        seed = self.options.seed, _PHASES.index(phase)
        epochs = RepeatableEpochs(*seed, initial_epoch=done)
        callbacks = [epochs, keras.callbacks.TerminateOnNaN()]
        if watch:
            watch.accuracies = [row["robust_accuracy"] for row in rows]
            watch.best_weights = self._arrays.get("best", [])
            callbacks.append(watch)
        return epochs.rng, {
            "initial_epoch": done,
            "callbacks": [*callbacks, self],
            "shuffle": False,  # the data are
            "validation_batch_size": 512,
            "verbose": self.options.verbose,
        }

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Note when the epoch began."""
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Save the model, its optimizer and the history."""
        if not np.isfinite(logs["loss"]):
            what = f"the loss in epoch {epoch + 1} of {self._phase} is {logs['loss']}"
            raise FloatingPointError(f"{what}: training has diverged")
        seconds = time.perf_counter() - self._begun
        row = {"phase": self._phase, "epoch": epoch + 1, "seconds": seconds}
        self.history.append(row | logs)
        if not self.options.output:
            return
        optimizer = [variable.numpy() for variable in self.model.optimizer.variables]
        self._arrays |= {self._phase: self.model.get_weights(), "optimizer": optimizer}
        if self._watch:
            self._arrays["best"] = self._watch.best_weights
        named = {
            # NumPy's files know no bfloat16.
            f"{kind}_{i:05}": array.astype("f4") if array.dtype.kind == "V" else array
            for kind, arrays in self._arrays.items()
            for i, array in enumerate(arrays)
        }
        meta = {"settings": self._settings | self._versions, "history": self.history}
        meta["seconds"] = time.perf_counter() - self._started
        with replacing(self.options.output / STATE) as path:
            np.savez(path, meta=json.dumps(meta), **named)
        (self.options.output / RESULTS).unlink(missing_ok=True)  # from before --force
        write_table(self.options.output / HISTORY, self.history)

    def finish(self, **more: object) -> None:
        """Save the results and more of them; the run needs no state from then on."""
        # It lacks a row if the run was killed just before.
        write_table(self.options.output / HISTORY, self.history)
        seconds = {"run": time.perf_counter() - self._started}
        for row in self.history:
            seconds[row["phase"]] = seconds.get(row["phase"], 0) + row["seconds"]
        paths = {f"--{name}": getattr(self.options, name) for name in ("data", "model")}
        results = {"settings": paths | self._settings, "versions": self._versions}
        results |= {"seconds": seconds, "figures": self.figures, **more}
        write_json(self.options.output / RESULTS, results)
        (self.options.output / STATE).unlink(missing_ok=True)


def checksum(*data: Split) -> str:
    """Return the SHA-256 of images and labels as they were loaded."""
    digest = hashlib.sha256()
    for array in (array for split in data for array in split):
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array))  # without a copy of all the images
    return digest.hexdigest()


def _settings(options, data_checksum):
    """Return what decides a run's figures; files and data by their checksums."""
    settings = {"script": Path(sys.argv[0]).name, "data sha256": data_checksum}
    for name, value in vars(options).items():
        if name not in _FREE:
            settings[f"--{name.replace('_', '-')}"] = value
    if options.model:
        digest = hashlib.sha256(Path(options.model).read_bytes())
        settings["model sha256"] = digest.hexdigest()
    return settings


def _versions():
    """Return the versions that decide them, too, and Keras's number formats."""
    packages = ("tensorflow", "keras", "numpy")
    versions = {package: sys.modules[package].__version__ for package in packages}
    versions |= {"python": platform.python_version(), "floatx": keras.config.floatx()}
    return versions | {"dtype policy": keras.config.dtype_policy().name}
