"""What the two scripts share: options, a quiet start, data, `[INFO]` lines."""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pyimagesearch import datasets

# What the tutorials set, and what 1,437 training digits need for the same story.
DEFAULTS = {"epochs": 20, "fine_tune_epochs": 10, "batch_size": 64}
DIGITS_DEFAULTS = {"epochs": 40, "fine_tune_epochs": 30, "batch_size": 64}

# Steps that TensorFlow runs at one call: the same results, and Keras's own work around
# a step is done once for all of them.
STEPS_PER_EXECUTION = 16
EVALUATION_BATCH_SIZE = 512


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parse_options(description: str, mixed: bool = False) -> argparse.Namespace:
    """Parse the command line, before TensorFlow is loaded.

    Options that depend on the data are None unless given; `load_data` sets them.

    Args:
        description: The script's docstring, for `--help`.
        mixed: Whether to offer the mixed script's own options.
    """
    parser = _Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add_number(flag, kind, low, high, default, what):
        name = flag.strip("-").replace("-", "_")
        shown = default
        if default is None:
            shown = f"{DEFAULTS[name]}, for digits {DIGITS_DEFAULTS[name]}"
        parser.add_argument(
            flag,
            type=_number(kind, low, high),
            default=default,
            metavar="N" if kind is int else "X",
            help=f"{what} (default: {shown})",
        )

    parser.add_argument(
        "--data",
        type=_data,
        help=f"{', '.join(datasets.NAMES)}, or an .npz file of x_train, y_train, x_test "
        "and y_test (default: mnist, or digits where MNIST cannot be had)",
    )
    add_number("--epochs", int, 1, math.inf, None, "epochs of training")
    add_number("--fine-tune-epochs", int, 1, math.inf, None, "epochs of fine-tuning")
    add_number("--batch-size", int, 1, math.inf, None, "images in a batch")
    add_number("--eps", float, 0, math.inf, 0.1, "attack's strength; pixels are 0 to 1")
    if mixed:
        add_number("--split", float, 0, 1, 0.5, "share of normal images in a batch")
    add_number("--seed", int, 0, 2**32 - 1, 0, "seed of all randomness")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    # A bar on a terminal, a line an epoch in a log file.
    options.verbose = 0 if options.quiet else 1 if sys.stdout.isatty() else 2
    return options


def _number(kind, low, high):
    def parse(text):
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and low <= number <= high):
            what = "an integer" if kind is int else "a finite number"
            raise argparse.ArgumentTypeError(
                f"takes {what} from {low:g} to {high:g}, got {text!r}"
            )
        return number

    return parse


def _data(text):
    if text not in datasets.NAMES and not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"takes {', '.join(datasets.NAMES)} or an .npz file, got {text!r}"
        )
    return text


def load_data(options: argparse.Namespace) -> datasets.Dataset:
    """Load the data that the options name, and set the options that depend on them.

    Without `--data` it is MNIST, or the digits where MNIST cannot be had.
    """
    name = options.data or "mnist"
    try:
        try:
            data = datasets.load(name)
        except ConnectionError as error:
            if options.data:
                raise
            print(f"[INFO] {error}; using scikit-learn's digits instead")
            name = "digits"
            data = datasets.load(name)
    except (ConnectionError, ValueError) as error:
        hint = "; name an .npz file or digits" * isinstance(error, ConnectionError)
        print(f"error: argument --data: {error}{hint}", file=sys.stderr)
        sys.exit(2)
    defaults = DIGITS_DEFAULTS if name == "digits" else DEFAULTS
    for option, value in defaults.items():
        if getattr(options, option) is None:
            setattr(options, option, value)
    return data


def report(model, images, labels) -> None:
    """Print loss and accuracy of a compiled model in the tutorials' words."""
    loss, accuracy = model.evaluate(
        images, labels, batch_size=EVALUATION_BATCH_SIZE, verbose=0
    )
    print(f"[INFO] loss: {loss:.4f}, acc: {accuracy:.4f}\n")


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up lines, or show them if that fails.

    They come from C++, some before it reads any setting, so stderr's file descriptor
    points elsewhere meanwhile.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()  # CUDA has something to say, too
        except Exception:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run(main: Callable[[], None]) -> None:
    """Run a script; Ctrl-C ends it with one line."""
    sys.stdout.reconfigure(line_buffering=True)  # so that log files grow line by line
    try:
        main()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
