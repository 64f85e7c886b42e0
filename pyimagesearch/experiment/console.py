"""How a script starts, and how it ends."""

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


def fail(message: str) -> NoReturn:
    """End the script with a line on stderr and exit status 2, for wrong input."""
    script = Path(sys.argv[0])
    name = script.parent.name if script.name == "__main__.py" else script.name
    print(f"{name}: error: {message} (see --help)", file=sys.stderr)
    sys.exit(2)


def run_script(
    main: Callable[[Namespace], None], parse: Callable[[str], Namespace], text: str
) -> None:
    """Run a script: parse its options, whose help has a text, and load TensorFlow.

    Wrong input ends it with exit status 2 and one line on stderr; what stops a run,
    such as Ctrl-C, a full disk or a training that diverges, with 130 or 1 and one line.
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
    except FloatingPointError as error:
        print(f"\ncannot go on: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        is_expected = isinstance(error, OSError | MemoryError)
        if not is_expected and "ResourceExhausted" not in repr(error):
            raise
        print(f"\ncannot go on: {one_line(error)}{hint}", file=sys.stderr)
        sys.exit(1)
    finally:
        warnings.formatwarning = usual_format


def _import_tensorflow():
    """Import TensorFlow without its start-up lines, or show them if that fails.

    They come from C++, some before it reads any setting, so stderr's file descriptor
    points elsewhere meanwhile. Set TF_CPP_MIN_LOG_LEVEL to see them.
    """
    is_shown = "TF_CPP_MIN_LOG_LEVEL" in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
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
