"""How a script starts, what it prints, and how it ends."""

import io
import os
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pyimagesearch.core.checks import one_line
from pyimagesearch.experiment import folder


def fail(message: str) -> NoReturn:
    """End the script with a line on stderr and exit status 2, for wrong input."""
    script = Path(sys.argv[0])
    name = script.parent.name if script.name == "__main__.py" else script.name
    print(f"{name}: error: {message} (see --help)", file=sys.stderr)
    sys.exit(2)


def _open_streams():
    """Lead closed standard streams to nowhere, or files would take their places."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # it is opened with the lowest free number: its
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        # So that log files grow line by line, and take file names of any kind.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")


def _import_tensorflow():
    """Import TensorFlow without its start-up lines, or show them if that fails.

    They come from C++, some before it reads any setting, so stderr's file descriptor
    points elsewhere meanwhile. Set TF_CPP_MIN_LOG_LEVEL to see them.
    """
    is_shown = "TF_CPP_MIN_LOG_LEVEL" in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Keras imports these if it finds them, which takes a second and 90 MB. No script
    # needs that; the user of a notebook may.
    unused = set() if "IPython" in sys.modules else {"matplotlib", "sklearn"}
    hidden = unused - sys.modules.keys()
    sys.modules.update(dict.fromkeys(hidden))
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(stderr if is_shown else chatter.fileno(), 2)
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
            for name in hidden:
                del sys.modules[name]


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
    except Exception as error:
        is_expected = isinstance(error, OSError | MemoryError | FloatingPointError)
        if not is_expected and "ResourceExhausted" not in repr(error):
            raise
        hint = "" if isinstance(error, FloatingPointError) else hint
        print(f"\ncannot go on: {one_line(error)}{hint}", file=sys.stderr)
        sys.exit(1)
    finally:
        warnings.formatwarning = usual
        folder.release()
