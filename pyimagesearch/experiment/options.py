"""The options of the scripts and commands, checked before TensorFlow is loaded."""

import argparse
import contextlib
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from pyimagesearch.core.checks import is_live
from pyimagesearch.experiment.console import fail
from pyimagesearch.experiment.data import NAMES

TRAINED = "trained.keras"
DEFENDED = "defended.keras"


def parse_options(description: str) -> argparse.Namespace:
    """Parse the first script's options; the description is for `--help`."""
    parser = _script_parser(description)
    parser.add_argument(
        "--honest", action="store_true", help="fine-tune on no test images"
    )
    return parse_training(parser)


def parse_mixed_options(description: str) -> argparse.Namespace:
    """Parse the second script's options."""
    parser = _script_parser(description)
    share = number(float, 0, 1)
    parser.add_argument(
        "--split", type=share, default=0.5, help="share of normal images (default: 0.5)"
    )
    return parse_training(parser)


def _script_parser(description):
    count = number(int, 1)
    parser = make_parser(description)
    parser.add_argument(
        "--epochs", type=count, help="epochs of training (default: 20; digits: 40)"
    )
    parser.add_argument(
        "--fine-tune-epochs", type=count, help="likewise (default: 10; digits: 30)"
    )
    parser.add_argument("--batch-size", type=count, default=64, help="(default: 64)")
    parser.add_argument("--model", type=model_file, help="start from this network")
    return parser


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that every command takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.error = fail  # one line, without the usage
    kinds = f"{', '.join(NAMES)}, an .npz file, or for a report a folder"
    parser.add_argument("--data", type=data, help=f"{kinds} (default: mnist or digits)")
    seed = number(int, 0, 2**32 - 1)
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of all randomness (default: 0)"
    )
    parser.add_argument("--output", type=output_folder, help="folder for results")
    parser.add_argument(
        "--force", action="store_true", help="replace another run in --output"
    )
    return parser


def parse_training(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options of every training on images from 0 to 1, and parse them all."""
    eps = number(float, 0, 1)
    parser.add_argument(
        "--eps", type=eps, default=0.1, help="strength, pixels 0 to 1 (default: 0.1)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    # Bars on a terminal and in a notebook, or else a line an epoch.
    options.verbose = 1 if is_live() else 2
    if options.quiet:
        options.verbose = 0
    if options.output and options.model:
        replaced = [(options.output / name).resolve() for name in (TRAINED, DEFENDED)]
        if Path(options.model).resolve() in replaced:
            fail(f"--model must not be replaced by --output, got {options.model!r}")
    return options


def number(kind: type, low: float, high: float = math.inf) -> Callable:
    """Return a type of option: a number of a kind in a range."""
    wanted = f"at least {low:,}" if high == math.inf else f"from {low:,} to {high:,}"

    def parse(text):
        value = kind(text)
        require(low <= value <= high, wanted, text)
        return value

    parse.__name__ = kind.__name__  # which argparse shows for what is no number
    return parse


def data(text: str) -> str:
    """Return the value of an option that names data, a file, or a folder of them."""
    is_right = text in NAMES or (text != "" and Path(text).exists())
    require(is_right, f"{', '.join(NAMES)} or an .npz file", text)
    return text


def output_folder(text: str) -> Path:
    """Return the value of an option that is a folder, which is made."""
    require(text, "a folder", text)
    with contextlib.suppress(OSError):
        Path(text).mkdir(parents=True, exist_ok=True)
    is_writable = Path(text).is_dir() and os.access(text, os.W_OK)
    require(is_writable, "a folder to write to", text)
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
