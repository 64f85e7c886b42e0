"""How a script starts, what it prints, and how it ends."""

import io
import math
import os
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pyimagesearch.core.checks import one_line
from pyimagesearch.experiment import folder

if TYPE_CHECKING:
    import keras

    from pyimagesearch.experiment.data import Split
    from pyimagesearch.experiment.run import Run


def fail(message: str) -> NoReturn:
    """End the script with a line on stderr and exit status 2, for wrong input."""
    script = Path(sys.argv[0])
    name = script.parent.name if script.name == "__main__.py" else script.name
    print(f"{name}: error: {message} (see --help)", file=sys.stderr)
    sys.exit(2)


def report(what: str, model: "keras.Model", data: "Split", run: "Run") -> float:
    """Print a compiled model's loss and accuracy in the tutorials' words.

    They are added to the run's figures, and the accuracy is returned.
    """
    loss, accuracy = model.evaluate(*data, batch_size=512, verbose=0)
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss on {what} is {loss}: training has diverged")
    run.figures[what] = {"loss": loss, "accuracy": accuracy}
    print(f"[INFO] {what}:")
    print(f"[INFO] loss: {loss:.4f}, acc: {accuracy:.4f}\n")
    return accuracy


def _open_streams():
    """Lead closed standard streams to nowhere, or files would take their places."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        # So that log files grow line by line, and take file names of any kind.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")


def _import_tensorflow():
    """Import TensorFlow without its start-up lines, or show them if that fails.

    They come from C++, some before it reads any setting, so stderr's file descriptor
    points elsewhere meanwhile. Set TF_CPP_MIN_LOG_LEVEL to see them.
    """
    stderr, show = os.dup(2), "TF_CPP_MIN_LOG_LEVEL" in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as chatter:
        if not show:
            os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()  # CUDA has something to say, too
        except BaseException:
            chatter.seek(0)
            os.write(stderr, chatter.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run_script(
    main: Callable[[Namespace], None], parse: Callable[[str], Namespace], text: str
) -> None:
    """Run a script: parse its options, whose help has a text, and load TensorFlow.

    Wrong input ends it with exit status 2 and one line on stderr; what stops a run,
    such as Ctrl-C, a full disk or a training that diverges, with 130 or 1 and one line.
    """
    _open_streams()
    usual, hint = warnings.formatwarning, ""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        options = parse(text)
        if "epochs" in options and options.output:
            hint = "; the same command goes on after the last finished epoch"
        _import_tensorflow()
        main(options)
    except KeyboardInterrupt:
        print(f"\ninterrupted{hint}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as when piped into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is not yet written
        sys.exit(1)
    except FloatingPointError as error:
        print(f"\ncannot go on: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        expected = isinstance(error, OSError | MemoryError)
        if not expected and "ResourceExhausted" not in repr(error):
            raise
        print(f"\ncannot go on: {one_line(error)}{hint}", file=sys.stderr)
        sys.exit(1)
    finally:
        warnings.formatwarning = usual
        folder.release()
