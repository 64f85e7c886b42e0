"""Scripts where people run them: notebooks, pipes, closed streams, shared folders."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pyimagesearch.experiment import console, folder

ROOT = Path(__file__).parent.parent
FIRST, SECOND = "train_adversarial_defense.py", "train_mixed_adversarial_defense.py"
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
    short = ["--data", tiny_data, "--epochs", 1, "--fine-tune-epochs", 1]
    short += ["--output", tmp_path]
    status, text, error = run_path(FIRST, *short)
    assert status == 0, error
    assert "[INFO] in short: the network is right on" in text
    assert "\b" in text or "\r" in text  # a bar that moves
    status, text, error = run_path(FIRST, *short)
    assert status == 2 and "holds an earlier run's results.json" in error
    model = ["--model", tmp_path.with_suffix(".keras")]
    (tmp_path / "trained.keras").rename(model[1])
    status, text, error = run_path(FIRST, *short, *model, "--force")
    assert status == 0, error


def test_any_stdout_will_do(run_path, tmp_path):
    np.savez(tmp_path / "data.npz", x_train=np.zeros((3, 8, 8)))
    status, text, error = run_path(FIRST, "--data", tmp_path / "data.npz")
    assert text == "[INFO] loading MNIST dataset...\n"
    assert status == 2 and error.startswith(f"{FIRST}: error: --data: {tmp_path}")
    assert "y_train" in error and len(error.splitlines()) == 1
    assert run_path(FIRST, "--epochs", 0, "--quiet")[:2] == (2, "")


@pytest.mark.slow
@pytest.mark.parametrize("is_notebook", [False, True])
def test_keras_loads_what_it_may_need_only_in_a_notebook(is_notebook):
    code = (
        f"import sys; sys.modules |= {{'IPython': sys}} if {is_notebook} else {{}};"
        "from argparse import Namespace;"
        "from pyimagesearch.experiment.console import run_script;"
        "main = lambda _: print(*{'keras', 'matplotlib', 'sklearn'} & {*sys.modules});"
        "run_script(main, lambda _: Namespace(), '');"
        "import matplotlib.figure, sklearn.datasets"
    )
    finished = subprocess.run([sys.executable, "-c", code], **RUNNING)
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.split()) == (3 if is_notebook else 1)


def run_closed(closed, *command):
    """Run a command under a shell that has really closed some file descriptors."""
    command = ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, *command]
    return subprocess.run([str(word) for word in command], **RUNNING)


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed, tiny_data, tmp_path):
    short = ["--data", tiny_data, "--epochs", 1, "--fine-tune-epochs", 1]
    finished = run_closed(closed, FIRST, *short, "--output", tmp_path, "--quiet")
    assert finished.returncode == 0
    assert finished.stderr == ""
    told = finished.stdout.count("[INFO] loss: ")
    assert told == (8 if closed == "2>&-" else 0)
    assert len(json.loads((tmp_path / "results.json").read_text())["figures"]) == 8
    for name in folder.NETWORKS:
        assert keras.saving.load_model(tmp_path / name).count_params() > 0


def test_wrong_options_with_closed_streams():
    assert run_closed("2>&-", FIRST, "--epochs", 0).returncode == 2
    finished = run_closed("<&- >&-", FIRST, "--epochs", 0)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"{FIRST}: error: argument --epochs")
    assert run_closed(">&-", "-m", "pyimagesearch.robustness").returncode == 2


def stub(main):
    """Return a program with a main function, and something quick for TensorFlow."""
    return (
        "import argparse, sys, warnings; from types import SimpleNamespace as N;"
        "sys.modules['tensorflow'] = N(config=N(list_physical_devices=list));"
        "from pyimagesearch.experiment.console import run_script;"
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
    hint = "; the same command goes on after the last finished epoch"
    hint = "" if isinstance(error, FloatingPointError) else hint
    given = {"epochs": 1, "output": Path("run")}
    assert run_main(raising(error), **given) == (status, "", f"\n{says}{hint}\n")
    assert run_main(raising(error), epochs=1, output=None)[2] == f"\n{says}\n"


def test_error_of_our_own_keeps_its_traceback(run_main):
    with pytest.raises(ZeroDivisionError):
        run_main(lambda options: 1 / 0)


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
    finished = run_closed(">/dev/full", "-c", stub("print()"))
    assert finished.returncode == 1
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("cannot go on: [Errno 28]")


def start(*command):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        **RUNNING,
        # Jobs in the background ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def await_line(running, text):
    lines = iter(running.stdout.readline, "")
    assert any(text in line for line in lines), running.stderr.read()


@pytest.mark.slow
def test_one_run_holds_a_folder_until_it_ends_or_is_killed(tiny_data, tmp_path):
    command = [FIRST, "--data", tiny_data, "--output", tmp_path, "--epochs", 9999]
    model = tmp_path / "model.keras"
    zipfile.ZipFile(model, "w").close()
    with start(*command) as holder:
        await_line(holder, "Epoch 3/")
        held = {path: path.stat().st_ino for path in tmp_path.glob("*.keras")}
        for other in [
            command,
            [*command, "--force"],
            [SECOND, *command[1:], "--force"],
            ["-m", "pyimagesearch.robustness", model, "--output", tmp_path, "--force"],
        ]:
            with start(*other) as running:
                printed, error = running.communicate()
            assert (running.returncode, printed) == (2, "")
            (line,) = error.splitlines()
            assert f"--output {tmp_path} " in line
            assert "another run writes to it at the moment" in line
        assert held == {path: path.stat().st_ino for path in tmp_path.glob("*.keras")}
        await_line(holder, "Epoch ")  # it goes on
        holder.kill()
    with start(*command) as running:
        await_line(running, "[INFO] going on after epoch")
        await_line(running, "Epoch ")
        running.send_signal(signal.SIGINT)
        _, error = running.communicate()
    assert running.returncode == 130
    hint = "the same command goes on after the last finished epoch"
    assert error == f"\ninterrupted; {hint}\n"


def test_folder_is_free_again_whatever_ends_a_script(run_main, tmp_path):
    def main(options):
        folder.hold(tmp_path)
        with pytest.raises(ValueError, match="another run"):
            folder.hold(tmp_path)
        raise options.error

    for error in (KeyboardInterrupt(), OSError("full"), SystemExit(2)):
        assert run_main(main, error=error)[0] > 0


def test_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / ".lock").write_text("no database" * 99)
    with pytest.raises(ValueError, match=r"write to: .*database") as raised:
        folder.hold(tmp_path)
    assert str(tmp_path) in str(raised.value)
    folder.release()
