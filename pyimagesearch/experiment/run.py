"""A script's run: its figures, and with `--output` the folder that keeps it."""

import json
import math
import platform
import sys
import time
from argparse import Namespace

import keras
import numpy as np

from pyimagesearch.experiment import files
from pyimagesearch.experiment.console import fail, script_name
from pyimagesearch.experiment.data import Data, Split
from pyimagesearch.experiment.defence import check_defence
from pyimagesearch.experiment.options import DEFENDED, TRAINED
from pyimagesearch.experiment.pictures import save_pictures
from pyimagesearch.experiment.published import compare_with_published

_HISTORY = "history.csv"
_RESULTS = "results.json"
_FILES = (_RESULTS, TRAINED, DEFENDED, _HISTORY, "accuracy.png")

# Options that make no difference to a run's figures.
_FREE = ("output", "force", "quiet", "verbose")


class Run:
    """A run of a command, which goes on if it was killed before.

    Its `trained_network` is the path of the network to start from: what this command
    has trained before it was killed, or `--model`; or None.
    """

    def __init__(self, options: Namespace, data: Data):
        """Begin, or fail if the output folder holds another command's run."""
        self._started = time.perf_counter()
        self.options = options
        self.figures = {}  # losses and accuracies, by what they are of
        self.history = []  # a dictionary an epoch
        self.trained_network = options.model
        versions = {"python": platform.python_version()}
        for name in ("tensorflow", "keras", "numpy"):
            versions[name] = sys.modules[name].__version__
        self._command = {"settings": _settings(options, data), "versions": versions}
        images, _ = data.train
        if "batch_size" in options and options.batch_size > len(images):
            wanted = f"at most {len(images)}, the training images"
            fail(f"--batch-size must be {wanted}, got {options.batch_size}")
        if options.output:
            self._open_folder(options.output)

    def _open_folder(self, folder):
        try:
            results = json.loads((folder / _RESULTS).read_text(encoding="utf-8"))
            is_own = self._command.items() <= results.items()
        except (OSError, ValueError, AttributeError):
            is_own = False
        if is_own and (folder / TRAINED).exists():
            self.trained_network = str(folder / TRAINED)
            history = files.read_table(folder / _HISTORY)
            self.history = [row for row in history if row["phase"] == "training"]
            print(f"[INFO] going on from {self.trained_network}")
        if is_own or self.options.force:
            return
        for name in _FILES:
            if (folder / name).exists():
                fail(
                    f"--output: {folder} holds another run's {name}: give its command, "
                    "another folder, or --force to replace it"
                )

    def phase(self, name: str) -> keras.callbacks.Callback:
        """Return a callback that seeds dropout anew, and records a phase's epochs."""
        return _Phase(name, self.options.seed, self.history)

    def save_trained(self, model: keras.Model) -> None:
        """Save the trained network; from now on the command can go on from it."""
        folder = self.options.output
        if folder is None or self.trained_network == str(folder / TRAINED):
            return
        # Another run's networks go before they could seem to be this one's.
        (folder / TRAINED).unlink(missing_ok=True)
        (folder / DEFENDED).unlink(missing_ok=True)
        files.write_json(folder / _RESULTS, self._command)
        files.write_table(folder / _HISTORY, self.history)
        with files.replacing(folder / TRAINED) as path:
            model.save(path)

    def show(self, what: str, loss: float, accuracy: float) -> None:
        """Print a loss and an accuracy in the tutorials' words, and keep them."""
        _check_finite(loss, f"on {what}")
        self.figures[what] = {"loss": loss, "accuracy": accuracy}
        print(f"[INFO] {what}:\n[INFO] loss: {loss:.4f}, acc: {accuracy:.4f}\n")

    def finish(self, model: keras.Model, test: Split) -> None:
        """Say what the defence is worth; save networks, results and pictures."""
        check_defence(model, test, self)
        published = compare_with_published(self._command["settings"], self.figures)
        folder = self.options.output
        if folder is None:
            return
        with files.replacing(folder / DEFENDED) as path:
            model.save(path)
        files.write_table(folder / _HISTORY, self.history)
        seconds = {"run": time.perf_counter() - self._started}
        for row in self.history:
            phase = row["phase"]
            seconds[phase] = seconds.get(phase, 0) + float(row["seconds"])
        results = {"seconds": seconds, "figures": self.figures, "published": published}
        files.write_json(folder / _RESULTS, self._command | results)
        trained = keras.saving.load_model(folder / TRAINED, compile=False)
        models = {"trained": trained, "defended": model}
        save_pictures(folder, models, test, self.options.eps)


class _Phase(keras.callbacks.Callback):
    """Seeds the random layers, records each epoch's time and figures, stops at NaN."""

    def __init__(self, name, seed, history):
        super().__init__()
        self._name = name
        self._seed = seed
        self._history = history

    def on_train_begin(self, logs=None):
        # A saved network does not keep the random state of dropout and its kin.
        rng = np.random.default_rng(self._seed)
        weights = {id(weight) for weight in self.model.weights}
        for variable in self.model.variables:
            if id(variable) not in weights:  # so it is a layer's random state
                variable.assign(rng.integers(2**31, size=2))

    def on_epoch_begin(self, epoch, logs=None):
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        _check_finite(logs["loss"], f"in epoch {epoch + 1} of {self._name}")
        seconds = time.perf_counter() - self._begun
        row = {"phase": self._name, "epoch": epoch + 1, "seconds": seconds}
        self._history.append(row | logs)


def _check_finite(loss, where):
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss {where} is {loss}: training has diverged")


def _settings(options, data):
    """Return what decides a run's figures."""
    given = vars(options) | {"data": data.name}
    if "fine_tune_epochs" in given:
        given["epochs"] = options.epochs or data.epochs
        given["fine_tune_epochs"] = options.fine_tune_epochs or data.fine_tune_epochs
    settings = {"script": script_name()}
    for key, value in given.items():
        if key not in _FREE:
            settings[f"--{key.replace('_', '-')}"] = value
    return settings
