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

from pyimagesearch.core.checks import one_line
from pyimagesearch.experiment import folder
from pyimagesearch.experiment.console import fail
from pyimagesearch.experiment.data import Split
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
        """Begin, or go on from the state that a killed run left in `options.output`."""
        super().__init__()
        self.options, self.history, self.figures = options, [], {}
        self.checksum, self._started = checksum(*data), time.perf_counter()
        self._settings, self._versions = _settings(options, self.checksum), _versions()
        self._arrays = {}  # by "phase/number"
        if options.output and (options.output / folder.STATE).exists():
            self._go_on()

    def _go_on(self):
        now = self._settings | self._versions
        try:
            path = self.options.output / folder.STATE
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            meta = json.loads(arrays.pop("meta").item())
            was, history, seconds = meta["decides"], meta["history"], meta["seconds"]
            last = "epoch {epoch} of {phase}".format(**history[-1])
            problems = [
                f"{k} {was.get(k)}, not {v}" for k, v in now.items() if was.get(k) != v
            ]
        except Exception as error:  # zip, JSON and NumPy raise a dozen kinds
            problems = [f"{folder.STATE} cannot be read: {one_line(error)}"]
        if not problems:
            self._arrays, self.history = arrays, history
            self._started -= seconds
            print(f"[INFO] going on after {last}")
        elif not self.options.force:
            what = f"holds an interrupted run: {'; '.join(problems)}"
            how = "give its options, another folder, or --force to replace it"
            fail(f"--output: {self.options.output} {what}; {how}")

    def resume(
        self, phase: str, model: keras.Model, watch: WatchRobustness | None = None
    ) -> tuple[np.random.Generator, dict]:
        """Bring a compiled model, and what watches it, to where they were in a phase.

        Returns the generator for what the epochs draw, and arguments of `fit`.
        """
        rows = [row for row in self.history if row["phase"] == phase]
        self._phase, self._watch, done = phase, watch, len(rows)
        if done:
            model.optimizer.build(model.trainable_variables)
            kept = zip(_variables(model), self._kept(phase), strict=True)
            for variable, array in kept:
                variable.assign(array)
        seed = self.options.seed, _PHASES.index(phase)
        epochs = RepeatableEpochs(*seed, initial_epoch=done)
        callbacks = [epochs, keras.callbacks.TerminateOnNaN()]
        if watch:
            watch.accuracies = [row["robust_accuracy"] for row in rows]
            watch.best_weights = self._kept("best")
            callbacks.append(watch)
        return epochs.rng, {
            "initial_epoch": done,
            "callbacks": [*callbacks, self],
            "shuffle": False,  # the data are
            "validation_batch_size": 512,
            "verbose": self.options.verbose,
        }

    def _keep(self, kind, arrays):
        for i, array in enumerate(arrays):
            is_bfloat16 = array.dtype.kind == "V"  # which NumPy's files lack
            array = array.astype("float32") if is_bfloat16 else array
            self._arrays[f"{kind}/{i}"] = array

    def _kept(self, kind):
        return [a for name, a in self._arrays.items() if name.startswith(kind)]

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
        self._keep(self._phase, [value.numpy() for value in _variables(self.model)])
        if self._watch:
            self._keep("best", self._watch.best_weights)
        meta = {"decides": self._settings | self._versions, "history": self.history}
        meta["seconds"] = time.perf_counter() - self._started
        with folder.replacing(self.options.output / folder.STATE) as path:
            np.savez(path, meta=json.dumps(meta), **self._arrays)
        # It may be there from before --force.
        (self.options.output / folder.RESULTS).unlink(missing_ok=True)
        folder.write_table(self.options.output / folder.HISTORY, self.history)

    def finish(self, **more: object) -> None:
        """Save the results and more of them; the run needs no state from then on."""
        # It lacks a row if the run was killed just before.
        folder.write_table(self.options.output / folder.HISTORY, self.history)
        seconds = {"run": time.perf_counter() - self._started}
        for row in self.history:
            seconds[row["phase"]] = seconds.get(row["phase"], 0) + row["seconds"]
        paths = {f"--{name}": getattr(self.options, name) for name in ("data", "model")}
        results = {"settings": paths | self._settings, "versions": self._versions}
        results |= {"seconds": seconds, "figures": self.figures, **more}
        folder.write_json(self.options.output / folder.RESULTS, results)
        (self.options.output / folder.STATE).unlink(missing_ok=True)


def checksum(*data: Split) -> str:
    """Return the SHA-256 of images and labels as they were loaded."""
    digest = hashlib.sha256()
    for array in (array for split in data for array in split):
        digest.update(f"{array.shape} {array.dtype}".encode())
        for start in range(0, len(array), 1000):  # without a copy of all the images
            digest.update(np.ascontiguousarray(array[start : start + 1000]))
    return digest.hexdigest()


def _variables(model):
    return [*model.weights, *model.optimizer.variables]


def _settings(options, data_checksum):
    """Return what decides a run's figures; files and data by their checksums."""
    settings = {"script": Path(sys.argv[0]).name, "data sha256": data_checksum}
    if options.model:
        digest = hashlib.sha256(Path(options.model).read_bytes())
        settings["model sha256"] = digest.hexdigest()
    given = {k: v for k, v in vars(options).items() if k not in _FREE}
    return settings | {f"--{k.replace('_', '-')}": v for k, v in given.items()}


def _versions():
    """Return the versions that decide them, too, and Keras's number formats."""
    names = "tensorflow", "keras", "numpy"
    return {name: sys.modules[name].__version__ for name in names} | {
        "python": platform.python_version(),
        "floatx": keras.config.floatx(),
        "dtype policy": keras.config.dtype_policy().name,
    }
