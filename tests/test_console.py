"""Scripts where people run them: in notebooks, in pipes and on full disks."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from signal import SIGABRT

import numpy as np
import pytest
import tensorflow as tf

from pyimagesearch.experiment import console
from pyimagesearch.experiment.options import parse_options

ROOT = Path(__file__).parent.parent
FIRST = "train_adversarial_defense.py"
RUNNING = {
    "cwd": ROOT,
    "text": True,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    # Which would bring TensorFlow's start-up lines back.
    "env": {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
}


def test_bars_move_in_a_notebook_only_and_never_if_quiet(monkeypatch):
    monkeypatch.setattr(sys, "argv", [FIRST])
    assert parse_options("a script").verbose == 2
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert parse_options("a script").verbose == 1
    monkeypatch.setattr(sys, "argv", [FIRST, "--quiet"])
    assert parse_options("a script").verbose == 0


def test_any_stdout_will_do(tmp_path, monkeypatch, capsys):
    """As in a notebook, where `%run` runs the script."""
    path = tmp_path / "data.npz"
    np.savez(path, x_train=np.zeros((3, 8, 8)))
    monkeypatch.setattr(sys, "argv", [FIRST, "--data", str(path)])
    stream = io.StringIO()  # no file, no `reconfigure`, no terminal
    with contextlib.redirect_stdout(stream), pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / FIRST), run_name="__main__")
    assert stream.getvalue() == "[INFO] loading MNIST dataset...\n"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{FIRST}: error: --data: {path}") and "y_train" in line


# A script of a main function, an expression, and of a module in TensorFlow's place.
SCRIPT = """if True:
    import argparse, sys, types, warnings
    from pyimagesearch.experiment.console import run_script
    tensorflow = types.SimpleNamespace(list_physical_devices=list)
    sys.modules["tensorflow"] = types.SimpleNamespace(config=tensorflow)
    run_script(lambda options: MAIN, lambda text: argparse.Namespace(), "")
"""


def script(main):
    """Return the command that runs such a script."""
    return [sys.executable, "-c", SCRIPT.replace("MAIN", main)]


def end_of(error, capsys, **options):
    """Return the exit status and what is printed where a script meets an error."""

    def main(options):
        raise error

    with pytest.raises(SystemExit) as exit:
        console.run_script(main, lambda text: Namespace(**options), "a script")
    return exit.value.code, *capsys.readouterr()


OUT_OF_MEMORY = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
HINT = "; the same command goes on from the last finished phase"


@pytest.mark.parametrize(
    ("error", "status", "says", "hint"),
    [
        (KeyboardInterrupt(), 130, "interrupted", HINT),
        (OSError(28, "No space"), 1, "cannot go on: [Errno 28] No space", HINT),
        (OUT_OF_MEMORY, 1, "cannot go on: OOM when allocating", HINT),
        (FloatingPointError("it\ndiverged"), 1, "cannot go on: it diverged", ""),
    ],
)
def test_what_stops_a_script_is_one_line(error, status, says, hint, capsys):
    saved = end_of(error, capsys, epochs=1, output=Path("run"))
    assert saved == (status, "", f"\n{says}{hint}\n")
    unsaved = end_of(error, capsys, epochs=1, output=None)
    assert unsaved == (status, "", f"\n{says}\n")


def test_error_of_our_own_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError):
        end_of(ZeroDivisionError(), capsys)


def test_warning_is_a_line_on_stderr():
    *command, code = script("warnings.warn('mind it')")
    code += "    warnings.warn('outside')"
    finished = subprocess.run([*command, code], **RUNNING)
    assert finished.returncode == 0 and finished.stdout == ""
    first, second, *_ = finished.stderr.splitlines()
    assert first == "warning: mind it"
    assert "UserWarning: outside" in second


def test_reader_of_the_output_that_leaves_is_no_error():
    endless = script("[print(i) for i in range(10**6)]")
    with subprocess.Popen(endless, **RUNNING) as running:
        assert running.stdout.readline() == "0\n"
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1


def test_full_device_behind_stdout_is_one_line():
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run(script("print()"), **RUNNING | {"stdout": full})
    assert finished.returncode == 1
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("cannot go on: [Errno 28]")


@pytest.mark.parametrize("level", [None, "0"])
@pytest.mark.parametrize(
    ("ending", "status"),
    [("", 0), ("raise ImportError('no')", 1), ("os.abort()", -SIGABRT)],
)
def test_tensorflow_starts_quietly_unless_it_fails_or_its_lines_are_asked_for(
    ending, status, level, tmp_path
):
    """They come from C++, past Python's own stderr."""
    (tmp_path / "tensorflow.py").write_text(
        f"import os, types; os.write(2, b'said in C++\\n'); {ending}\n"
        "config = types.SimpleNamespace(list_physical_devices=list)"
    )
    environment = RUNNING["env"] | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    if level:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    *command, code = script("__import__('tensorflow')")
    code = code.replace('sys.modules["tensorflow"]', "unused")
    finished = subprocess.run([*command, code], **RUNNING | {"env": environment})
    assert finished.returncode == status
    assert ("said in C++" in finished.stderr) == (status != 0 or level == "0")
    if status == 1:
        assert finished.stderr.endswith("ImportError: no\n")
