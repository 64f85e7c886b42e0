"""The options of the scripts and of the report, checked before TensorFlow is loaded."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from pyimagesearch.experiment import folder
from pyimagesearch.experiment.console import fail, progress_bars
from pyimagesearch.experiment.data import NAMES

# Epochs of training and of fine-tuning: the tutorials', and those that 1,437 digits
# need to tell the same story.
EPOCHS, DIGITS_EPOCHS = (20, 10), (40, 30)
ATTACKS = ("fgsm", "rfgsm", "pgd")
RECIPES = {"tutorial": ("fgsm", 0.5), "robust": ("robust", 0.0)}  # attack and split


def parse_options(description: str, mixed: bool = False) -> argparse.Namespace:
    """Parse a script's command line.

    Args:
        description: The script's docstring, for `--help`.
        mixed: Whether to offer the mixed script's own options, or else the first's.
    """
    parser = make_parser(description)
    add = parser.add_argument
    training, tuning = (
        f"(default: {usual}; digits: {digits})"
        for usual, digits in zip(EPOCHS, DIGITS_EPOCHS, strict=True)
    )
    count = {"type": positive_integer, "metavar": "N"}
    add("--epochs", **count, help=f"epochs of training {training}")
    add("--fine-tune-epochs", **count, help=f"epochs of fine-tuning {tuning}")
    what = "images in a batch (default: %(default)s)"
    add("--batch-size", **count, default=64, help=what)
    what = "strength of the attack, pixels 0 to 1 (default: %(default)s)"
    add("--eps", type=number(0, 1), default=0.1, metavar="E", help=what)
    what = "start from this trained network, a .keras file"
    add("--model", type=model_file, metavar="FILE", help=what)
    if mixed:
        what = "how to fine-tune (default: %(default)s)"
        add("--recipe", choices=RECIPES, default="tutorial", help=what)
        what = "what makes adversaries in the tutorial recipe (default: fgsm)"
        add("--attack", choices=ATTACKS, help=what)
        what = "share of normal images in a batch (default: 0.5; robust: 0)"
        add("--split", type=number(0, 1), metavar="X", help=what)
    else:
        what = "fine-tune on adversaries of training images, not of the test images"
        add("--honest", action="store_true", help=what)
    add("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if mixed:
        attack, split = RECIPES[options.recipe]
        if options.attack and options.recipe == "robust":
            fail(f"--attack is for --recipe tutorial, got {options.attack} and robust")
        options.attack = options.attack or attack
        options.split = split if options.split is None else options.split
    options.verbose = progress_bars(options.quiet)
    if options.output:
        networks = [(options.output / name).resolve() for name in folder.NETWORKS]
        if options.model and Path(options.model).resolve() in networks:
            got = f"got {options.model!r}"
            fail(f"--model must not be a file that --output replaces, {got}")
        hold_output(options)
        killed = (options.output / folder.STATE).exists()
        others = (*folder.NETWORKS, folder.HISTORY, folder.ACCURACY)
        check_output(options, folder.RESULTS, *(() if killed else others))
    return options


def parse_mixed_options(description: str) -> argparse.Namespace:
    """Parse the command line of the script that fine-tunes on mixed batches."""
    return parse_options(description, mixed=True)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that every command takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.error = fail  # one line, without the usage
    add = parser.add_argument
    what = f"{', '.join(NAMES)}, or an .npz file (default: mnist, or digits)"
    add("--data", type=data, metavar="DATA", help=what)
    what = "seed of all randomness (default: %(default)s)"
    add("--seed", type=seed, metavar="N", default=0, help=what)
    what = "folder for results and pictures (default: none are written)"
    add("--output", type=output_folder, metavar="DIR", help=what)
    what = "replace an earlier run's results, or another run's state, in --output"
    add("--force", action="store_true", help=what)
    return parser


def hold_output(options: argparse.Namespace) -> None:
    """Make the output folder and hold it as long as the options exist, or fail."""
    try:
        options.lock = folder.hold(options.output)
    except ValueError as error:
        fail(f"--output {error}")


def check_output(options: argparse.Namespace, *names: str) -> None:
    """Fail if one of these files in the output folder would be replaced unasked."""
    for name in names:
        if not options.force and (options.output / name).exists():
            how = "give another folder, or --force to replace it"
            fail(f"--output: {options.output} holds an earlier run's {name}; {how}")


def number(low: float = 0.0, high: float = math.inf) -> Callable[[str], float]:
    """Return a type of option: a number in a range."""

    def number(text):
        if not low <= float(text) <= high:
            wanted = f"must be a number from {low:g} to {high:g}, got {text!r}"
            raise argparse.ArgumentTypeError(wanted)
        return float(text)

    return number


def positive_integer(text: str) -> int:
    """Return the value of an option that is an integer from 1 on."""
    return int(_among(text, text.isdecimal() and int(text) > 0, "a positive integer"))


def seed(text: str) -> int:
    """Return the value of an option that is a seed."""
    is_seed = text.isdecimal() and int(text) < 2**32
    return int(_among(text, is_seed, "an integer from 0 to 2**32 - 1"))


def data(text: str) -> str:
    """Return the value of an option that names data, or a file."""
    wanted = f"{', '.join(NAMES)} or an .npz file"
    return _among(text, text in NAMES or _is_file(text), wanted)


def output_folder(text: str) -> Path:
    """Return the value of an option that is a folder."""
    return Path(_among(text, text != "", "a folder"))


def model_file(text: str) -> str:
    """Return the value of an option that is a saved Keras model."""
    wanted = "a .keras file; save a model as one by model.save('model.keras')"
    if text.endswith((".h5", ".hdf5")):
        wanted += ", an old one after keras.saving.load_model(...)"
    elif Path(text, "saved_model.pb").exists():
        wanted += " where a SavedModel was made: Keras 3 cannot load it to convert it"
    return _among(text, text.endswith(".keras") and _is_file(text), wanted)


def _is_file(text):
    try:
        return Path(text).is_file()
    except OSError:  # too long for a name
        return False


def _among(text, is_right, wanted):
    if not is_right:
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
    return text
