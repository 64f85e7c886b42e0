"""How a script starts, and how it ends."""

import io
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import NoReturn

from pyimagesearch.core.checks import one_line

_REPEAT = r"""
import sys
said = sys.stdin.buffer.read()
if not said.endswith(b"\0"):
    sys.stderr.buffer.write(said)
"""


def script_name() -> str:
    """Return the name of the running script, or of the package that is run."""
    script = Path(sys.argv[0])
    return script.parent.name if script.name == "__main__.py" else script.name


def fail(message: str) -> NoReturn:
    """End the script with a line on stderr and exit status 2, for wrong input."""
    print(f"{script_name()}: error: {message} (see --help)", file=sys.stderr)
    sys.exit(2)


def run_script(
    main: Callable[[Namespace], None], parse: Callable[[str], Namespace], text: str
) -> None:
    """Parse a script's options, whose help has a text, load TensorFlow, and run it.

    What stops a run, such as Ctrl-C or a full disk, ends it with 130 or 1 and a line.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        # So that log files grow line by line, and take file names of any kind.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    usual_format = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    hint = ""
    try:
        options = parse(text)
        if "epochs" in options and options.output:
            hint = "; the same command goes on from the last finished phase"
        _import_tensorflow()
        main(options)
    except KeyboardInterrupt:
        print(f"\ninterrupted{hint}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as when piped into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is not yet written
        sys.exit(1)
    except Exception as error:
        has_diverged = isinstance(error, FloatingPointError)
        is_expected = has_diverged or isinstance(error, OSError | MemoryError)
        if not is_expected and "ResourceExhausted" not in repr(error):
            raise
        hint = "" if has_diverged else hint  # it would diverge again
        print(f"\ncannot go on: {one_line(error)}{hint}", file=sys.stderr)
        sys.exit(1)
    finally:
        warnings.formatwarning = usual_format


def _import_tensorflow():
    """Import TensorFlow without its start-up lines, unless that fails.

    They come from C++, some before it reads any setting, so another process gets them.
    It repeats them if the last byte does not come, also where TensorFlow aborts.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    stderr = os.dup(2)
    command = [sys.executable, "-S", "-c", _REPEAT]
    # In a session of its own, Ctrl-C does not reach it.
    with Popen(command, stdin=PIPE, start_new_session=True) as repeater:
        os.dup2(repeater.stdin.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()  # CUDA has something to say, too
            os.write(2, b"\0")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
