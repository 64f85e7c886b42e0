"""Whole runs in this process: their folder, their figures, and how they go on."""

import contextlib
import csv
import errno
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import build_classifier

from pyimagesearch.experiment import console, ending, options
from pyimagesearch.experiment.data import load
from pyimagesearch.experiment.run import checksum
from pyimagesearch.simplecnn import SimpleCNN

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
FIRST, SECOND = "train_adversarial_defense", "train_mixed_adversarial_defense"
MNIST_NPZ = os.environ.get("MNIST_NPZ")
# Some of the ten saves of a run of three epochs without pictures: two an epoch, of
# state and history; two networks; history; results.
SAVES = (2, 5, 10)
NETWORKS = {"trained.keras", "defended.keras"}


class PowerLoss(BaseException):
    """Ends a run where nothing may tidy up after it."""


@pytest.fixture
def run_script(tiny_data, monkeypatch, capsys):
    """Return a function that runs a script in this process, by default a short run."""

    def run(script, *arguments, pictures=False):
        monkeypatch.syspath_prepend(ROOT)
        short = ["--data", tiny_data, "--epochs", 2, "--fine-tune-epochs", 1]
        argv = [f"{script}.py", *map(str, [*short, *arguments])]
        monkeypatch.setattr(sys, "argv", argv)
        module, status = importlib.import_module(script), 0
        mixed = script == SECOND
        parse = options.parse_mixed_options if mixed else options.parse_options
        with monkeypatch.context() as patch:
            if not pictures:
                patch.setitem(sys.modules, "matplotlib", None)  # not installed
            try:
                console.run_script(module.main, parse, module.__doc__)
            except SystemExit as exit:
                status = exit.code
        return status, *capsys.readouterr()

    return run


def one_line(error):
    (line,) = error.strip().splitlines()
    return line


def read_results(path):
    return json.loads((path / "results.json").read_text())


def history(path):
    with (path / "history.csv").open() as file:
        return [row | {"seconds": None} for row in csv.DictReader(file)]


def names(path):
    return {file.name for file in path.iterdir()} - {".lock"}


@contextlib.contextmanager
def failing(monkeypatch, save, error, torn):
    """Let a run's n-th save end in an error: half-written, or before its rename."""
    replace, count = Path.replace, 0

    def replace_until_failure(path, target):
        nonlocal count
        count += 1
        if count < save:
            return replace(path, target)
        if torn:
            path.write_bytes(b"PK\3\4 torn")
        if isinstance(error, PowerLoss):
            patch.setattr(Path, "unlink", lambda *_, **__: None)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_until_failure)
        yield
    assert count == save


def printed_figures(printed):
    return re.findall(r"\[INFO\] (.*):\n\[INFO\] loss: (\S+), acc: (\S+)", printed)


@pytest.mark.parametrize("script", [FIRST, SECOND])
def test_finished_run_and_the_same_in_another_process(script, run_script, tmp_path):
    path, more = tmp_path / "run", ["--seed", "3", "--quiet"]
    status, printed, _ = run_script(script, "--output", path, *more)
    assert status == 0
    assert "pip install matplotlib" in printed
    assert names(path) == NETWORKS | {"history.csv", "results.json"}
    saved = read_results(path)
    assert saved["settings"]["script"] == f"{script}.py"
    assert saved["settings"]["--seed"] == 3
    assert saved["versions"]["keras"] == keras.__version__
    assert saved["versions"]["floatx"] == saved["versions"]["dtype policy"] == "float32"
    assert saved["seconds"]["run"] > saved["seconds"]["training"] > 0
    assert saved["published"] == {}
    figures = printed_figures(printed)
    assert len(figures) == 8
    assert figures == [
        (what, f"{figures['loss']:.4f}", f"{figures['accuracy']:.4f}")
        for what, figures in saved["figures"].items()
    ]
    rows = history(path)
    epochs = [("training", "1"), ("training", "2"), ("fine-tuning", "1")]
    assert [(row["phase"], row["epoch"]) for row in rows] == epochs
    normal = saved["figures"]["normal testing images"]["accuracy"]
    assert float(rows[1]["val_accuracy"]) == pytest.approx(normal)

    command = [sys.executable, f"{script}.py", *sys.argv[1:], "--force"]
    if script == SECOND:  # from the trained network
        command += ["--model", path / "trained.keras", "--output", tmp_path / "again"]
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ("training network" in other.stdout) == (script == FIRST)
    assert printed_figures(other.stdout) == figures, other.stderr


def test_finished_run_is_replaced_only_by_force(run_script, tmp_path):
    path, start, wrong = (tmp_path / name for name in ("run", "start.keras", "w.keras"))
    path.mkdir()
    for name in (*NETWORKS, "history.csv", "results.json"):
        (path / name).write_text("precious")
    before = {file: file.read_bytes() for file in path.iterdir()}
    status, _, error = run_script(FIRST, "--output", path)
    assert status == 2
    assert "holds an earlier run's results.json" in one_line(error)
    assert "--force" in error
    build_classifier((8, 8, 1)).save(start)
    build_classifier((8, 8, 1), classes=5).save(wrong)
    more = ["--output", path, "--force", "--model"]
    assert run_script(FIRST, *more, wrong)[0] == 2
    assert {file: file.read_bytes() for file in before} == before
    assert run_script(FIRST, *more, start)[0] == 0
    assert read_results(path)["settings"]["--model"] == str(start)


@pytest.mark.parametrize("name", ["trained.keras", "history.csv", "accuracy.png"])
def test_somebody_elses_file_is_not_overwritten(name, run_script, tmp_path):
    (tmp_path / name).write_text("precious")
    status, _, error = run_script(FIRST, "--output", tmp_path)
    assert status == 2 and name in one_line(error)
    assert (tmp_path / name).read_text() == "precious"


def test_run_killed_at_any_save_goes_on(run_script, tmp_path, monkeypatch):
    more = ["--recipe", "robust", "--epochs", 1, "--fine-tune-epochs", 2, "--output"]
    whole = tmp_path / "whole"
    run_script(SECOND, *more, whole)
    for save in SAVES:
        path, error = tmp_path / str(save), PowerLoss()
        torn = failing(monkeypatch, save, error, torn=save % 2 == 0)
        with torn, pytest.raises(PowerLoss):
            run_script(SECOND, *more, path)
        status, _, error = run_script(SECOND, *more, path)
        assert status == 0, error
        assert read_results(path)["figures"] == read_results(whole)["figures"]
        assert history(path) == history(whole)
        assert names(path) == names(whole)


def test_full_disk_is_one_line_and_interrupted_run_goes_on_elsewhere(
    run_script, tmp_path, monkeypatch, tiny_data
):
    start, copy = tmp_path / "start.keras", tmp_path / "copy.keras"
    build_classifier((8, 8, 1)).save(start)
    shutil.copy(start, copy)
    shutil.copy(tiny_data, tmp_path / "copy.npz")
    more = ["--output", tmp_path / "run", "--fine-tune-epochs", 3, "--model"]
    full = OSError(errno.ENOSPC, "No space left on device")
    for error, status, says in [
        (full, 1, "No space left on device; the same command goes on after"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on after"),
    ]:
        with failing(monkeypatch, 3, error, torn=True):
            got, _, line = run_script(FIRST, *more, start)
        assert (got, says in one_line(line)) == (status, True)
        assert names(tmp_path / "run") == {"state.npz", "history.csv"}
    status, _, line = run_script(FIRST, *more, start, "--seed", 1, "--eps", 0.2)
    assert status == 2
    assert "--seed 0, not 1" in one_line(line) and "--eps 0.1, not 0.2" in line
    # Files count by what they hold.
    same = ["--data", tmp_path / "copy.npz", "--quiet"]
    status, printed, _ = run_script(FIRST, *more, copy, *same)
    assert status == 0
    assert "[INFO] going on after epoch 2 of fine-tuning\n" in printed
    assert read_results(tmp_path / "run")["settings"]["--model"] == str(copy)


@pytest.fixture
def set_formats():
    """Return a function that sets Keras's number formats, which are put back."""

    def set_formats(policy, floatx="float32"):
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)

    yield set_formats
    set_formats("float32")


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_float16"])
def test_killed_run_goes_on_in_its_own_number_formats_only(
    policy, run_script, tmp_path, monkeypatch, set_formats
):
    set_formats(policy)
    SimpleCNN.build(8, 8, 1, 3).save(tmp_path / "model.keras")
    more = ["--model", tmp_path / "model.keras", "--fine-tune-epochs", 2, "--output"]
    run_script(SECOND, *more, tmp_path / "whole")
    torn = failing(monkeypatch, 3, PowerLoss(), torn=True)
    with torn, pytest.raises(PowerLoss):
        run_script(SECOND, *more, tmp_path / "killed")
    for formats, says in [
        (["float32"], f"dtype policy {policy}, not float32"),
        ([policy, "float64"], "floatx float32, not float64"),
    ]:
        set_formats(*formats)
        status, _, error = run_script(SECOND, *more, tmp_path / "killed")
        assert status == 2 and says in one_line(error)
    set_formats(policy)
    status, printed, error = run_script(SECOND, *more, tmp_path / "killed")
    assert status == 0, error
    assert "going on after epoch 1 of fine-tuning" in printed
    whole, killed = (read_results(tmp_path / name) for name in ("whole", "killed"))
    assert whole["versions"]["dtype policy"] == policy
    assert killed["figures"] == whole["figures"]


PUBLISHED = {
    FIRST: ["0.0443 0.9892", "17.2824 0.0170", "0.0594 0.9844", "0.0366 0.9906"],
    SECOND: ["0.0477 0.9891", "14.0658 0.0188", "0.0315 0.9906", "0.1190 0.9641"],
}


@pytest.mark.parametrize("script", [FIRST, SECOND])
def test_published_figures_stand_beside_a_tutorials_run(
    script, run_script, tmp_path, monkeypatch, tiny_data
):
    monkeypatch.setattr(ending, "_MNIST", checksum(*load(tiny_data)))
    tutorial = ["--epochs", 20, "--fine-tune-epochs", 10, "--output", tmp_path]
    status, printed, _ = run_script(script, *tutorial)
    assert status == 0
    saved, own = read_results(tmp_path), printed_figures(printed)[:4]
    table = printed.partition("published")[2].splitlines()[1:5]
    for line, theirs, (what, *ours) in zip(table, PUBLISHED[script], own, strict=True):
        assert " ".join(line.split()) == " ".join(["[INFO]", what, theirs, *ours])
        loss, accuracy = map(float, theirs.split())
        assert saved["published"][what] == {"loss": loss, "accuracy": accuracy}


@pytest.mark.skipif(not MNIST_NPZ, reason="MNIST_NPZ names no file")
def test_tutorials_data_are_mnist():
    assert checksum(*load(MNIST_NPZ)) == ending._MNIST


network = partial(build_classifier, (8, 8, 1))


def nan_network():
    model = network()
    model.set_weights([weights * np.nan for weights in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(network, classes=1), r"3 classes .*\(1,\)"),
        (partial(network, activation=None), "probabilities"),
        (build_classifier, r"images of shape \(8, 8, 1\).*6, 6, 1\)"),
        (nan_network, "probabilities.* nan"),
        (partial(keras.layers.Dense, 3), "Keras model, got Dense"),
    ],
)
def test_network_that_does_not_fit_is_one_line(build, message, run_script, tmp_path):
    keras.saving.save_model(build(), tmp_path / "model.keras")
    status, _, error = run_script(SECOND, "--model", tmp_path / "model.keras")
    assert status == 2
    assert re.search(rf"model.keras\b.*{message}", one_line(error))


@pytest.mark.parametrize(
    ("script", "rate", "phase"), [(FIRST, 1e-3, "training"), (SECOND, 1e-4, "tuning")]
)
def test_training_that_diverges_is_one_line(
    script, rate, phase, run_script, tmp_path, monkeypatch
):
    def optimizer(learning_rate):
        return keras.optimizers.SGD(1e30 if learning_rate == rate else 1e-3)

    monkeypatch.setattr(keras.optimizers, "Adam", optimizer)
    status, _, error = run_script(script, "--output", tmp_path)
    assert status == 1
    assert "diverged" in one_line(error)
    assert (tmp_path / "state.npz").exists() == (phase == "tuning")


def test_network_that_would_be_replaced_is_refused(run_script, tmp_path):
    path = tmp_path / "trained.keras"
    network().save(path)
    more = ["--model", path, "--output", tmp_path, "--force"]
    status, _, error = run_script(FIRST, *more)
    assert status == 2 and "--model must not be replaced" in one_line(error)


@pytest.mark.parametrize(
    ("script", "more"), [(FIRST, ["201"]), (SECOND, ["200", "--recipe", "robust"])]
)
def test_batch_larger_than_the_data_is_one_line(script, more, run_script, tmp_path):
    network().save(tmp_path / "start.keras")
    start = ["--model", tmp_path / "start.keras"]
    status, _, error = run_script(script, *start, "--batch-size", *more)
    assert status == 2
    assert "--batch-size" in one_line(error) and more[0] in error


def test_data_of_any_size_make_a_run(run_script, tmp_path):
    """One pixel of two channels, two classes, one test image."""
    path = tmp_path / "tiny.npz"
    images, labels = np.uint8([[[[0, 9]]], [[[255, 0]]], [[[7, 8]]]]), [0, 1, 1]
    arrays = {"x_train": images, "y_train": labels}
    np.savez(path, **arrays, x_test=images[:1], y_test=labels[:1])
    more = ["--data", path, "--batch-size", 2, "--output", tmp_path / "run", "--force"]
    for script, option in [(FIRST, "--honest"), (SECOND, "--recipe=robust")]:
        status, printed, error = run_script(script, *more, option, pictures=True)
        assert status == 0, error
    assert "saved 5 pictures" in printed
    pictures = "adversaries_trained steps_trained adversaries_defended steps_defended"
    written = NETWORKS | {f"{name}.png" for name in ("accuracy", *pictures.split())}
    assert names(tmp_path / "run") == written | {"history.csv", "results.json"}
    assert all(file.stat().st_size > 0 for file in (tmp_path / "run").glob("[!.]*"))


def test_honest_fine_tuning_has_not_seen_the_test_images(digits_file, run_script):
    more = ["--data", "digits", "--model", digits_file, "--quiet"]
    more += ["--fine-tune-epochs", 8]
    (_, seen, _), (_, honest, _) = (
        run_script(FIRST, *more, *option) for option in ([], ["--honest"])
    )
    assert "has seen these test images" in seen
    assert "has seen these test images" not in honest
    seen, unseen = map(printed_figures, (seen, honest))
    assert unseen[:2] == seen[:2]
    assert float(unseen[3][2]) < float(seen[3][2])


def test_robust_recipe_from_a_saved_network_withstands_pgd(digits_file, run_script):
    more = ["--data", "digits", "--model", digits_file, "--quiet"]
    more += ["--fine-tune-epochs", 8, "--recipe"]
    tutorial, robust = (
        [float(accuracy) for *_, accuracy in printed_figures(printed)]
        for _, printed, _ in (
            run_script(SECOND, *more, recipe) for recipe in ("tutorial", "robust")
        )
    )
    assert robust[:2] == tutorial[:2]
    assert robust[6] > tutorial[6] + 0.1  # PGD
    assert robust[2] > 0.95


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [("state.npz", [], 2), (".lock", [], 2), ("results.json", ["--force"], 1)],
)
def test_folder_of_odd_things_is_one_line(name, more, expected, run_script, tmp_path):
    (tmp_path / name).mkdir()
    status, _, error = run_script(FIRST, "--output", tmp_path, *more)
    assert status == expected
    assert name in one_line(error) or "database" in error


def test_torn_state_is_one_line_and_can_be_replaced(run_script, tmp_path):
    network().save(tmp_path / "start.keras")
    more = ["--model", tmp_path / "start.keras", "--output", tmp_path]
    (tmp_path / "state.npz").write_bytes(b"PK\3\4 torn")
    status, _, error = run_script(FIRST, *more)
    assert status == 2
    assert "state.npz cannot be read" in one_line(error) and "--force" in error
    assert run_script(FIRST, *more, "--force")[0] == 0


def test_an_evaluation_that_gives_nan_is_refused():
    model = Namespace(evaluate=lambda *_, **__: (float("nan"), 0.1))
    with pytest.raises(FloatingPointError, match="loss on test images is nan"):
        ending.report("test images", model, (), None)
