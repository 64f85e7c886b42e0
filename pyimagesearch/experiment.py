"""What the two scripts share: options, a quiet start, data, `[INFO]` lines."""

import argparse
import math
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pyimagesearch import checks, datasets, runs

if TYPE_CHECKING:
    import keras

# Epochs of training and of fine-tuning: the tutorials', and those that 1,437 digits
# need to tell the same story.
EPOCHS, DIGITS_EPOCHS = (20, 10), (40, 30)
ATTACKS = ("fgsm", "rfgsm", "pgd")
RECIPES = {"tutorial": ("fgsm", 0.5), "robust": ("pgd", 0.0)}  # attack and split


def parse_options(description: str, mixed: bool = False) -> argparse.Namespace:
    """Parse a script's command line, before TensorFlow is loaded.

    Args:
        description: The script's docstring, for `--help`.
        mixed: Whether to offer the mixed script's own options, or else the first's.
    """
    parser = make_parser(description)
    parser.set_defaults(batch_size=64, eps=0.1)
    default = "(default: %(default)s)"
    training, tuning = (
        f"(default: {usual}; digits: {digits})"
        for usual, digits in zip(EPOCHS, DIGITS_EPOCHS, strict=True)
    )
    for flag, kind, what in [
        ("--epochs", int, f"epochs of training {training}"),
        ("--fine-tune-epochs", int, f"epochs of fine-tuning {tuning}"),
        ("--batch-size", int, f"images in a batch {default}"),
        ("--eps", float, f"strength of the attack, pixels 0 to 1 {default}"),
        ("--model", str, "start from this trained network, a .keras file"),
    ]:
        parser.add_argument(flag, type=kind, metavar="X", help=what)
    if mixed:
        what = "what adversaries in batches are made with (default: fgsm; robust: pgd)"
        parser.add_argument("--attack", choices=ATTACKS, help=what)
        what = "share of normal images in a batch (default: 0.5; robust: 0)"
        parser.add_argument("--split", type=float, metavar="X", help=what)
        what = (
            "how to fine-tune, and the defaults of the two above (default: %(default)s)"
        )
        parser.add_argument("--recipe", choices=RECIPES, default="tutorial", help=what)
    else:
        what = "fine-tune on adversaries of training images, not of the test images"
        parser.add_argument("--honest", action="store_true", help=what)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parse(parser)
    if options.model:
        check_model_file("--model", options.model)
    if options.output:
        make_folder(options.output)
        networks = [(options.output / name).resolve() for name in runs.NETWORKS]
        if options.model and Path(options.model).resolve() in networks:
            got = f"got {options.model!r}"
            fail(f"--model must not be a file that --output replaces, {got}")
        killed = (options.output / runs.STATE).exists()
        others = () if killed else (*runs.NETWORKS, runs.HISTORY, "accuracy.png")
        check_output(options, runs.RESULTS, *others)
    if mixed:
        attack, split = RECIPES[options.recipe]
        options.attack = options.attack or attack
        options.split = split if options.split is None else options.split
    # A bar on a terminal, a line an epoch in a log file.
    options.verbose = 0 if options.quiet else 1 if sys.stdout.isatty() else 2
    return options


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that every command takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.error = fail  # one line, without the usage
    what = f"{', '.join(datasets.NAMES)}, or an .npz file (default: mnist, or digits)"
    parser.add_argument("--data", metavar="X", help=what)
    what = "seed of all randomness (default: %(default)s)"
    parser.add_argument("--seed", type=int, metavar="X", default=0, help=what)
    what = "folder for results and pictures (default: none are written)"
    parser.add_argument("--output", type=Path, metavar="DIR", help=what)
    what = "replace an earlier run's results, or another run's state, in --output"
    parser.add_argument("--force", action="store_true", help=what)
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and check whatever options the parser has."""
    options = parser.parse_args()
    values = {key: value for key, value in vars(options).items() if value is not None}
    try:
        for name in ("epochs", "fine_tune_epochs", "batch_size", "images"):
            if name in values:
                checks.positive_integer(f"--{name.replace('_', '-')}", values[name])
        if isinstance(eps := values.get("eps", []), float):
            checks.number_in("--eps", eps, 0, 1)
        else:
            for value in eps:
                checks.number_in("--eps", value, low=0)
        checks.number_in("--split", values.get("split", 0), 0, 1)
        checks.number_in("--seed", options.seed, 0, 2**32 - 1)
    except ValueError as error:
        fail(str(error))
    named = (None, *datasets.NAMES)
    if options.data not in named and not os.path.isfile(options.data):  # noqa: PTH113
        names = ", ".join(datasets.NAMES)
        fail(f"--data must be {names} or an .npz file, got {options.data!r}")
    return options


def make_folder(folder: Path) -> None:
    """Make the output folder, or fail if it is not one to write to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        fail(f"--output must be a folder to write to: {error}")


def check_output(options: argparse.Namespace, *names: str) -> None:
    """Fail if one of these files in the output folder would be replaced unasked."""
    for name in names:
        if not options.force and (options.output / name).exists():
            how = "give another folder, or --force to replace it"
            fail(f"--output: {options.output} holds an earlier run's {name}; {how}")


def check_model_file(name: str, path: str) -> None:
    """Fail unless `path` is a file that may be a saved Keras model."""
    if not os.path.isfile(path):  # noqa: PTH113, Path raises where a name is too long
        fail(f"{name} must name a file, got {path!r}")
    try:
        is_zip = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        is_zip = False
    if not path.endswith(".keras") or not is_zip:
        fail(f"{name} must be a .keras file, got {path!r}")


def load_model(path: str, data: datasets.Split, to_train: bool = True) -> "keras.Model":
    """Load a saved classifier in Keras's safe mode, or fail if it does not fit.

    Args:
        path: A `.keras` file.
        data: Images and one-hot labels that it must take.
        to_train: Whether it must return probabilities, as the scripts' loss needs, and
            not logits, or a sigmoid's for two classes.
    """
    import keras

    from pyimagesearch.fgsm import example_output, generate_image_adversary
    from pyimagesearch.losses import are_probabilities

    image_shape, classes = data[0].shape[1:], data[1].shape[1]
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, zip and JSON raise a dozen kinds
        *_, reason = str(error).split("Exception encountered: ")  # Keras's root cause
        reason = checks.one_line(reason)
        fail(f"{path} cannot be loaded in safe mode: {reason}")
    try:
        output = example_output(model, image_shape)
    except (TypeError, ValueError):
        takes = getattr(model, "input_shape", None)
        fail(f"{path} must take images of shape {image_shape}, not {takes}")
    shape = output.shape[1:]
    one_for_two = not to_train and (shape, classes) == ((1,), 2)
    if shape != (classes,) and not one_for_two:
        fail(f"{path} must have {classes} classes as the data, got {shape}")
    if to_train and not are_probabilities(output):
        got = checks.shown(output[-1])
        fail(f"{path} must return probabilities, as a softmax does, got {got}")
    try:
        generate_image_adversary(model, data[0][:2], data[1][:2].argmax(axis=1))
    except Exception as error:  # the network's own layers run in there
        fail(f"{path} cannot be attacked: {checks.one_line(error)}")
    return model


def save_models(folder: Path, models: dict) -> None:
    """Save models by name as `.keras` files, for `--model` and the report."""
    for name, model in models.items():
        with runs.replacing(folder / f"{name}.keras") as path:
            model.save(path)


def fail(message: str) -> None:
    """End the script with a line on stderr and exit status 2, for wrong input."""
    print(f"{Path(sys.argv[0]).name}: error: {message} (see --help)", file=sys.stderr)
    sys.exit(2)


def load_data(options: argparse.Namespace) -> tuple[datasets.Split, datasets.Split]:
    """Load the data that the options name, and set the epochs that suit them.

    Without `--data` it is MNIST, or the digits where MNIST cannot be had.
    """
    name = options.data or "mnist"
    try:
        data = datasets.load(name)
    except (ConnectionError, ValueError) as error:
        if options.data:
            fail(f"--data: {error}")
        print(f"[INFO] {error}; using scikit-learn's digits instead")
        name = "digits"
        data = datasets.load(name)
    if options.data in datasets.NAMES[1:]:
        print(f"[INFO] using {options.data} instead of MNIST")
    options.data = name
    if "epochs" in options:
        epochs, fine_tune_epochs = DIGITS_EPOCHS if name == "digits" else EPOCHS
        options.epochs = options.epochs or epochs
        options.fine_tune_epochs = options.fine_tune_epochs or fine_tune_epochs
        if options.batch_size > len(data[0][0]):
            images = f"{len(data[0][0])} training images"
            fail(f"--batch-size must be at most the {images}, got {options.batch_size}")
    return data


def open_run(options: argparse.Namespace, *data: datasets.Split) -> runs.Run:
    """Return the run that the options ask for, which may be one that was killed."""
    try:
        run = runs.Run(options, data)
    except ValueError as error:
        how = "give its options, another folder, or --force to replace it"
        fail(f"--output: {error}; {how}")
    if run.history:
        last = run.history[-1]
        print(f"[INFO] going on after epoch {last['epoch']} of {last['phase']}")
    return run


def report(
    what: str, model: "keras.Model", data: datasets.Split, run: runs.Run
) -> float:
    """Print a compiled model's loss and accuracy in the tutorials' words.

    They are added to the run's figures, and the accuracy is returned.
    """
    loss, accuracy = model.evaluate(*data, batch_size=512, verbose=0)
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss on {what} is {loss}")
    run.figures[what] = {"loss": loss, "accuracy": accuracy}
    print(f"[INFO] {what}:")
    print(f"[INFO] loss: {loss:.4f}, acc: {accuracy:.4f}\n")
    return accuracy


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


def run_script(
    main: Callable[[argparse.Namespace], None], options: argparse.Namespace
) -> None:
    """Run a script; Ctrl-C and a full disk end it with one line."""
    # So that log files grow line by line, and take file names of any kind.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"[INFO] {message}\n"
    goes_on = "epochs" in options and options.output
    hint = "; the same command goes on after the last finished epoch" * bool(goes_on)
    try:
        main(options)
    except KeyboardInterrupt:
        print(f"\ninterrupted{hint}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        expected = OSError, MemoryError, FloatingPointError
        if not isinstance(error, expected) and "ResourceExhausted" not in repr(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is not yet written
        if not isinstance(error, BrokenPipeError):  # as when piped into `head`
            what = checks.one_line(error)
            print(f"\ncannot go on: {what}{hint}", file=sys.stderr)
        sys.exit(1)
