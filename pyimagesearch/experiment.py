"""What the two scripts share: options, a quiet start, data with a stand-in."""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pyimagesearch import datasets

# Steps that `fit` hands to TensorFlow at once: the result is the same, and Keras's work
# around a step (callbacks, progress bar, metrics) is done once for all of them.
STEPS_PER_EXECUTION = 16
EVALUATION_BATCH_SIZE = 512
# What the tutorials set; and what 1,437 training digits need to tell the same story.
DEFAULTS = {"epochs": 20, "fine_tune_epochs": 10, "batch_size": 64}
DIGITS_DEFAULTS = {"epochs": 60, "fine_tune_epochs": 30, "batch_size": 64}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parse_options(description: str, mixed: bool = False) -> argparse.Namespace:
    """Parse the command line, without loading TensorFlow.

    Args:
        description: The script's docstring, for `--help`.
        mixed: Whether to offer the options of the mixed script.

    Returns:
        The options. `epochs`, `fine_tune_epochs` and `batch_size` are None where the
        user gave none: what is best depends on the data (`load_data`).
    """
    parser = _Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=_data_name,
        metavar="NAME|FILE",
        help=f"{', '.join(datasets.NAMES)}, or an .npz file with x_train, y_train, x_test "
        "and y_test (default: mnist, or digits where MNIST cannot be had)",
    )
    _add_count(parser, "--epochs", "epochs of training")
    _add_count(parser, "--fine-tune-epochs", "epochs of fine-tuning")
    _add_count(parser, "--batch-size", "images in a training batch")
    parser.add_argument(
        "--eps",
        type=_number(float, 0),
        default=0.1,
        help="strength of the attack, pixels being 0 to 1 (default: 0.1)",
    )
    if mixed:
        parser.add_argument(
            "--split",
            type=_number(float, 0, 1),
            default=0.5,
            help="share of normal images in a mixed batch, 0 to 1 (default: 0.5)",
        )
    parser.add_argument(
        "--seed",
        type=_number(int, 0, 2**32 - 1),
        default=0,
        help="seed of all randomness; one seed gives one result (default: 0)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    # A bar on a terminal, a line an epoch in a log file.
    options.verbose = 0 if options.quiet else 1 if sys.stdout.isatty() else 2
    return options


def _add_count(parser, flag, what):
    name = flag.strip("-").replace("-", "_")
    parser.add_argument(
        flag,
        type=_number(int, 1),
        metavar="N",
        help=f"{what} (default: {DEFAULTS[name]}, for digits {DIGITS_DEFAULTS[name]})",
    )


def _number(kind, low, high=math.inf):
    wanted = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
    wanted = f"{'an integer' if kind is int else 'a number'}, {wanted}"

    def parse(text):
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and low <= number <= high):
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return number

    return parse


def _data_name(text):
    if text not in datasets.NAMES and not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(datasets.NAMES)} or an .npz file, got {text!r}"
        )
    return text


def load_data(options: argparse.Namespace) -> datasets.Dataset:
    """Load the data, or the stand-in, and fill in the defaults that suit them.

    Args:
        options: What `parse_options` returned; its unset options are set.

    Returns:
        The data set: the digits, if no data were named and MNIST cannot be had.
    """
    name = options.data or "mnist"
    try:
        data = datasets.load(name)
    except ConnectionError as error:
        if options.data:
            sys.exit(
                f"error: --data {error}: connect to the network, or name a file (--data "
                "FILE.npz) or the digits that come with scikit-learn (--data digits)"
            )
        print(f"[INFO] {error}: running on scikit-learn's digits instead")
        name = "digits"
        data = datasets.load(name)
    except ValueError as error:
        print(f"error: --data {error}", file=sys.stderr)
        sys.exit(2)
    defaults = DIGITS_DEFAULTS if name == "digits" else DEFAULTS
    for option, value in defaults.items():
        if getattr(options, option) is None:
            setattr(options, option, value)
    return data


def report(model, images, labels) -> None:
    """Print loss and accuracy in the tutorials' words; `model` is compiled."""
    loss, accuracy = model.evaluate(
        images, labels, batch_size=EVALUATION_BATCH_SIZE, verbose=0
    )
    print(f"[INFO] loss: {loss:.4f}, acc: {accuracy:.4f}\n")


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up lines on stderr.

    They come from C++, partly before any setting is read, so stderr's file descriptor
    points elsewhere meanwhile; if the import fails, what it printed is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow

            # CUDA's complaints come with the first look at the devices.
            tensorflow.config.list_physical_devices()
        except Exception:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run(main: Callable[[], None]) -> None:
    """Call a script's `main`; Ctrl-C ends it with one line instead of a traceback."""
    sys.stdout.reconfigure(line_buffering=True)  # log files show progress, too
    try:
        main()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
