"""Scripts where people run them: in notebooks, in pipes and on full disks."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import build_classifier

from pyimagesearch.experiment import console

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


class OutStream:
    """A stdout like a notebook's: no file, no `reconfigure`, no terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.fixture
def run_path(monkeypatch, capsys):
    """Return a function that runs a script as `%run` does."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        status, stream = 0, OutStream()
        with contextlib.redirect_stdout(stream):
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as exit:
                status = exit.code
        return status, stream.text, capsys.readouterr().err

    return run


@pytest.mark.slow
def test_notebook_shows_bars_and_runs_twice_into_one_folder(
    run_path, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # quicker
    build_classifier((8, 8, 1)).save(tmp_path / "start.keras")
    short = ["--data", tiny_data, "--fine-tune-epochs", 1, "--output", tmp_path]
    short += ["--model", tmp_path / "start.keras"]
    status, text, error = run_path(FIRST, *short)
    assert status == 0, error
    assert "[INFO] in short: the network is right on" in text
    assert "\b" in text or "\r" in text  # a bar that moves
    status, text, error = run_path(FIRST, *short, "--quiet")
    assert status == 0, error
    assert "[INFO] going on from" in text
    assert "\b" not in text and "\r" not in text
    status, text, error = run_path(FIRST, *short, "--seed", 1)
    assert status == 2 and "holds another run's results.json" in error


def test_any_stdout_will_do(run_path, tmp_path):
    np.savez(tmp_path / "data.npz", x_train=np.zeros((3, 8, 8)))
    status, text, error = run_path(FIRST, "--data", tmp_path / "data.npz")
    assert text == "[INFO] loading MNIST dataset...\n"
    assert status == 2 and error.startswith(f"{FIRST}: error: --data: {tmp_path}")
    assert "y_train" in error and len(error.splitlines()) == 1
    assert run_path(FIRST, "--epochs", 0, "--quiet")[:2] == (2, "")


# Something quick for TensorFlow.
STUBBED = "sys.modules['tensorflow'] = N(config=N(list_physical_devices=list));"


def stub(main):
    """Return a program of a main function, an expression, without TensorFlow."""
    return (
        "import argparse, sys, time, warnings; from types import SimpleNamespace as N;"
        f"{STUBBED}from pyimagesearch.experiment.console import run_script;"
        f"run_script(lambda _: {main}, lambda _: argparse.Namespace(), '');"
    )


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Return a function that runs a main function of the test's own as a script."""

    def run(main, **given):
        status = 0
        try:
            console.run_script(main, lambda text: Namespace(**given), "a script")
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


OUT_OF_MEMORY = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")


def raising(error):
    def main(options):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left"), 1, "cannot go on: [Errno 28] No space left"),
        (MemoryError("too\nmuch"), 1, "cannot go on: too much"),
        (FloatingPointError("it diverged"), 1, "cannot go on: it diverged"),
        (OUT_OF_MEMORY, 1, "cannot go on: OOM when allocating"),
    ],
)
def test_what_stops_a_script_is_one_line(error, status, says, run_main):
    assert run_main(raising(error)) == (status, "", f"\n{says}\n")
    hint = "; the same command goes on from the last finished phase"
    hint = "" if isinstance(error, FloatingPointError) else hint
    given = {"epochs": 1, "output": Path("run")}
    assert run_main(raising(error), **given) == (status, "", f"\n{says}{hint}\n")
    assert run_main(raising(error), epochs=1, output=None)[2] == f"\n{says}\n"


def test_error_of_our_own_keeps_its_traceback(run_main):
    with pytest.raises(ZeroDivisionError):
        run_main(raising(ZeroDivisionError()))


def test_warning_is_a_line_on_stderr():
    code = stub("warnings.warn('mind it')") + "warnings.warn('outside')"
    finished = subprocess.run([sys.executable, "-c", code], **RUNNING)
    assert finished.returncode == 0 and finished.stdout == ""
    first, *others = finished.stderr.splitlines()
    assert first == "warning: mind it"
    assert "UserWarning: outside" in others[0]


def test_reader_of_the_output_that_leaves_is_no_error():
    code = stub("[print(i) for i in range(10**6)]")
    with subprocess.Popen([sys.executable, "-c", code], **RUNNING) as running:
        assert running.stdout.readline() == "0\n"
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1


def test_full_device_behind_stdout_is_one_line():
    code = stub("print()")
    with Path("/dev/full").open("w") as full:
        running = RUNNING | {"stdout": full}
        finished = subprocess.run([sys.executable, "-c", code], **running)
    assert finished.returncode == 1
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("cannot go on: [Errno 28]")


def test_interruption_of_a_process_is_one_line():
    code = stub("print('begun') or time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", code],
        **RUNNING,
        # Jobs in the background ignore Ctrl-C, and so would their children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stdout.readline() == "begun\n"
        running.send_signal(signal.SIGINT)
        assert running.stderr.read() == "\ninterrupted\n"
    assert running.returncode == 130


@pytest.mark.parametrize("level", [None, "0"])
def test_tensorflow_starts_quietly_unless_its_lines_are_asked_for(level, tmp_path):
    """They come from C++, past Python's own stderr."""
    (tmp_path / "tensorflow.py").write_text(
        "import os; os.write(2, b'chatter in C++\\n');"
        "from types import SimpleNamespace as N; config = N(list_physical_devices=list)"
    )
    main = "[__import__('tensorflow'), print(file=sys.stderr)]"
    code = stub(main).replace(STUBBED, "")
    environment = RUNNING["env"] | {"PYTHONPATH": str(tmp_path)}
    if level:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    running = RUNNING | {"env": environment}
    finished = subprocess.run([sys.executable, "-c", code], **running)
    assert finished.returncode == 0
    assert finished.stderr == ("chatter in C++\n\n" if level else "\n")
