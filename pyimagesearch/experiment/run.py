"""A script's run: its figures, and with `--output` the folder that keeps it."""

import json
import math
import platform
import sys
import time
from argparse import Namespace
from pathlib import Path

import keras

from pyimagesearch.experiment import files
from pyimagesearch.experiment.console import fail
from pyimagesearch.experiment.data import Data, Split
from pyimagesearch.experiment.defence import check_defence
from pyimagesearch.experiment.models import seed_random_layers
from pyimagesearch.experiment.options import DEFENDED, TRAINED
from pyimagesearch.experiment.pictures import save_pictures
from pyimagesearch.experiment.published import compare_with_published

_HISTORY = "history.csv"
_RESULTS = "results.json"
_PICTURES = "accuracy.png"

# Options that make no difference to a run's figures, or are recorded in another form.
_FREE = ("output", "force", "quiet", "verbose", "data")


class Run:
    """A run of a command, which goes on if it was killed before.

    Attributes:
        options: The command's options.
        figures: The losses and accuracies that were printed, by what they are of.
        history: A dictionary an epoch.
        trained_network: The path of the network to start from: what this command has
            trained before it was killed, or `--model`; or None.
    """

    def __init__(self, options: Namespace, data: Data):
        """Begin, or fail if the output folder holds another command's run."""
        self.options = options
        self.figures = {}
        self.history = []
        self.trained_network = options.model
        self._started = time.perf_counter()
        self._command = {"settings": _settings(options, data), "versions": _versions()}
        self._goes_on = False
        count = len(data.train[0])
        if "batch_size" in options and options.batch_size > count:
            fail(
                f"--batch-size must be at most {count}, the training images, "
                f"got {options.batch_size}"
            )
        if options.output:
            self._open_folder()

    def _open_folder(self):
        folder = self.options.output
        own_network = folder / TRAINED
        if _read_command(folder / _RESULTS) == self._command:
            if own_network.exists():
                self._goes_on = True
                self.trained_network = str(own_network)
                training = files.read_table(folder / _HISTORY)
                self.history = [row for row in training if row["phase"] == "training"]
                print(f"[INFO] going on from {own_network}")
            return
        for name in (_RESULTS, TRAINED, DEFENDED, _HISTORY, _PICTURES):
            if (folder / name).exists() and not self.options.force:
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
        if folder is None or self._goes_on:
            return
        # Another run's networks go before they could seem to be this one's.
        (folder / TRAINED).unlink(missing_ok=True)
        (folder / DEFENDED).unlink(missing_ok=True)
        files.write_json(folder / _RESULTS, self._command)
        files.write_table(folder / _HISTORY, self.history)
        self._save(model, TRAINED)

    def _save(self, model, name):
        with files.replacing(self.options.output / name) as path:
            model.save(path)

    def show(self, what: str, loss: float, accuracy: float) -> None:
        """Print a loss and an accuracy in the tutorials' words, and keep them."""
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss on {what} is {loss}: training has diverged"
            )
        self.figures[what] = {"loss": loss, "accuracy": accuracy}
        print(f"[INFO] {what}:\n[INFO] loss: {loss:.4f}, acc: {accuracy:.4f}\n")

    def finish(self, model: keras.Model, test: Split) -> None:
        """Say what the defence is worth; save networks, results and pictures."""
        check_defence(model, test, self)
        settings = self._command["settings"]
        published = compare_with_published(settings, self.figures)
        folder = self.options.output
        if folder is None:
            return
        self._save(model, DEFENDED)
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
        seed_random_layers(self.model, self._seed)

    def on_epoch_begin(self, epoch, logs=None):
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss in epoch {epoch + 1} of {self._name} is {logs['loss']}: "
                "training has diverged"
            )
        seconds = time.perf_counter() - self._begun
        row = {"phase": self._name, "epoch": epoch + 1, "seconds": seconds}
        self._history.append(row | logs)


def _settings(options, data):
    """Return what decides a run's figures."""
    path = Path(sys.argv[0])
    settings = {"script": path.name}
    if path.name == "__main__.py":
        settings["script"] = path.parent.name
    for key, value in vars(options).items():
        if key not in _FREE:
            settings[f"--{key.replace('_', '-')}"] = value
    settings["--data"] = options.data or data.name
    if data.name == "mnist":  # its file, too
        settings["--data"] = "mnist"
    if "fine_tune_epochs" in options:
        settings["--epochs"] = options.epochs or data.epochs
        fine_tune_epochs = options.fine_tune_epochs or data.fine_tune_epochs
        settings["--fine-tune-epochs"] = fine_tune_epochs
    return settings


def _versions():
    names = ("tensorflow", "keras", "numpy")
    versions = {name: sys.modules[name].__version__ for name in names}
    return versions | {"python": platform.python_version()}


def _read_command(path):
    """Return the command whose results a file holds, or None."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return {key: results[key] for key in ("settings", "versions")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
