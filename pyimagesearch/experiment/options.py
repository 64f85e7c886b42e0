"""The options of the scripts and of the report, checked before TensorFlow is loaded."""

import argparse
import contextlib
import functools
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

from pyimagesearch.core.checks import is_live
from pyimagesearch.experiment import folder
from pyimagesearch.experiment.console import fail
from pyimagesearch.experiment.data import NAMES

# Epochs of training and of fine-tuning: the tutorials', and those that 1,437 digits
# need to tell the same story.
EPOCHS, DIGITS_EPOCHS = (20, 10), (40, 30)
_RECIPES = {"tutorial": ("fgsm", 0.5), "robust": ("robust", 0.0)}  # attack and split


def parse_options(description: str, mixed: bool = False) -> argparse.Namespace:
    """Parse a script's options, with those that only the mixed script has or without.

    The description is the script's docstring, for `--help`.
    """
    parser = make_parser(description)
    add, default = parser.add_argument, "(default: %(default)s)"
    count, share = number(int, 1), number(float, 0, 1)
    add("--epochs", type=count, help="epochs of training (default: 20; digits: 40)")
    what = "epochs of fine-tuning (default: 10; digits: 30)"
    add("--fine-tune-epochs", type=count, help=what)
    add("--batch-size", type=count, default=64, help=f"images in a batch {default}")
    what = f"strength of the attack, pixels 0 to 1 {default}"
    add("--eps", type=share, default=0.1, help=what)
    what = "start from this trained .keras network"
    add("--model", type=model_file, metavar="FILE", help=what)
    if mixed:
        what = f"how to fine-tune {default}"
        add("--recipe", choices=_RECIPES, default="tutorial", help=what)
        what = "attack of the tutorial recipe (default: fgsm)"
        add("--attack", choices=("fgsm", "rfgsm", "pgd"), help=what)
        what = "share of normal images in a batch (default: 0.5; robust: 0)"
        add("--split", type=share, help=what)
    else:
        what = "fine-tune on adversaries of training images, not of the test images"
        add("--honest", action="store_true", help=what)
    add("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if mixed:
        attack, split = _RECIPES[options.recipe]
        if options.attack and options.recipe == "robust":
            fail(f"--attack is for --recipe tutorial, got {options.attack} and robust")
        options.attack = options.attack or attack
        options.split = split if options.split is None else options.split
    # Bars on a terminal and in a notebook, or else a line an epoch.
    options.verbose = 0 if options.quiet else 1 if is_live() else 2
    if options.output:
        replaced = [(options.output / name).resolve() for name in folder.NETWORKS]
        if options.model and Path(options.model).resolve() in replaced:
            fail(f"--model must not be replaced by --output, got {options.model!r}")
        others = *folder.NETWORKS, folder.HISTORY, folder.ACCURACY
        hold_output(options, folder.RESULTS, *others)
    return options


parse_mixed_options = functools.partial(parse_options, mixed=True)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that every command takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.error = fail  # one line, without the usage
    add = parser.add_argument
    what = f"{', '.join(NAMES)}, or an .npz file (default: mnist, or digits)"
    add("--data", type=data, help=what)
    what = "seed of all randomness (default: %(default)s)"
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help=what)
    what = "folder for results and pictures (default: none are written)"
    add("--output", type=output_folder, metavar="DIR", help=what)
    what = "replace an earlier run's results, or another run's state, in --output"
    add("--force", action="store_true", help=what)
    return parser


def hold_output(options: argparse.Namespace, *names: str) -> None:
    """Hold the output folder, or fail, also if one of these files is in it.

    Where a killed run has left its state, only the first of them counts.
    """
    try:
        folder.hold(options.output)
    except ValueError as error:
        fail(f"--output {error}")
    names = names[:1] if (options.output / folder.STATE).exists() else names
    for name in names:
        if not options.force and (options.output / name).exists():
            how = "give another folder, or --force to replace it"
            fail(f"--output: {options.output} holds an earlier run's {name}; {how}")


def number(kind: type, low: float, high: float = math.inf) -> Callable:
    """Return a type of option: a number of a kind in a range."""

    def parse(text):
        value = kind(text)
        wanted = (
            f"at least {low:,}" if high == math.inf else f"from {low:,} to {high:,}"
        )
        require(low <= value <= high, wanted, text)
        return value

    parse.__name__ = kind.__name__  # which argparse shows for what is no number
    return parse


def data(text: str) -> str:
    """Return the value of an option that names data, or a file."""
    is_right = text in NAMES or Path(text).is_file()
    require(is_right, f"{', '.join(NAMES)} or an .npz file", text)
    return text


def output_folder(text: str) -> Path:
    """Return the value of an option that is a folder."""
    require(text, "a folder", text)
    return Path(text)


def model_file(text: str) -> str:
    """Return the value of an option that is a saved Keras model."""
    wanted = "an existing .keras file, as Keras saves it"
    if text.endswith((".h5", ".hdf5")):
        wanted += "; convert one by keras.saving.load_model('m.h5').save('m.keras')"
    elif Path(text, "saved_model.pb").exists():
        wanted += "; Keras 3 loads no SavedModel: save it as .keras where it was made"
    is_saved = False
    with contextlib.suppress(zipfile.BadZipFile):  # some damaged files raise it
        is_saved = text.endswith(".keras") and zipfile.is_zipfile(text)
    require(is_saved, wanted, text)
    return text


def require(is_right: bool, wanted: str, text: str) -> None:
    """Raise the error of an option that must be what is wanted, unless it is right."""
    if not is_right:
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
