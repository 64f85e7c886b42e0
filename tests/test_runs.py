"""The run folder: what it holds, and that a killed run goes on as if never killed."""

import contextlib
import csv
import errno
import importlib
import json
import re
import sys
import warnings
from argparse import Namespace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import build_classifier, under_policy

from pyimagesearch import experiment, plotting, runs
from pyimagesearch.simplecnn import SimpleCNN

pytestmark = pytest.mark.slow
FIRST, SECOND = "train_adversarial_defense", "train_mixed_adversarial_defense"
ROOT = Path(__file__).parent.parent
# Some of the ten saves of a run of three epochs without pictures: two an epoch, of
# state and history; two networks; history; results.
SAVES = (2, 3, 5, 7, 10)


class PowerLoss(BaseException):
    """Ends a run where nothing may tidy up after it."""


@pytest.fixture
def run_script(tiny_data, monkeypatch, capsys):
    """Return a function that runs a script in this process, by default fast."""

    def run(script, *options, pictures=False):
        if not pictures:
            monkeypatch.setattr(plotting, "save_pictures", lambda *_: None)
        monkeypatch.syspath_prepend(ROOT)
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
        epochs = ["--epochs", 2, "--fine-tune-epochs", 1]
        arguments = ["--data", tiny_data, *epochs, *options]
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        module, status = importlib.import_module(script), 0
        mixed = script == SECOND
        try:
            options = experiment.parse_options("a script", mixed)
            experiment.run_script(module.main, options)
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


def results(folder):
    return json.loads((folder / "results.json").read_text())


def history(folder):
    with (folder / "history.csv").open() as file:
        return [row | {"seconds": None} for row in csv.DictReader(file)]


@contextlib.contextmanager
def failing(monkeypatch, save, error, torn):
    """Let a run's n-th save end in an error: half-written, or before its rename."""
    replacing, count = runs.replacing, 0

    @contextlib.contextmanager
    def replacing_until_failure(path):
        nonlocal count
        count += 1
        if count == save and torn:
            path.with_name(f".partial-{path.name}").write_bytes(b"PK\3\4 torn")
            raise error
        with contextlib.ExitStack() as stack:
            yield stack.enter_context(replacing(path))
            if count == save:
                stack.pop_all()  # nothing is tidied up
                raise error

    with monkeypatch.context() as patch:
        patch.setattr(runs, "replacing", replacing_until_failure)
        yield


@pytest.mark.parametrize("script", [FIRST, SECOND])
def test_folder_of_a_finished_run(script, run_script, tmp_path):
    options = ["--seed", 3, "--quiet"]
    status, printed, _ = run_script(script, "--output", tmp_path / "run", *options)
    assert status == 0
    names = {"trained.keras", "defended.keras", "history.csv", "results.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    saved = results(tmp_path / "run")
    assert saved["settings"]["script"] == f"{script}.py"
    assert saved["settings"]["--seed"] == 3
    assert set(saved["versions"]) == {"python", "tensorflow", "keras", "numpy"}
    assert saved["seconds"]["run"] > saved["seconds"]["training"] > 0
    assert len(saved["figures"]) == 7
    for what, figures in saved["figures"].items():
        line = f"loss: {figures['loss']:.4f}, acc: {figures['accuracy']:.4f}"
        assert f"[INFO] {what}:\n[INFO] {line}\n" in printed
    rows = history(tmp_path / "run")
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("training", "1"),
        ("training", "2"),
        ("fine-tuning", "1"),
    ]
    assert all(float(row["accuracy"]) > 0 for row in rows)
    assert float(rows[1]["val_accuracy"]) == pytest.approx(
        saved["figures"]["normal testing images"]["accuracy"]
    )
    start = ["--model", tmp_path / "run" / "trained.keras"]
    _, from_saved, _ = run_script(script, *start, *options)
    assert "training network" not in from_saved
    told = from_saved.index("[INFO] normal testing images:\n")
    assert printed.endswith(from_saved[told:])


def test_finished_run_is_replaced_only_by_force(run_script, tmp_path):
    run_script(FIRST, "--output", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, _, error = run_script(FIRST, "--output", tmp_path, "--seed", 1)
    assert status == 2
    assert "holds an earlier run's results.json" in error and "--force" in error
    assert len(error.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    options = ["--output", tmp_path, "--seed", 1, "--force"]
    wrong = ["--model", tmp_path.parent / "wrong.keras"]
    network(classes=5).save(wrong[1])
    assert run_script(FIRST, *options, *wrong)[0] == 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run_script(FIRST, *options)[0] == 0
    assert results(tmp_path)["settings"]["--seed"] == 1


def test_somebody_elses_network_is_not_overwritten(run_script, tmp_path):
    (tmp_path / "trained.keras").write_text("precious")
    status, _, error = run_script(FIRST, "--output", tmp_path)
    assert status == 2
    assert "trained.keras" in error and len(error.splitlines()) == 1
    assert (tmp_path / "trained.keras").read_text() == "precious"


def test_run_killed_at_any_save_goes_on(run_script, tmp_path, monkeypatch):
    options = ["--recipe", "robust", "--epochs", 1, "--fine-tune-epochs", 2, "--output"]
    run_script(SECOND, *options, tmp_path / "whole")
    whole = results(tmp_path / "whole")
    for save in SAVES:
        folder = tmp_path / str(save)
        with (
            failing(monkeypatch, save, PowerLoss(), torn=save % 2 == 0),
            pytest.raises(PowerLoss),
        ):
            run_script(SECOND, *options, folder)
        status, _, error = run_script(SECOND, *options, folder)
        assert status == 0, error
        assert results(folder)["figures"] == whole["figures"]
        assert history(folder) == history(tmp_path / "whole")
        names = {path.name for path in (tmp_path / "whole").iterdir()}
        assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left"),
    ],
)
def test_interrupt_and_full_disk_are_one_line(
    error, status, says, run_script, tmp_path, monkeypatch
):
    options = ["--output", tmp_path, "--quiet"]
    with failing(monkeypatch, 3, error, torn=True):  # in the second epoch
        got, _, line = run_script(FIRST, *options)
    assert got == status
    assert says in line and "goes on after the last finished epoch" in line
    assert len(line.strip().splitlines()) == 1
    status, _, line = run_script(FIRST, *options, "--seed", 1, "--eps", 0.2)
    assert status == 2 and len(line.splitlines()) == 1
    assert "--seed 0, not 1" in line and "--eps 0.1, not 0.2" in line
    status, printed, _ = run_script(FIRST, *options)
    assert status == 0
    assert "[INFO] going on after epoch 1 of training\n" in printed


network = partial(build_classifier, (8, 8, 1))


def nan_network():
    model = network()
    model.set_weights([weights * np.nan for weights in model.get_weights()])
    return model


def nan_on_bright_images():
    image = keras.Input((8, 8, 1))
    hidden = keras.layers.Rescaling(1e30)(keras.layers.Rescaling(1e30)(image))
    hidden = keras.layers.Flatten()(hidden)
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(hidden))


def network_for_bytes():
    image = keras.Input((8, 8, 1), dtype="uint8")
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(hidden))


def fixed_batch():
    image = keras.Input((8, 8, 1))
    hidden = keras.ops.reshape(image, (1, 64))
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(hidden))


def no_batch():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, keras.ops.mean(image))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(network, classes=1), r"3 classes .*\(1,\)"),
        (partial(network, activation=None), "probabilities"),
        (build_classifier, r"\(8, 8, 1\), not \(None, 6, 6, 1\)"),
        (nan_network, "probabilities.* nan"),
        (nan_on_bright_images, "probabilities.* nan"),
        (network_for_bytes, "cannot be attacked: .*no gradient"),
        (fixed_batch, "images of shape"),
        (no_batch, "3 classes"),
        (partial(keras.layers.Dense, 3), "images of shape"),
    ],
)
def test_network_that_does_not_fit_is_one_line(build, message, run_script, tmp_path):
    keras.saving.save_model(build(), tmp_path / "model.keras")
    status, _, error = run_script(SECOND, "--model", tmp_path / "model.keras")
    assert status == 2 and len(error.splitlines()) == 1
    assert re.search(rf"model.keras .*{message}", error)


def test_training_that_diverges_is_one_line(run_script, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.optimizers, "Adam", partial(keras.optimizers.SGD, 1e30))
    status, _, error = run_script(SECOND, "--output", tmp_path)
    assert status == 1 and len(error.strip().splitlines()) == 1
    assert "the loss in epoch 1 of training is nan" in error
    assert not (tmp_path / "state.npz").exists()


def test_evaluation_that_gives_nan_is_refused():
    model = Namespace(evaluate=lambda *_, **__: (np.nan, 0.1))
    with pytest.raises(FloatingPointError, match="the loss on test images is nan"):
        experiment.report("test images", model, (), None)


def test_network_that_would_be_replaced_is_refused(run_script, tmp_path):
    path = tmp_path / "trained.keras"
    network().save(path)
    options = ["--model", path, "--output", tmp_path, "--force"]
    status, _, error = run_script(FIRST, *options)
    assert status == 2 and "--model" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_float16"])
def test_killed_run_of_any_precision_goes_on(policy, run_script, tmp_path, monkeypatch):
    under_policy(policy, SimpleCNN.build, 8, 8, 1, 3).save(tmp_path / "model.keras")
    options = ["--model", tmp_path / "model.keras", "--fine-tune-epochs", 2, "--output"]
    run_script(SECOND, *options, tmp_path / "whole")
    with failing(monkeypatch, 3, PowerLoss(), torn=True), pytest.raises(PowerLoss):
        run_script(SECOND, *options, tmp_path / "killed")
    status, printed, error = run_script(SECOND, *options, tmp_path / "killed")
    assert status == 0, error
    assert "going on after epoch 1 of fine-tuning" in printed
    figures = (results(tmp_path / name)["figures"] for name in ("whole", "killed"))
    assert next(figures) == next(figures)


def test_data_of_any_size_make_a_run(run_script, tmp_path):
    """One pixel of two channels, two classes, one test image."""
    path = tmp_path / "tiny.npz"
    images, labels = np.uint8([[[[0, 9]]], [[[99, 0]]], [[[7, 8]]]]), [0, 1, 1]
    arrays = {"x_train": images, "y_train": labels}
    np.savez(path, **arrays, x_test=images[:1], y_test=labels[:1])
    options = ["--data", path, "--batch-size", 2, "--output", tmp_path / "run"]
    for script, more in [(FIRST, "--honest"), (SECOND, "--recipe=robust")]:
        run = script, *options, more, "--force"
        status, _, error = run_script(*run, pictures=True)
        assert status == 0, error
    assert (tmp_path / "run" / "accuracy.png").stat().st_size > 0


def test_folder_of_odd_things_is_one_line(run_script, tmp_path):
    for name, options, expected in [
        ("state.npz", [], 2),
        ("state.npz", ["--force"], 1),
        ("accuracy.png", [], 2),
        ("results.json", [], 2),
        ("results.json", ["--force"], 1),
    ]:
        odd = tmp_path / "-".join([name, *options]) / name
        odd.mkdir(parents=True)
        status, _, error = run_script(FIRST, "--output", odd.parent, *options)
        assert status == expected, error
        assert name in error and len(error.strip().splitlines()) == 1


def test_torn_state_is_one_line_and_can_be_replaced(run_script, tmp_path):
    (tmp_path / "state.npz").write_bytes(b"PK\3\4 torn")
    status, _, error = run_script(FIRST, "--output", tmp_path)
    assert status == 2 and len(error.splitlines()) == 1
    assert "state.npz cannot be read" in error and "--force" in error
    assert run_script(FIRST, "--output", tmp_path, "--force")[0] == 0


def test_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    with runs.replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), runs.replacing(path) as temporary:
        temporary.write_text("seco")
        raise ZeroDivisionError
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
